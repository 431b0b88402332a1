/** The masks of one image as the server sent them, with what follows from the parents. */

export const LEVELS = ["whole", "part", "subpart"];

/**
 * @typedef {object} Mask
 * @property {number} id  never used again for another mask
 * @property {number | null} parent  id of the parent
 * @property {number} score @property {number} granularity @property {number} stability  each in [0, 1]
 * @property {string} level @property {number} area  in pixels
 * @property {[number, number, number, number]} bbox  x, y, width, height
 * @property {string | null} status  "accepted", "rejected" or null
 * @property {string | null} class @property {string | null} name
 */

export class MaskTree {
  /** @param {{version: number, size: [number, number], classes: string[], undo: boolean, redo: boolean, masks: Mask[]}} answer */
  constructor(answer) {
    this.answer = answer; // as the server said; `masks` may be ahead of it
    this.version = answer.version;
    this.hasRegions = answer.regions;
    [this.height, this.width] = answer.size;
    this.classNames = answer.classes;
    this.canUndo = answer.undo;
    this.canRedo = answer.redo;
    this.masks = answer.masks.map((mask) => ({ ...mask, status: mask.status === "none" ? null : mask.status }));
    const n = this.masks.length;
    this.labelCount = (this.masks.at(-1)?.id ?? -1) + 2; // labels of the map: 0 and 1 + id, ids ascending
    /** @type {Map<number, number>} index of each id */
    this.indices = new Map(this.masks.map((mask, index) => [mask.id, index]));
    /** index of each parent, -1 for roots */
    this.parents = Int32Array.from(this.masks, (mask) => (mask.parent === null ? -1 : this.indices.get(mask.parent)));
    /** @type {number[][]} children of each mask, largest first */
    this.children = Array.from({ length: n }, () => []);
    this.roots = [];
    for (let i = 0; i < n; i++) (this.parents[i] < 0 ? this.roots : this.children[this.parents[i]]).push(i);
    for (const list of [this.roots, ...this.children]) list.sort((a, b) => this.masks[b].area - this.masks[a].area || a - b);
    this.numberInPreorder();
  }

  /** The tree after an edit. @param {{version: number, masks: Mask[], removed: number[]}} changes new and changed masks */
  after(changes) {
    const masks = new Map(this.answer.masks.map((mask) => [mask.id, mask]));
    for (const id of changes.removed) masks.delete(id);
    for (const mask of changes.masks) masks.set(mask.id, mask);
    return new MaskTree({ ...this.answer, ...changes, masks: [...masks.values()].sort((a, b) => a.id - b.id) });
  }

  /** `order` lists parents before their children; mask i has the places first[i] up to, not including, end[i] in it. */
  numberInPreorder() {
    const n = this.masks.length;
    this.order = new Int32Array(n);
    this.first = new Int32Array(n);
    this.end = new Int32Array(n);
    this.depth = new Int32Array(n);
    let place = 0;
    const stack = [...this.roots].reverse();
    while (stack.length) {
      const i = stack.pop();
      if (i < 0) {
        this.end[~i] = place;
        continue;
      }
      this.depth[i] = this.parents[i] < 0 ? 0 : this.depth[this.parents[i]] + 1;
      this.first[i] = place;
      this.order[place++] = i;
      stack.push(~i);
      for (let k = this.children[i].length - 1; k >= 0; k--) stack.push(this.children[i][k]);
    }
  }

  get(id) {
    return this.masks[this.indices.get(id)];
  }

  has(id) {
    return this.indices.has(id);
  }

  /** Indices from this mask to its root, smallest first. */
  chain(index) {
    const chain = [];
    for (let i = index; i >= 0; i = this.parents[i]) chain.push(i);
    return chain;
  }

  /** What a mask is called: its own name, else its class, else its level and number. */
  label(index) {
    const mask = this.masks[index];
    return mask.name || (mask.class ? `${mask.class} ${mask.id}` : `${mask.level} ${mask.id}`);
  }

  /** True if the pixels of the masks are the same as in another version of the tree. */
  hasSamePixels(other) {
    const same = (a, b) => a.id === b.id && a.area === b.area && a.parent === b.parent && a.bbox.every((v, k) => v === b.bbox[k]);
    return this.masks.length === other.masks.length && this.masks.every((mask, i) => same(mask, other.masks[i]));
  }
}
