/** Which mask is the smallest at each pixel, and the masks there that are not among its ancestors. */

/** @typedef {{id: number, x: number, y: number, width: number, height: number, pixels: Uint8Array}} Extra */

export class LabelMap {
  /**
   * @param {Uint32Array} labels row by row: 0 where there is no mask, else 1 + id
   * @param {number} width @param {number} height of the map @param {number} factor pixels of the image per pixel of the map
   */
  constructor(labels, width, height, factor) {
    Object.assign(this, { labels, width, height, factor });
    /** @type {Map<number, Extra>} pixels of masks that overlap others without being nested in them, by id */
    this.extras = new Map();
    this.overlapsWanted = 0; // number of times that they were asked for
  }

  /** @param {ArrayBuffer} bytes @param {Headers} headers */
  static read(bytes, headers) {
    const [width, height] = headers.get("X-Map-Size").split(" ").map(Number);
    return new LabelMap(new Uint32Array(bytes), width, height, Number(headers.get("X-Map-Factor")));
  }

  /** @param {{extra?: any[]}} overlaps as the server sends them */
  setOverlaps(overlaps) {
    this.extras = new Map((overlaps.extra ?? []).map((extra) => [extra.id, readExtra(extra)]));
  }

  /** Puts new labels in a box of the map. */
  patch([left, top, width, height], labels) {
    for (let row = 0; row < height; row++) {
      this.labels.set(labels.subarray(row * width, (row + 1) * width), (top + row) * this.width + left);
    }
  }

  /** Id of the smallest mask at a pixel of the image, -1 for none. */
  at(x, y) {
    const column = Math.floor(x / this.factor);
    const row = Math.floor(y / this.factor);
    if (column < 0 || row < 0 || column >= this.width || row >= this.height) return -1;
    return this.labels[row * this.width + column] - 1;
  }

  /** Ids of the masks that have a pixel of the image without being ancestors of the smallest mask there. */
  extrasAt(x, y) {
    const found = [];
    for (const extra of this.extras.values()) if (covers(extra, Math.floor(x), Math.floor(y))) found.push(extra.id);
    return found;
  }
}

/** True if a pixel is one of these. */
export function covers(extra, x, y) {
  const column = x - extra.x;
  const row = y - extra.y;
  return column >= 0 && row >= 0 && column < extra.width && row < extra.height && extra.pixels[column * extra.height + row] > 0;
}

function readExtra({ id, bbox, counts }) {
  const [x, y, width, height] = bbox;
  const pixels = new Uint8Array(width * height); // column by column, as COCO's run lengths are
  let place = 0;
  counts.forEach((count, k) => {
    if (k % 2) pixels.fill(1, place, place + count);
    place += count;
  });
  return { id, x, y, width, height, pixels };
}
