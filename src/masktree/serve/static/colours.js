/** Colours of masks and regions: one per number, always the same, neighbours in number far apart in hue. */

const GOLDEN_ANGLE = 2.399963; // radians; successive multiples spread evenly over the circle
const LIGHTNESS = [0.72, 0.58, 0.82];
const CHROMA = [0.16, 0.17, 0.13];

/** OKLCH to sRGB (Ottosson 2020), clipped; lightness and chroma as above. */
function oklchToRgb(lightness, chroma, hue) {
  const a = chroma * Math.cos(hue);
  const b = chroma * Math.sin(hue);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ].map((x) => Math.round(255 * Math.min(1, Math.max(0, x <= 0.0031308 ? 12.92 * x : 1.055 * x ** (1 / 2.4) - 0.055))));
}

/** @returns {[number, number, number]} red, green, blue in 0..255 of the mask with this number */
export function rgbOf(number) {
  return oklchToRgb(LIGHTNESS[number % 3], CHROMA[number % 3], number * GOLDEN_ANGLE);
}

/** The same as text for CSS. */
export const cssOf = (number) => `rgb(${rgbOf(number).join(" ")})`;

const packed = new Map();

/** Packed as a canvas stores it on the little-endian machines that browsers run on: alpha, blue, green, red; opaque. */
export function packedOf(number) {
  let value = packed.get(number);
  if (value === undefined) {
    const [red, green, blue] = rgbOf(number);
    value = ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
    packed.set(number, value);
  }
  return value;
}
