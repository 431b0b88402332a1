/** One image with its masks: what is loaded, what is selected, what is under the pointer, and how it is displayed. */

import { requestBlob, requestBytes, requestJson } from "./api.js";
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
 * Events: "image" (another one, or none), "picture", "tree" (a new version), "hover", "selection", "display".
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

  async loadPicture() {
    const { id } = this.image;
    const { blob } = await requestBlob("GET", `/api/images/${id}/picture?side=4096`);
    const picture = await createImageBitmap(blob);
    if (this.image?.id !== id) return;
    this.picture = picture;
    this.emit("picture");
  }

  /** Reads tree, map and dendrogram. */
  async loadTree() {
    const { id } = this.image;
    const answer = await requestJson("GET", `/api/images/${id}/tree`);
    const regions = answer.regions ? Regions.read((await requestBytes(`/api/images/${id}/regions`)).bytes) : null;
    if (this.image?.id !== id) return;
    this.regions = regions;
    if (regions === null && this.display.mode === "regions") this.display.mode = "masks";
    await this.setTree(answer);
  }

  /** Takes a new version of the tree; the map is read again only if pixels have changed. */
  async setTree(answer) {
    const tree = new MaskTree(answer);
    const { id } = this.image;
    if (this.map === null || !tree.hasSamePixels(this.tree)) {
      const path = (name) => `/api/images/${id}/${name}?version=${tree.version}`;
      const [map, overlaps] = await Promise.all([requestBytes(path("map")), requestJson("GET", path("overlaps"))]);
      if (this.image?.id !== id) return;
      this.map = LabelMap.read(map.bytes, map.headers, overlaps ?? {});
      this.regions?.setMasks(tree.masks);
    }
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
    if (!this.tree) return [];
    const smallest = this.map.at(x, y);
    const indices = new Set(smallest < 0 ? [] : this.tree.chain(smallest));
    for (const index of this.map.extrasAt(x, y)) indices.add(index);
    const visible = [...indices].filter((index) => this.isVisible(index));
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

  /** Colours of the masks: table for `paintColours`, by label of the map. */
  maskTable() {
    return this.cached("masks", () => {
      const { masks, order, parents } = this.tree;
      const n = masks.length;
      const units = new Int32Array(n + 1).fill(-1);
      const colours = new Uint32Array(n + 1);
      const hatched = new Uint8Array(n + 1);
      const largest = new Int32Array(n); // mask of the chain at or below the granularity
      const nearest = new Int32Array(n); // smallest visible mask of the chain
      for (const i of order) {
        const parent = parents[i];
        const isVisible = this.isVisible(i);
        const isFine = isVisible && masks[i].granularity <= this.display.granularity;
        nearest[i] = isVisible ? i : parent < 0 ? -1 : nearest[parent];
        largest[i] = parent >= 0 && largest[parent] >= 0 ? largest[parent] : isFine ? i : -1;
        const unit = largest[i] >= 0 ? largest[i] : nearest[i];
        units[i + 1] = unit;
        if (unit < 0) continue;
        colours[i + 1] = packedOf(masks[unit].id);
        hatched[i + 1] = masks[unit].status === "rejected" ? 1 : 0;
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
      const { first, end, order } = this.tree;
      const members = new Uint8Array(this.tree.masks.length + 1);
      for (let place = first[index]; place < end[index]; place++) members[order[place] + 1] = 1;
      return members;
    });
  }

  cached(key, make) {
    if (!this.tables.has(key)) this.tables.set(key, make());
    return this.tables.get(key);
  }
}
