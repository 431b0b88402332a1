/** Dialog for the list of classes: one name a line, the first nine are on the keys 1 to 9. */

import { byId, element } from "./dom.js";

const MAX = 100;

export class ClassList {
  /** @param {import("./scene.js").Scene} scene @param {import("./corrections.js").Corrections} corrections */
  constructor(scene, corrections) {
    Object.assign(this, { scene, corrections });
    this.dialog = byId("classes");
  }

  open() {
    if (!this.scene.tree) return;
    const field = element("textarea", { id: "class-names", rows: 9, value: this.scene.tree.classNames.join("\n"), spellcheck: false });
    const form = element("form", { method: "dialog", on: { submit: () => this.save(field.value) } }, [
      element("h2", { id: "classes-title" }, ["Classes"]),
      element("label", { class: "field", for: "class-names" }, ["One name a line; the first nine are on the keys 1 to 9", field]),
      element("div", { class: "dialog-buttons" }, [
        element("button", { type: "button", class: "quiet bordered", on: { click: () => this.dialog.close() } }, ["Cancel"]),
        element("button", { type: "submit", class: "primary" }, ["Save"]),
      ]),
    ]);
    this.dialog.replaceChildren(form);
    this.dialog.showModal();
    field.focus();
  }

  save(text) {
    const names = [...new Set(text.split("\n").map((name) => name.trim()).filter(Boolean))].slice(0, MAX);
    if (names.join("\n") !== this.scene.tree.classNames.join("\n")) this.corrections.setClasses(names);
  }
}
