/**
 * Sends each edit at once, one after the other. While the server does not answer, edits wait in a queue; nothing is lost
 * in silence.
 */

import { ApiError, ConnectionLost, requestJson } from "./api.js";
import { announce, notice } from "./announce.js";

const RETRY_SECONDS = [1, 2, 4, 5];
const MAX_SELECTED = 50; // new masks; more come from undoing something large
const BUSY = new Set([429, 502, 503, 504]);

/** @typedef {{image: string, edit: object, message: string, tries: number, version?: number, done: (applied: boolean) => void}} Waiting */

/** Events: "state". */
export class Edits extends EventTarget {
  /** @param {import("./scene.js").Scene} scene */
  constructor(scene) {
    super();
    this.scene = scene;
    /** @type {Waiting[]} */
    this.queue = [];
    this.versions = new Map();
    this.isSending = false;
    this.isLost = false;
    scene.addEventListener("tree", () => {
      this.versions.set(scene.image.id, scene.tree.version);
      this.dispatchEvent(new Event("state"));
    });
    window.addEventListener("beforeunload", (event) => {
      if (this.queue.length) event.preventDefault(); // edits that wait would be lost
    });
    window.addEventListener("online", () => this.flush());
  }

  /**
   * @param {object} edit as the server takes it
   * @param {string} message what to say once it is saved
   * @returns {Promise<boolean>} false if the server refused it
   */
  apply(edit, message) {
    if (!this.scene.tree) return Promise.resolve(false);
    foretell(this.scene, edit);
    return new Promise((done) => {
      this.queue.push({ image: this.scene.image.id, edit, message, tries: 0, done });
      this.flush();
    });
  }

  async flush() {
    if (this.isSending) return;
    this.isSending = true;
    clearTimeout(this.timer);
    this.dispatchEvent(new Event("state"));
    try {
      while (this.queue.length) if (!(await this.sendFirst())) break;
    } finally {
      this.isSending = false;
      this.dispatchEvent(new Event("state"));
    }
  }

  /** @returns {Promise<boolean>} false if the queue has to wait */
  async sendFirst() {
    const item = this.queue[0];
    item.version = this.versions.get(item.image);
    item.tries++;
    let answer;
    try {
      answer = await requestJson("POST", `/api/images/${item.image}/edits`, { version: item.version, edit: item.edit });
    } catch (error) {
      return this.failed(item, error);
    }
    this.setLost(null);
    this.finish(item, true);
    await this.take(item, answer);
    announce(item.message);
    return true;
  }

  finish(item, applied) {
    this.queue.shift();
    item.done(applied);
    this.dispatchEvent(new Event("state"));
  }

  /** Shows what an edit has changed. */
  async take({ image, version }, changes) {
    this.versions.set(image, changes.version);
    const { scene } = this;
    const before = scene.tree;
    if (scene.image?.id !== image || !before) return;
    if (before.version !== version) await this.reread(image);
    else await scene.takeChanges(changes);
    if (scene.image?.id !== image) return;
    for (const other of this.queue) if (other.image === image) foretell(scene, other.edit);
    this.selectNew(before);
    if (changes.map && scene.display.mode === "regions") scene.setDisplay({ mode: "masks" });
  }

  /** Selects new masks: of those that were divided with their parent, the parent alone. */
  selectNew(before) {
    const isNew = (id) => !before.has(id);
    const added = this.scene.tree.masks.filter((mask) => isNew(mask.id) && !(mask.parent !== null && isNew(mask.parent)));
    if (added.length && added.length <= MAX_SELECTED) this.scene.select(added.map((mask) => mask.id));
  }

  async failed(item, error) {
    if (error instanceof ConnectionLost || (error instanceof ApiError && BUSY.has(error.status))) {
      this.setLost(error.message);
      this.timer = setTimeout(() => this.flush(), 1000 * RETRY_SECONDS[Math.min(item.tries, RETRY_SECONDS.length) - 1]);
      return false;
    }
    if (error instanceof ApiError && error.status === 403) {
      this.setLost(`${error.message} Open the address that masktree serve prints in another tab; this page then goes on.`);
      this.timer = setTimeout(() => this.flush(), 3000);
      return false;
    }
    if (!(error instanceof ApiError)) throw error;
    this.setLost(null);
    if (error.status === 409) return this.reload(item, error);
    this.finish(item, false);
    announce(error.message, "error");
    await this.reread(item.image); // what was shown before the answer is taken back
    return true;
  }

  /** Someone else has edited the tree, or an edit was saved and its answer lost. */
  async reload(item, error) {
    const tree = await this.reread(item.image);
    if (tree.version === item.version) {
      this.finish(item, false); // refused for another reason, as while masks are being made
      announce(error.message, "error");
      return true;
    }
    const wasSaved = item.tries > 1 && tree.version === item.version + 1;
    this.finish(item, wasSaved);
    if (wasSaved) {
      announce(item.message);
      return true;
    }
    const others = this.queue.splice(0);
    for (const other of others) other.done(false);
    const count = others.length + 1;
    announce(
      `The masks were changed elsewhere and are loaded again. ${count === 1 ? "Your last edit was" : `Your last ${count} edits were`} not applied.`,
      "error",
    );
    return true;
  }

  async reread(image) {
    const tree = await requestJson("GET", `/api/images/${image}/tree`);
    this.versions.set(image, tree.version);
    if (this.scene.image?.id === image) await this.scene.setTree(tree);
    return tree;
  }

  setLost(message) {
    this.isLost = message !== null;
    const count = this.queue.length;
    notice(message === null ? null : `${message} ${count} ${count === 1 ? "edit waits" : "edits wait"} to be saved.`);
    this.dispatchEvent(new Event("state"));
  }
}

/** Shows at once what an edit will do where that is certain. */
function foretell(scene, edit) {
  const masks = (edit.ids ?? [edit.id]).map((id) => scene.tree.get(id)).filter(Boolean);
  const status = { accept: "accepted", reject: "rejected", reset: null };
  if (edit.op in status) for (const mask of masks) mask.status = status[edit.op];
  else if (edit.op === "class") for (const mask of masks) mask.class = edit.class;
  else if (edit.op === "rename") for (const mask of masks) mask.name = edit.name;
  else return;
  scene.tables.clear();
  scene.emit("tree");
}
