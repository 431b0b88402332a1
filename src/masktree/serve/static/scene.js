/** One image with its masks: what is loaded, what is selected, what is under the pointer, and how it is displayed. */

import { ApiError, requestBlob, requestBytes, requestJson, unpackNumbers } from "./api.js";
import { announce } from "./announce.js";
import { packedOf } from "./colours.js";
import { LabelMap } from "./label_map.js";
import { LEVELS, MaskTree } from "./mask_tree.js";
import { Regions } from "./regions.js";

/** @typedef {{mode: "regions" | "masks" | "original", granularity: number, opacity: number, outlinesOnly: boolean,
 *   levels: Set<string>, minArea: number, minScore: number, hideRejected: boolean}} Display */

/** @returns {Display} */
export const defaultDisplay = () => ({
  mode: "regions",
  granularity: 0.3,
  opacity: 0.5,
  outlinesOnly: false,
  levels: new Set(LEVELS),
  minArea: 0, // square root of the share of the image
  minScore: 0,
  hideRejected: false,
});

/**
 * Events: "image" (another one, or none), "picture", "tree" (a new version), "map" (or regions), "loading", "hover",
 * "selection", "display".
 */
export class Scene extends EventTarget {
  constructor() {
    super();
    this.display = defaultDisplay();
    this.clear();
  }

  clear() {
    this.image = null;
    this.picture = null;
    /** @type {MaskTree | null} */
    this.tree = null;
    /** @type {LabelMap | null} */
    this.map = null;
    /** @type {Regions | null} */
    this.regions = null;
    /** @type {Set<number>} ids, in the order in which they were selected */
    this.selection = new Set();
    this.hovered = null; // {chain: ids smallest first, place}
    this.tables = new Map();
    /** @type {Set<string>} what is being loaded */
    this.loading = new Set();
    this.pixels = null; // promise of map and regions
  }

  emit(name) {
    this.dispatchEvent(new Event(name));
  }

  // --- loading -------------------------------------------------------------------------------------------------

  /** Shows an image: its picture, and its masks if it has any. */
  async open(image) {
    this.clear();
    this.image = image;
    this.emit("image");
    await Promise.all([this.loadPicture(), image.status === "done" ? this.loadTree() : null]);
  }

  /** What `work` returns; `what` is told as being loaded meanwhile. Null if another image was opened since. */
  async load(what, work) {
    const { image, loading } = this;
    loading.add(what);
    this.emit("loading");
    try {
      const result = await work;
      return this.image?.id === image.id ? result : null;
    } finally {
      loading.delete(what);
      this.emit("loading");
    }
  }

  async loadPicture() {
    const read = async () => createImageBitmap((await requestBlob("GET", this.path("picture?side=4096"))).blob);
    const picture = await this.load("picture", read());
    if (!picture) return;
    this.picture = picture;
    this.emit("picture");
  }

  /** Reads the tree, then all that its pixels are drawn with, side by side. */
  async loadTree() {
    const answer = await this.load("masks", requestJson("GET", this.path("tree")));
    if (!answer) return;
    if (!answer.regions && this.display.mode === "regions") this.display.mode = "masks";
    await this.setTree(answer);
  }

  path(name) {
    return `/api/images/${this.image.id}/${name}`;
  }

  /** Takes a tree that was read anew; the map is read again only if pixels have changed. */
  async setTree(answer) {
    const tree = new MaskTree(answer);
    const isSame = this.map !== null && tree.hasSamePixels(this.tree);
    this.showTree(tree);
    if (isSame) return;
    this.pixels = Promise.all([this.loadMap(), tree.hasRegions && !this.regions ? this.loadRegions() : null]);
    await this.pixels;
  }

  async loadMap() {
    try {
      const answer = await this.load("map", requestBytes(this.path(`map?version=${this.tree.version}`)));
      if (!answer) return;
      this.map = LabelMap.read(answer.bytes, answer.headers);
      this.pixelsChanged();
      this.loadOverlaps();
    } catch (error) {
      if (!(error instanceof ApiError && error.status === 409)) throw error;
      await this.loadTree(); // it was edited meanwhile
    }
  }

  async loadRegions() {
    const answer = await this.load("regions", requestBytes(this.path("regions")));
    if (!answer) return;
    this.regions = Regions.read(answer.bytes);
    this.pixelsChanged();
  }

  pixelsChanged() {
    this.regions?.setMasks(this.tree.masks);
    this.tables.clear();
    this.emit("map");
  }

  /** Reads which masks overlap. Nothing waits for it: only masks that are not nested have more to show. */
  async loadOverlaps() {
    const { map } = this;
    const wanted = ++map.overlapsWanted;
    try {
      const answer = await this.load("overlaps", requestJson("GET", this.path(`overlaps?version=${this.tree.version}`)));
      if (!answer || wanted !== map.overlapsWanted) return;
      map.setOverlaps(answer);
      this.emit("map");
    } catch (error) {
      if (map !== this.map || wanted !== map.overlapsWanted) return;
      if (error instanceof ApiError && error.status === 409) await this.loadOverlaps(); // edited, in no pixel
      else announce(error.message, "error");
    }
  }

  /** Takes what an edit has changed. @param {{version: number, map: {box: number[], labels: string} | null}} changes */
  async takeChanges(changes) {
    await this.pixels?.catch(() => {}); // of an earlier version, which the changes are for; who asked for it tells
    const { tree, map } = this;
    if (!tree || changes.version <= tree.version) return;
    if (map === null) {
      await this.loadTree();
      return;
    }
    const labels = changes.map && (await unpackNumbers(changes.map.labels));
    if (map !== this.map) return; // another image was opened
    this.showTree(tree.after(changes));
    if (!labels) return;
    map.patch(changes.map.box, labels);
    this.pixelsChanged();
    this.loadOverlaps();
  }

  showTree(tree) {
    this.tree = tree;
    this.tables.clear();
    this.hovered = null;
    this.selection = new Set([...this.selection].filter((mask) => tree.has(mask)));
    this.emit("tree");
    this.emit("selection");
    this.emit("hover");
  }

  // --- under the pointer ------------------------------------------------------------------------------------------

  /** Ids of the visible masks at a pixel, smallest first. */
  chainAt(x, y) {
    if (!this.map) return [];
    const { indices } = this.tree;
    const chain = this.tree.chain(indices.get(this.map.at(x, y)) ?? -1);
    for (const id of this.map.extrasAt(x, y)) if (indices.has(id)) chain.push(indices.get(id));
    const visible = [...new Set(chain)].filter((index) => this.isVisible(index));
    return visible.sort((a, b) => this.tree.masks[a].area - this.tree.masks[b].area).map((index) => this.tree.masks[index].id);
  }

  /** Moves the pointer to a pixel of the image; the mask that is displayed there is the one that is outlined. */
  hoverAt(x, y) {
    const chain = this.chainAt(x, y);
    const before = this.hovered;
    if (chain.length === 0) return this.setHovered(null);
    if (before && before.chain.length === chain.length && before.chain.every((id, k) => id === chain[k])) return undefined;
    // The level that was walked to is kept from pixel to pixel as long as the mask is still under the pointer.
    let place = before ? chain.indexOf(before.chain[before.place]) : -1;
    if (place < 0) place = this.placeAtGranularity(chain);
    return this.setHovered({ chain, place });
  }

  /** Place in the chain of the largest mask at or below the granularity of the slider. */
  placeAtGranularity(chain) {
    let place = 0;
    chain.forEach((id, k) => {
      if (this.tree.get(id).granularity <= this.display.granularity) place = k;
    });
    return place;
  }

  setHovered(hovered) {
    if (hovered === null && this.hovered === null) return;
    this.hovered = hovered;
    this.emit("hover");
  }

  /** Outlines a mask as if the pointer were on it. */
  hoverMask(id) {
    const chain = this.tree.chain(this.tree.indices.get(id)).map((index) => this.tree.masks[index].id);
    this.setHovered({ chain, place: 0 });
  }

  /** @returns {number | null} id of the outlined mask */
  get hoveredId() {
    return this.hovered ? this.hovered.chain[this.hovered.place] : null;
  }

  /** Goes up (+1, to the whole) or down (-1, to the parts) the chain under the pointer, or that of the selected mask. */
  walk(step) {
    if (this.hovered) {
      const place = Math.min(this.hovered.chain.length - 1, Math.max(0, this.hovered.place + step));
      this.setHovered({ ...this.hovered, place });
      return this.hoveredId;
    }
    const id = this.lastSelected;
    if (id === null) return null;
    const index = this.tree.indices.get(id);
    const next = step > 0 ? this.tree.parents[index] : (this.tree.children[index][0] ?? -1);
    if (next >= 0) this.select([this.tree.masks[next].id]);
    return this.lastSelected;
  }

  // --- selection ---------------------------------------------------------------------------------------------------

  get lastSelected() {
    return [...this.selection].at(-1) ?? null;
  }

  /** @param {number[]} ids @param {"replace" | "toggle" | "add"} how */
  select(ids, how = "replace") {
    const selection = how === "replace" ? new Set() : new Set(this.selection);
    for (const id of ids) {
      if (!this.tree?.has(id)) continue;
      if (how === "toggle" && selection.has(id)) selection.delete(id);
      else selection.add(id);
    }
    this.selection = selection;
    this.emit("selection");
  }

  // --- display ---------------------------------------------------------------------------------------------------

  /** @param {Partial<Display>} change */
  setDisplay(change) {
    Object.assign(this.display, change);
    this.tables.clear();
    this.emit("display");
  }

  /** True if the filters let a mask through. */
  isVisible(index) {
    const mask = this.tree.masks[index];
    const { levels, minArea, minScore, hideRejected } = this.display;
    if (hideRejected && mask.status === "rejected") return false;
    return levels.has(mask.level) && mask.score >= minScore && mask.area >= minArea ** 2 * this.tree.width * this.tree.height;
  }

  /** Colours of the masks: table for `paintColours`, by label of the map, 1 + id. */
  maskTable() {
    return this.cached("masks", () => {
      const { masks, order, parents, labelCount } = this.tree;
      const n = masks.length;
      const units = new Int32Array(labelCount).fill(-1);
      const colours = new Uint32Array(labelCount);
      const hatched = new Uint8Array(labelCount);
      const largest = new Int32Array(n); // mask of the chain at or below the granularity
      const nearest = new Int32Array(n); // smallest visible mask of the chain
      for (const i of order) {
        const parent = parents[i];
        const isVisible = this.isVisible(i);
        const isFine = isVisible && masks[i].granularity <= this.display.granularity;
        nearest[i] = isVisible ? i : parent < 0 ? -1 : nearest[parent];
        largest[i] = parent >= 0 && largest[parent] >= 0 ? largest[parent] : isFine ? i : -1;
        const unit = largest[i] >= 0 ? largest[i] : nearest[i];
        const label = masks[i].id + 1;
        units[label] = unit;
        if (unit < 0) continue;
        colours[label] = packedOf(masks[unit].id);
        hatched[label] = masks[unit].status === "rejected" ? 1 : 0;
      }
      return { units, colours, hatched: hatched.includes(1) ? hatched : null };
    });
  }

  /** Colours of the regions of the cut at the slider's granularity: table by leaf + 1. */
  regionTable() {
    return this.cached("regions", () => {
      this.regions.cut(this.display.granularity);
      const units = new Int32Array(this.regions.leafCount + 1).fill(-1);
      const colours = new Uint32Array(this.regions.leafCount + 1);
      units.set(this.regions.regionOf, 1);
      colours.set(this.regions.colours, 1);
      return { units, colours, hatched: null };
    });
  }

  /** Per label of the map: 1 if it belongs to the mask. */
  members(index) {
    return this.cached(`members ${index}`, () => {
      const { first, end, order, masks, labelCount } = this.tree;
      const members = new Uint8Array(labelCount);
      for (let place = first[index]; place < end[index]; place++) members[masks[order[place]].id + 1] = 1;
      return members;
    });
  }

  cached(key, make) {
    if (!this.tables.has(key)) this.tables.set(key, make());
    return this.tables.get(key);
  }
}
