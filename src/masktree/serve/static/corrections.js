/** The edits that people make to the selected masks. */

import { announce } from "./announce.js";

const plural = (count, done) => `${count === 1 ? "Mask" : `${count} masks`} ${done}.`;

export class Corrections {
  /** @param {import("./scene.js").Scene} scene @param {import("./edits.js").Edits} edits */
  constructor(scene, edits) {
    Object.assign(this, { scene, edits });
  }

  /** The selected ids; says so if there are none, or not the right number. */
  ids(least = 1, most = Infinity) {
    const ids = [...this.scene.selection];
    if (ids.length >= least && ids.length <= most) return ids;
    if (least > 1) announce("Select at least two masks first (Shift or Ctrl and click).", "error");
    else announce(most === 1 ? "Select one mask first." : "Select a mask first.", "error");
    return null;
  }

  /** Accepts or rejects; the same once more takes it back. @param {"accepted" | "rejected"} status */
  setStatus(status) {
    const ids = this.ids();
    if (!ids) return undefined;
    const isReset = ids.every((id) => this.scene.tree.get(id).status === status);
    const op = isReset ? "reset" : status === "accepted" ? "accept" : "reject";
    return this.edits.apply({ op, ids }, plural(ids.length, isReset ? "neither accepted nor rejected" : status));
  }

  merge() {
    const ids = this.ids(2);
    return ids && this.edits.apply({ op: "merge", ids }, `${ids.length} masks merged.`);
  }

  split() {
    const ids = this.ids(1, 1);
    return ids && this.edits.apply({ op: "split", id: ids[0], by: "dendrogram" }, "Mask split.");
  }

  delete() {
    const ids = this.ids();
    return ids && this.edits.apply({ op: "delete", ids }, plural(ids.length, "deleted"));
  }

  rename(id, name) {
    return this.edits.apply({ op: "rename", id, name }, name ? `Mask renamed to ${name}.` : "Name removed.");
  }

  /** @param {string | null} name */
  setClass(name) {
    const ids = this.ids();
    return ids && this.edits.apply({ op: "class", ids, class: name }, name === null ? "Class removed." : plural(ids.length, `labelled ${name}`));
  }

  /** The class on a number key; the same once more takes it away. @param {number} number 1 to 9 */
  setClassNumber(number) {
    const name = this.scene.tree?.classNames[number - 1];
    if (name === undefined) return announce(`There is no class ${number} yet: K edits the list.`, "error");
    const isSame = [...this.scene.selection].every((id) => this.scene.tree.get(id).class === name);
    return this.setClass(isSame && this.scene.selection.size ? null : name);
  }

  setClasses(names) {
    return this.edits.apply({ op: "classes", names }, "Classes saved.");
  }

  undo() {
    // Edits that wait to be sent can be undone too: the server gets them in their order.
    if (this.scene.tree?.canUndo || this.edits.queue.length) this.edits.apply({ op: "undo" }, "Undone.");
    else announce("Nothing to undo.");
  }

  redo() {
    if (this.scene.tree?.canRedo || this.edits.queue.length) this.edits.apply({ op: "redo" }, "Redone.");
    else announce("Nothing to redo.");
  }
}
