/** Draws the scene: picture, colours, outlines and ink of the tools on four canvases, one above the other. */

import { addExtra, drawOutline, fillMembers, paintColours, Sample } from "./painter.js";
import { View } from "./view.js";

const MAX_PIXELS = 3e6; // of each canvas; a screen of more is drawn at a lower resolution so that it stays fluid
const HOVER = 0xff4de1ff; // packed: yellow
const SELECTED = 0xffffffff;

export class Viewer extends EventTarget {
  /** @param {HTMLElement} area holds the canvases @param {import("./scene.js").Scene} scene */
  constructor(area, scene) {
    super();
    this.area = area;
    this.scene = scene;
    this.view = new View();
    this.canvases = ["picture", "colours", "outlines", "ink"].map((name) => area.querySelector(`canvas.${name}`));
    this.contexts = this.canvases.map((canvas) => canvas.getContext("2d"));
    /** @type {((context: CanvasRenderingContext2D, viewer: Viewer) => void)[]} draw shapes of tools */
    this.inks = [];
    this.stale = new Set();
    this.timings = { colours: [], outlines: [] }; // milliseconds, for the benchmark
    new ResizeObserver(() => this.resize()).observe(area);
    scene.addEventListener("image", () => this.fit());
    scene.addEventListener("picture", () => this.fit());
    scene.addEventListener("tree", () => this.mark("colours", "outlines", "ink"));
    scene.addEventListener("map", () => this.mark("sample", "colours", "outlines"));
    scene.addEventListener("display", () => this.mark("colours", "outlines"));
    scene.addEventListener("hover", () => this.mark("outlines"));
    scene.addEventListener("selection", () => this.mark("outlines"));
    this.resize();
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.area;
    if (!width || !height) return;
    const wasFit = Math.abs(this.view.scale - this.view.fitScale) < 1e-6;
    this.ratio = Math.min(window.devicePixelRatio || 1, Math.sqrt(MAX_PIXELS / (width * height)));
    this.width = Math.round(width * this.ratio);
    this.height = Math.round(height * this.ratio);
    for (const canvas of this.canvases) {
      canvas.width = this.width;
      canvas.height = this.height;
    }
    this.view.width = width;
    this.view.height = height;
    this.maskSample = new Sample(this.width, this.height);
    this.regionSample = new Sample(this.width, this.height);
    this.colourImage = new ImageData(this.width, this.height);
    this.outlineImage = new ImageData(this.width, this.height);
    this.inside = new Uint8Array(this.width * this.height);
    this.outlined = null; // box of the screen that has outlines
    if (wasFit) this.view.fit();
    this.moved();
  }

  fit() {
    const { image } = this.scene;
    if (image) {
      this.view.imageWidth = image.width ?? 1; // unknown if the file cannot be read
      this.view.imageHeight = image.height ?? 1;
      this.view.fit();
    }
    this.moved();
  }

  zoom(factor, x, y) {
    this.view.zoom(factor, x, y);
    this.moved();
  }

  pan(dx, dy) {
    this.view.pan(dx, dy);
    this.moved();
  }

  show(box) {
    this.view.show(box);
    this.moved();
  }

  moved() {
    this.mark("picture", "sample", "colours", "outlines", "ink");
    this.dispatchEvent(new Event("moved"));
  }

  /** Asks for parts to be drawn at the next frame. */
  mark(...parts) {
    if (this.stale.size === 0) requestAnimationFrame(() => this.draw());
    for (const part of parts) this.stale.add(part);
  }

  draw() {
    const stale = this.stale;
    this.stale = new Set();
    if (stale.has("picture")) this.drawPicture();
    if (stale.has("sample")) this.sampled = { masks: false, regions: false };
    if (stale.has("colours")) this.time("colours", () => this.drawColours());
    if (stale.has("outlines")) this.time("outlines", () => this.drawOutlines());
    if (stale.has("ink")) this.drawInk();
  }

  time(name, run) {
    const start = performance.now();
    run();
    const times = this.timings[name];
    times.push(performance.now() - start);
    if (times.length > 500) times.shift();
  }

  drawPicture() {
    const context = this.contexts[0];
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    const { picture, image } = this.scene;
    if (!picture) return;
    const { scale, left, top } = this.view;
    context.imageSmoothingEnabled = scale < 3; // enlarged far, pixels are seen as they are
    context.imageSmoothingQuality = "high";
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.drawImage(picture, left, top, image.width * scale, image.height * scale);
  }

  /** Labels under the pixels of the screen, read once per position of the view. */
  sampleOf(kind) {
    const sample = kind === "masks" ? this.maskSample : this.regionSample;
    if (!this.sampled?.[kind]) {
      const source = kind === "masks" ? this.scene.map : this.scene.regions;
      sample.take(source, this.view, this.ratio, kind === "masks" ? 0 : 1);
      this.sampled = { ...this.sampled, [kind]: true };
    }
    return sample;
  }

  drawColours() {
    const context = this.contexts[1];
    const { display, tree, map, regions } = this.scene;
    const isMasks = display.mode === "masks" || !tree?.hasRegions;
    if (!tree || display.mode === "original" || !(isMasks ? map : regions)) {
      context.clearRect(0, 0, this.width, this.height);
      return;
    }
    this.canvases[1].style.opacity = display.outlinesOnly ? 1 : display.opacity;
    const table = isMasks ? this.scene.maskTable() : this.scene.regionTable();
    const pixels = new Uint32Array(this.colourImage.data.buffer);
    paintColours(pixels, this.sampleOf(isMasks ? "masks" : "regions"), table, display.outlinesOnly);
    context.putImageData(this.colourImage, 0, 0);
  }

  drawOutlines() {
    const context = this.contexts[2];
    const pixels = new Uint32Array(this.outlineImage.data.buffer);
    if (this.outlined) {
      const [left, top, right, bottom] = this.outlined;
      for (let y = top; y < bottom; y++) pixels.fill(0, y * this.width + left, y * this.width + right);
      context.clearRect(left, top, right - left, bottom - top);
      this.outlined = null;
    }
    const { tree, selection, hoveredId } = this.scene;
    if (!tree || !this.scene.map) return;
    const thick = Math.max(3, Math.round(3 * this.ratio));
    for (const id of selection) this.outline(pixels, tree.indices.get(id), SELECTED, thick);
    if (hoveredId !== null && tree.has(hoveredId) && !selection.has(hoveredId)) {
      this.outline(pixels, tree.indices.get(hoveredId), HOVER, Math.max(2, Math.round(2 * this.ratio)));
    }
    if (this.outlined) {
      const [left, top, right, bottom] = this.outlined;
      context.putImageData(this.outlineImage, 0, 0, left, top, right - left, bottom - top);
    }
  }

  outline(pixels, index, colour, thickness) {
    const box = this.screenBox(this.scene.tree.masks[index].bbox, thickness + 1);
    if (box === null) return;
    fillMembers(this.inside, this.sampleOf("masks"), this.scene.members(index), box);
    const extra = this.scene.map.extras.get(this.scene.tree.masks[index].id);
    if (extra) addExtra(this.inside, this.width, extra, this.view, this.ratio, box);
    drawOutline(pixels, this.inside, this.width, this.height, box, colour, thickness);
    const old = this.outlined;
    this.outlined = old
      ? [Math.min(old[0], box[0]), Math.min(old[1], box[1]), Math.max(old[2], box[2]), Math.max(old[3], box[3])]
      : box;
  }

  /** Box of device pixels of a box of the image, with a margin; null if it is not visible. */
  screenBox([x, y, width, height], margin) {
    const [left, top] = this.view.toScreen(x, y);
    const [right, bottom] = this.view.toScreen(x + width, y + height);
    const box = [
      Math.max(0, Math.floor(left * this.ratio) - margin),
      Math.max(0, Math.floor(top * this.ratio) - margin),
      Math.min(this.width, Math.ceil(right * this.ratio) + margin),
      Math.min(this.height, Math.ceil(bottom * this.ratio) + margin),
    ];
    return box[0] < box[2] && box[1] < box[3] ? box : null;
  }

  drawInk() {
    const context = this.contexts[3];
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    for (const ink of this.inks) ink(context, this);
  }
}
