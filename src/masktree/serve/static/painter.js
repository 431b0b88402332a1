/** Pixels of the screen from a map of labels: colours by look-up table, borders, outlines. Only what is visible is touched. */

import { covers } from "./label_map.js";

const BORDER = 0xd0ffffff; // white, between regions that are filled
const DARK = 0xff101010;

/** Labels of the pixels of the screen, 0 outside the image. */
export class Sample {
  constructor(width, height) {
    this.width = width;
    this.height = height;
    this.labels = new Uint32Array(width * height);
  }

  /**
   * @param {{labels: ArrayLike<number>, width: number, height: number, factor: number}} source
   * @param {import("./view.js").View} view @param {number} ratio device pixels per CSS pixel
   * @param {number} shift added to the labels of the source, so that 0 is free for what is outside
   */
  take(source, view, ratio, shift) {
    const { labels: out, width, height } = this;
    const columns = places(width, ratio, view.left, view.scale * source.factor, source.width);
    const rows = places(height, ratio, view.top, view.scale * source.factor, source.height);
    const { labels } = source;
    for (let y = 0, p = 0; y < height; y++) {
      if (rows[y] < 0) {
        out.fill(0, p, p + width);
        p += width;
      } else if (y > 0 && rows[y] === rows[y - 1]) {
        out.copyWithin(p, p - width, p);
        p += width;
      } else {
        const start = rows[y] * source.width;
        for (let x = 0; x < width; x++, p++) out[p] = columns[x] < 0 ? 0 : labels[start + columns[x]] + shift;
      }
    }
  }
}

/** Column (or row) of the source under each one of the screen, -1 outside. */
function places(count, ratio, start, scale, limit) {
  const out = new Int32Array(count);
  for (let i = 0; i < count; i++) {
    const place = Math.floor(((i + 0.5) / ratio - start) / scale);
    out[i] = place < 0 || place >= limit ? -1 : place;
  }
  return out;
}

/**
 * Colours of all pixels and lines where they change.
 * @param {Uint32Array} out packed colours
 * @param {Sample} sample
 * @param {{colours: Uint32Array, units: Int32Array, hatched: Uint8Array | null}} table per label: colour, what it is a part
 *   of (-1 for nothing), whether it is hatched
 * @param {boolean} outlinesOnly
 */
export function paintColours(out, { labels, width, height }, { colours, units, hatched }, outlinesOnly) {
  for (let y = 0, p = 0; y < height; y++) {
    const lastRow = y + 1 === height;
    for (let x = 0; x < width; x++, p++) {
      const label = labels[p];
      const unit = units[label];
      const right = x + 1 < width ? labels[p + 1] : label;
      const below = lastRow ? label : labels[p + width];
      let border = (right !== label && units[right] !== unit) || (below !== label && units[below] !== unit);
      if (outlinesOnly) {
        if (!border && x > 0 && y > 0) border = units[labels[p - 1]] !== unit || units[labels[p - width]] !== unit;
        out[p] = border ? colours[label] : 0;
      } else if (border) {
        out[p] = BORDER;
      } else {
        out[p] = hatched !== null && hatched[label] && ((x + y) & 7) > 2 ? 0 : colours[label];
      }
    }
  }
}

/**
 * Which pixels of a box of the screen belong to a mask.
 * @param {Uint8Array} out one per pixel of the screen; only the box is written
 * @param {Sample} sample @param {Uint8Array} members per label
 * @param {[number, number, number, number]} box left, top, right, bottom
 */
export function fillMembers(out, { labels, width }, members, [left, top, right, bottom]) {
  for (let y = top; y < bottom; y++) {
    for (let p = y * width + left, end = y * width + right; p < end; p++) out[p] = members[labels[p]];
  }
}

/** Adds pixels of a mask that the map does not have. */
export function addExtra(out, width, extra, view, ratio, [left, top, right, bottom]) {
  for (let y = top; y < bottom; y++) {
    const row = Math.floor(((y + 0.5) / ratio - view.top) / view.scale);
    for (let x = left; x < right; x++) {
      if (covers(extra, Math.floor(((x + 0.5) / ratio - view.left) / view.scale), row)) out[y * width + x] = 1;
    }
  }
}

/**
 * Outline of the pixels that are 1 in a box: a line inside, and a dark one around it, visible on any picture.
 * @param {Uint32Array} out packed colours, written where the outline is only
 * @param {Uint8Array} inside @param {number} width @param {number} height of the screen
 * @param {number} colour packed @param {number} thickness in device pixels
 */
export function drawOutline(out, inside, width, height, [left, top, right, bottom], colour, thickness) {
  const t = thickness;
  for (let y = top; y < bottom; y++) {
    for (let x = left; x < right; x++) {
      const p = y * width + x;
      const atEdge = x < left + t || y < top + t || x >= right - t || y >= bottom - t;
      if (inside[p]) {
        if (atEdge ? hasOutside(inside, x, y, left, top, right, bottom, width, t)
          : !(inside[p - t] & inside[p + t] & inside[p - t * width] & inside[p + t * width])) out[p] = colour;
      } else if ((x > left && inside[p - 1]) || (x + 1 < right && inside[p + 1]) ||
        (y > top && inside[p - width]) || (y + 1 < bottom && inside[p + width])) out[p] = DARK;
    }
  }
}

/** Near the side of the box: what lies beyond it is outside, unless the screen ends there. */
function hasOutside(inside, x, y, left, top, right, bottom, width, t) {
  const outside = (column, row) => column >= left && row >= top && column < right && row < bottom && !inside[row * width + column];
  return outside(x - t, y) || outside(x + t, y) || outside(x, y - t) || outside(x, y + t);
}
