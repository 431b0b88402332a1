/** Which mask is the smallest at each pixel, and the masks there that are not among its ancestors. */

/** @typedef {{index: number, x: number, y: number, width: number, height: number, pixels: Uint8Array}} Extra */

export class LabelMap {
  /**
   * @param {Uint32Array} labels row by row: 0 where there is no mask, else 1 + index
   * @param {number} width @param {number} height of the map @param {number} factor pixels of the image per pixel of the map
   * @param {Extra[]} extras pixels of masks that overlap others without being nested in them
   */
  constructor(labels, width, height, factor, extras = []) {
    Object.assign(this, { labels, width, height, factor });
    /** @type {Map<number, Extra>} */
    this.extras = new Map(extras.map((extra) => [extra.index, extra]));
  }

  /** @param {ArrayBuffer} bytes @param {Headers} headers @param {{extra?: any[]}} overlaps */
  static read(bytes, headers, overlaps) {
    const [width, height] = headers.get("X-Map-Size").split(" ").map(Number);
    const factor = Number(headers.get("X-Map-Factor") ?? 1);
    return new LabelMap(new Uint32Array(bytes), width, height, factor, (overlaps.extra ?? []).map(readExtra));
  }

  /** Index of the smallest mask at a pixel of the image, -1 for none. */
  at(x, y) {
    const column = Math.floor(x / this.factor);
    const row = Math.floor(y / this.factor);
    if (column < 0 || row < 0 || column >= this.width || row >= this.height) return -1;
    return this.labels[row * this.width + column] - 1;
  }

  /** Indices of the masks that have a pixel of the image without being ancestors of the smallest mask there. */
  extrasAt(x, y) {
    const found = [];
    for (const extra of this.extras.values()) if (covers(extra, Math.floor(x), Math.floor(y))) found.push(extra.index);
    return found;
  }
}

/** True if a pixel is one of these. */
export function covers(extra, x, y) {
  const column = x - extra.x;
  const row = y - extra.y;
  return column >= 0 && row >= 0 && column < extra.width && row < extra.height && extra.pixels[column * extra.height + row] > 0;
}

function readExtra({ index, bbox, counts }) {
  const [x, y, width, height] = bbox;
  const pixels = new Uint8Array(width * height); // column by column, as COCO's run lengths are
  let place = 0;
  counts.forEach((count, k) => {
    if (k % 2) pixels.fill(1, place, place + count);
    place += count;
  });
  return { index, x, y, width, height, pixels };
}
