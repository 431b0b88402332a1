/** The dendrogram of an image: at every granularity each pixel belongs to one region. */

import { packedOf } from "./colours.js";

export class Regions {
  /**
   * @param {Int32Array} leaves leaf of each pixel, row by row
   * @param {number} width @param {number} height of the leaf map @param {number} factor pixels of the image per pixel of the map
   * @param {Int32Array} parents of the 2n - 1 nodes, leaves first, each parent after its children
   * @param {Float32Array} granularities of the nodes, 0 for leaves, never falling towards the root
   */
  constructor(leaves, width, height, factor, parents, granularities) {
    Object.assign(this, { labels: leaves, width, height, factor, parents, granularities });
    this.leafCount = (parents.length + 1) / 2;
    this.top = new Int32Array(parents.length);
    /** Packed colour of each leaf at the granularity asked for last */
    this.colours = new Uint32Array(this.leafCount);
    /** Region, a node, of each leaf at that granularity */
    this.regionOf = new Int32Array(this.leafCount);
    this.measure();
    this.setMasks([]);
  }

  /** @param {ArrayBuffer} bytes */
  static read(bytes) {
    const [n, width, height, factor] = new Uint32Array(bytes, 0, 4);
    const pixels = width * height;
    const leaves = new Int32Array(bytes, 16, pixels);
    const parents = new Int32Array(bytes, 16 + 4 * pixels, 2 * n - 1);
    const granularities = new Float32Array(bytes, 16 + 4 * pixels + 4 * (2 * n - 1), 2 * n - 1);
    return new Regions(leaves, width, height, factor, parents, granularities);
  }

  /** Area and box of every node, in pixels of the leaf map. */
  measure() {
    const count = this.parents.length;
    this.areas = new Float64Array(count);
    this.boxes = { left: new Int32Array(count).fill(this.width), top: new Int32Array(count).fill(this.height), right: new Int32Array(count), bottom: new Int32Array(count) };
    const { left, top, right, bottom } = this.boxes;
    for (let y = 0, p = 0; y < this.height; y++) {
      for (let x = 0; x < this.width; x++, p++) {
        const leaf = this.labels[p];
        this.areas[leaf]++;
        if (x < left[leaf]) left[leaf] = x;
        if (x >= right[leaf]) right[leaf] = x + 1;
        if (y < top[leaf]) top[leaf] = y;
        if (y >= bottom[leaf]) bottom[leaf] = y + 1;
      }
    }
    for (let node = 0; node < count - 1; node++) {
      const parent = this.parents[node];
      this.areas[parent] += this.areas[node];
      left[parent] = Math.min(left[parent], left[node]);
      top[parent] = Math.min(top[parent], top[node]);
      right[parent] = Math.max(right[parent], right[node]);
      bottom[parent] = Math.max(bottom[parent], bottom[node]);
    }
  }

  /**
   * A region that is a mask has its colour; any other that of the larger of the two that it was merged from, so that
   * colours stay while the slider moves.
   * @param {import("./mask_tree.js").Mask[]} masks
   */
  setMasks(masks) {
    const { left, top, right, bottom } = this.boxes;
    // Area and box tell nodes apart well enough for a colour; those of reduced maps are not those of the masks.
    const ids = new Map(masks.map(({ id, area, bbox }) => [`${area} ${bbox.join(" ")}`, id]));
    const first = masks.reduce((most, { id }) => Math.max(most, id), -1) + 1;
    const count = this.parents.length;
    this.colourKeys = Int32Array.from({ length: count }, (_, node) => first + node);
    const largest = new Float64Array(count).fill(-1);
    for (let node = 0; node < count; node++) {
      const box = `${this.areas[node]} ${left[node]} ${top[node]} ${right[node] - left[node]} ${bottom[node] - top[node]}`;
      if (this.factor === 1 && ids.has(box)) this.colourKeys[node] = ids.get(box);
      const parent = this.parents[node];
      if (parent !== node && this.areas[node] > largest[parent]) {
        largest[parent] = this.areas[node];
        this.colourKeys[parent] = this.colourKeys[node];
      }
    }
    this.granularity = NaN; // the granularity asked for last; none
  }

  /** Sets `colours` and `regionOf` for a granularity in [0, 1]: 0 the finest. */
  cut(granularity) {
    if (granularity === this.granularity) return;
    this.granularity = granularity;
    const { parents, granularities, top } = this;
    top[parents.length - 1] = parents.length - 1;
    for (let node = parents.length - 2; node >= 0; node--) {
      // A parent that the cut has merged already hands down its own region; any other leaves the node as one.
      top[node] = granularities[parents[node]] <= granularity ? top[parents[node]] : node;
    }
    for (let leaf = 0; leaf < this.leafCount; leaf++) {
      this.regionOf[leaf] = top[leaf];
      this.colours[leaf] = packedOf(this.colourKeys[top[leaf]]);
    }
  }
}
