/** The bar under the image while a tool is in hand: what to do, and the buttons of a click prompt. */

import { byId, element, icon } from "./dom.js";

export class ToolBar {
  /** @param {import("./tools.js").Tools} tools @param {import("./prompt.js").Prompt} prompt */
  constructor(tools, prompt) {
    Object.assign(this, { tools, prompt });
    this.bar = byId("tool-bar");
    tools.addEventListener("change", () => this.build());
    prompt.addEventListener("change", () => this.update());
    this.build();
  }

  build() {
    const { tools, prompt } = this;
    const isPrompt = tools.current === "point" || tools.current === "box";
    this.bar.hidden = tools.current === "look";
    const done = element("button", { type: "button", class: "quiet", on: { click: () => tools.set("look") } }, ["Done"]);
    this.hint = element("span", { class: "hint" }, [tools.hint]);
    this.bar.replaceChildren(this.hint, ...(isPrompt ? this.promptControls() : []), done);
    if (isPrompt) this.update();
    return prompt;
  }

  promptControls() {
    const { tools, prompt } = this;
    this.negative = element("button", { type: "button", class: "quiet bordered", "aria-pressed": String(tools.isNegative), title: "Next clicks take away",
      on: { click: () => { tools.isNegative = !tools.isNegative; this.update(); } } }, [icon("minus"), "Take away"]);
    this.granularity = element("input", { type: "range", min: 0, max: 1, step: 0.02, id: "prompt-granularity", class: "prompt-granularity", "aria-label": "Granularity of the new mask", title: "Granularity: fine to coarse", value: prompt.granularity ?? 0.5,
      on: { input: (event) => { prompt.setGranularity(Number(event.target.value)); this.update(); } } });
    this.best = element("input", { type: "checkbox", checked: prompt.granularity === null,
      on: { change: (event) => { prompt.setGranularity(event.target.checked ? null : Number(this.granularity.value)); this.update(); } } });
    this.next = element("button", { type: "button", class: "quiet bordered", title: "Next answer (.)", on: { click: () => prompt.next() } }, ["Answer"]);
    this.accept = element("button", { type: "button", class: "primary", id: "prompt-accept", title: "Accept (Enter)", on: { click: () => prompt.accept() } }, [icon("accept"), "Accept"]);
    this.drop = element("button", { type: "button", class: "quiet bordered", id: "prompt-drop", title: "Drop (Esc)", on: { click: () => prompt.clear() } }, [icon("close"), "Drop"]);
    return [
      this.negative,
      element("label", { class: "check", title: "Let the server choose the size" }, [this.best, element("span", {}, ["Best size"])]),
      this.granularity,
      this.next,
      this.accept,
      this.drop,
    ];
  }

  update() {
    if (!this.accept?.isConnected) return;
    const { candidates, place, candidate, isEmpty } = this.prompt;
    this.negative.setAttribute("aria-pressed", String(this.tools.isNegative));
    this.best.checked = this.prompt.granularity === null;
    this.accept.disabled = candidate === null;
    this.drop.disabled = isEmpty;
    this.next.hidden = candidates.length < 2;
    this.next.textContent = `${place + 1} of ${candidates.length}`;
    this.hint.textContent = candidate ? `${candidate.area.toLocaleString("en")} pixels` : this.tools.hint;
  }
}
