/** What can be done with the selected masks. */

import { cssOf } from "./colours.js";
import { byId, element, icon } from "./dom.js";

export class SelectionPanel {
  /**
   * @param {import("./scene.js").Scene} scene @param {import("./corrections.js").Corrections} corrections
   * @param {import("./tools.js").Tools} tools @param {() => void} onEditClasses
   */
  constructor(scene, corrections, tools, onEditClasses) {
    Object.assign(this, { scene, corrections, tools, onEditClasses });
    this.panel = byId("selection");
    scene.addEventListener("selection", () => this.draw());
    scene.addEventListener("tree", () => this.draw());
    scene.addEventListener("image", () => this.draw());
  }

  draw() {
    const focused = this.panel.contains(document.activeElement) ? document.activeElement.dataset.name : null;
    const { tree, selection } = this.scene;
    // Buttons stay the same objects as long as they say the same: one that is pressed when an edit is saved still acts.
    const key = JSON.stringify([tree === null, tree?.classNames, [...selection].map((id) => ({ ...tree.get(id), parent: null }))]);
    if (key === this.key && !this.panel.querySelector(".name-field")) return;
    this.key = key;
    if (!tree) this.panel.replaceChildren();
    else if (selection.size === 0) this.panel.replaceChildren(element("p", { class: "hint" }, ["Click on a mask in the image or in the list to correct it."]));
    else this.panel.replaceChildren(this.heading(), this.buttons(), this.classes());
    if (focused) this.panel.querySelector(`[data-name="${focused}"]`)?.focus();
  }

  heading() {
    const { tree, selection } = this.scene;
    const masks = [...selection].map((id) => tree.get(id));
    if (masks.length > 1) {
      return element("h3", {}, [`${masks.length} masks`, element("span", { class: "facts" }, [`${masks.reduce((sum, mask) => sum + mask.area, 0).toLocaleString("en")} pixels`])]);
    }
    const [mask] = masks;
    const swatch = element("span", { class: "swatch" });
    swatch.style.backgroundColor = cssOf(mask.id);
    const name = element("button", { type: "button", class: "name quiet", title: "Rename (N)", data: { name: "name" }, on: { click: () => this.rename() } }, [tree.label(tree.indices.get(mask.id)), icon("rename"), element("span", { class: "visually-hidden" }, ["Rename"])]);
    const level = mask.name || mask.class ? `${mask.level} · ` : ""; // else it is in the label
    const facts = `${level}${mask.area.toLocaleString("en")} px · score ${mask.score.toFixed(2)} · granularity ${mask.granularity.toFixed(2)}${mask.status ? ` · ${mask.status}` : ""}`;
    return element("h3", {}, [swatch, name, element("span", { class: "facts" }, [facts])]);
  }

  buttons() {
    const { scene, corrections } = this;
    const { tree, selection } = scene;
    const one = selection.size === 1;
    const statuses = new Set([...selection].map((id) => tree.get(id).status));
    const has = (status) => statuses.size === 1 && statuses.has(status);
    const make = (name, label, key, run, isEnabled = true, isPressed = null) => {
      const button = element("button", { type: "button", class: `action ${name}`, title: key ? `${label} (${key})` : label, data: { name }, disabled: !isEnabled, on: { click: run } }, [icon(name), element("span", {}, [label])]);
      if (isPressed !== null) button.setAttribute("aria-pressed", String(isPressed));
      return button;
    };
    return element("div", { class: "actions" }, [
      make("accept", "Accept", "A", () => corrections.setStatus("accepted"), true, has("accepted")),
      make("reject", "Reject", "R", () => corrections.setStatus("rejected"), true, has("rejected")),
      make("merge", "Merge", "M", () => corrections.merge(), !one),
      make("split", "Split", "S", () => corrections.split(), one),
      make("line", "By line", "L", () => this.tools.set("line"), one),
      make("add", "Add", "P", () => this.tools.set("add"), one),
      make("erase", "Erase", "E", () => this.tools.set("erase"), one),
      make("delete", "Delete", "Del", () => corrections.delete()),
    ]);
  }

  classes() {
    const { tree, selection } = this.scene;
    const current = new Set([...selection].map((id) => tree.get(id).class ?? null));
    const chips = tree.classNames.map((name, k) => {
      const isCurrent = current.size === 1 && current.has(name);
      return element("button", { type: "button", class: "chip", data: { name: `class ${name}` }, "aria-pressed": String(isCurrent), on: { click: () => this.corrections.setClass(isCurrent ? null : name) } },
        [...(k < 9 ? [element("kbd", {}, [String(k + 1)])] : []), element("span", { class: "chip-name", title: name }, [name])]);
    });
    const edit = element("button", { type: "button", class: "chip edit", data: { name: "classes" }, on: { click: this.onEditClasses } }, [icon("classes"), tree.classNames.length ? "Edit classes" : "Add classes"]);
    return element("div", { class: "chips", role: "group", "aria-label": "Class" }, [...chips, edit]);
  }

  /** Puts a text field in the place of the name. */
  rename() {
    const id = this.scene.lastSelected;
    if (id === null || this.scene.selection.size !== 1) return;
    const mask = this.scene.tree.get(id);
    const field = element("input", { type: "text", class: "name-field", value: mask.name ?? "", maxLength: 200, "aria-label": "Name of the mask", placeholder: "Name" });
    const end = (isKept) => {
      if (isKept && field.value.trim() !== (mask.name ?? "")) this.corrections.rename(id, field.value.trim());
      else this.draw();
    };
    let isDone = false;
    const once = (isKept) => {
      if (isDone) return;
      isDone = true;
      end(isKept);
      byId("area").focus({ preventScroll: true });
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter") once(true);
      if (event.key === "Escape") once(false);
      event.stopPropagation();
    });
    field.addEventListener("blur", () => once(true));
    this.panel.querySelector("h3 .name").replaceWith(field);
    field.focus();
    field.select();
  }
}
