/** The tools of the image: which one is in hand, and what is drawn with it. */

import { announce, say } from "./announce.js";
import { byId, element, icon } from "./dom.js";

/** @typedef {"look" | "point" | "box" | "line" | "add" | "erase"} ToolName */

export const TOOLS = [
  { name: "look", key: "V", label: "Select", hint: "" },
  { name: "point", key: "C", label: "Click", hint: "Click on a thing; Alt or right click takes a place away." },
  { name: "box", key: "B", label: "Box", hint: "Drag a box around a thing." },
  { name: "line", key: "L", label: "Split by a line", hint: "Draw a line through the selected mask." },
  { name: "add", key: "P", label: "Add to mask", hint: "Draw around pixels to add to the selected mask." },
  { name: "erase", key: "E", label: "Erase from mask", hint: "Draw around pixels to take from the selected mask." },
];
const DRAWS = new Set(["box", "line", "add", "erase"]);
const NEEDS_MASK = new Set(["line", "add", "erase"]);

/** Events: "change". */
export class Tools extends EventTarget {
  /**
   * @param {import("./scene.js").Scene} scene @param {import("./viewer.js").Viewer} viewer
   * @param {import("./prompt.js").Prompt} prompt @param {import("./edits.js").Edits} edits
   */
  constructor(scene, viewer, prompt, edits) {
    super();
    Object.assign(this, { scene, viewer, prompt, edits });
    /** @type {ToolName} */
    this.current = "look";
    /** @type {[number, number][]} points of the image drawn so far */
    this.stroke = [];
    this.isNegative = false; // what a tap means on a screen without a second button
    /** @type {[number, number] | null} crosshair of the keyboard, a point of the image */
    this.crosshair = null;
    this.buttons = TOOLS.map((tool) => this.makeButton(tool));
    byId("tools").append(...this.buttons);
    viewer.inks.push((context) => this.drawInk(context));
    prompt.addEventListener("change", () => viewer.mark("ink"));
    scene.addEventListener("image", () => this.reset());
    this.set("look");
  }

  makeButton({ name, key, label }) {
    return element("button", { type: "button", class: "tool", title: `${label} (${key})`, data: { tool: name }, "aria-label": label,
      on: { click: () => this.set(name) } }, [icon(name), element("span", { class: "tool-name", "aria-hidden": "true" }, [label.split(" ")[0]])]);
  }

  get draws() {
    return DRAWS.has(this.current);
  }

  get hint() {
    return TOOLS.find((tool) => tool.name === this.current).hint;
  }

  /** @param {ToolName} name */
  set(name) {
    if (NEEDS_MASK.has(name) && this.scene.selection.size !== 1) {
      announce("Select one mask first.", "error");
      return;
    }
    this.current = name;
    this.stroke = [];
    if (name !== "point" && name !== "box") this.prompt.clear();
    for (const button of this.buttons) button.setAttribute("aria-pressed", String(button.dataset.tool === name));
    this.viewer.area.dataset.tool = name;
    this.viewer.mark("ink");
    this.dispatchEvent(new Event("change"));
    if (this.hint) say(this.hint);
  }

  reset() {
    this.stroke = [];
    this.crosshair = null;
    if (this.current !== "look") this.set("look");
  }

  /** Escape: drops what was begun, then the tool, then the selection. */
  escape() {
    if (this.stroke.length) this.stroke = [];
    else if (!this.prompt.isEmpty) this.prompt.clear();
    else if (this.crosshair) this.crosshair = null;
    else if (this.current !== "look") this.set("look");
    else this.scene.select([]);
    this.viewer.mark("ink");
  }

  // --- pointer ---------------------------------------------------------------------------------------------------

  /** A click that is no drag. @param {[number, number]} point of the image @param {{isSecond: boolean, isAdding: boolean}} how */
  click([x, y], { isSecond, isAdding }) {
    const { image, tree } = this.scene;
    if (!image || x < 0 || y < 0 || x >= image.width || y >= image.height) return;
    if (this.current === "point" || (this.current === "box" && this.prompt.box)) {
      this.prompt.addPoint(x, y, !(isSecond || this.isNegative));
    } else if (this.current === "look" && tree && !isSecond) {
      this.scene.hoverAt(x, y);
      const id = this.scene.hoveredId;
      if (id !== null) this.scene.select([id], isAdding ? "toggle" : "replace");
      else if (!isAdding) this.scene.select([]);
    }
  }

  begin(point) {
    this.stroke = [point];
  }

  extend(point) {
    if (this.current === "box") this.stroke = [this.stroke[0], point];
    else if (distance(this.stroke.at(-1), point) * this.viewer.view.scale >= 2) this.stroke.push(point);
    this.viewer.mark("ink");
  }

  /** Ends what was drawn and does what it is for. */
  end() {
    const stroke = this.stroke;
    this.stroke = [];
    this.viewer.mark("ink");
    const id = this.scene.lastSelected;
    if (this.current === "box") this.endBox(stroke);
    else if (id === null) announce("Select one mask first.", "error");
    else if (this.current === "line" && stroke.length > 1) {
      this.edits.apply({ op: "split", id, by: "line", line: stroke.map(rounded) }, "Mask split along the line.");
      this.set("look");
    } else if ((this.current === "add" || this.current === "erase") && stroke.length > 2) {
      const message = this.current === "add" ? "Added to the mask." : "Erased from the mask.";
      this.edits.apply({ op: this.current, id, polygon: stroke.map(rounded) }, message);
    }
  }

  endBox(stroke) {
    if (stroke.length < 2) return;
    const { width, height } = this.scene.image;
    const xs = stroke.map(([x]) => Math.min(width, Math.max(0, x)));
    const ys = stroke.map(([, y]) => Math.min(height, Math.max(0, y)));
    const box = [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
    if (box[2] - box[0] >= 1 && box[3] - box[1] >= 1) this.prompt.setBox(box);
  }

  // --- keyboard ----------------------------------------------------------------------------------------------------

  /** Moves the crosshair by steps of the screen; it starts in the middle of what is visible. */
  moveCrosshair(dx, dy) {
    const { view, area } = this.viewer;
    const [x, y] = this.crosshair ? view.toScreen(...this.crosshair) : [view.width / 2 - dx, view.height / 2 - dy];
    const clamp = (value, limit) => Math.min(limit - 1, Math.max(0, value));
    const [ix, iy] = view.toImage(clamp(x + dx, area.clientWidth), clamp(y + dy, area.clientHeight));
    const { image } = this.scene;
    this.crosshair = [clamp(ix, image.width), clamp(iy, image.height)];
    this.scene.hoverAt(...this.crosshair);
    if (this.current === "box" && this.stroke.length) this.stroke = [this.stroke[0], this.crosshair];
    this.viewer.mark("ink");
    say(`${Math.round(this.crosshair[0])}, ${Math.round(this.crosshair[1])}`);
  }

  /** Space: a click at the crosshair, or the next corner of what is drawn. */
  press(isSecond, isAdding) {
    if (!this.crosshair) return this.moveCrosshair(0, 0);
    if (!this.draws) return this.click(this.crosshair, { isSecond, isAdding });
    if (this.current === "box" && this.stroke.length) return this.end();
    this.stroke.push(this.crosshair);
    say(`Corner ${this.stroke.length}. Enter ends the shape.`);
    return this.viewer.mark("ink");
  }

  /** Enter: accepts what is shown. */
  enter() {
    if (this.stroke.length) this.end();
    else if (this.prompt.candidate) this.prompt.accept();
    else return false;
    return true;
  }

  // --- drawing -----------------------------------------------------------------------------------------------------

  /** @param {CanvasRenderingContext2D} context in CSS pixels */
  drawInk(context) {
    this.drawCandidate(context);
    this.drawStroke(context);
    const { view } = this.viewer;
    if (this.prompt.box && !this.stroke.length) {
      const [left, top] = view.toScreen(this.prompt.box[0], this.prompt.box[1]);
      const [right, bottom] = view.toScreen(this.prompt.box[2], this.prompt.box[3]);
      twice(context, () => context.strokeRect(left, top, right - left, bottom - top), [6, 4]);
    }
    this.prompt.points.forEach((point, k) => drawPoint(context, view.toScreen(...point), this.prompt.labels[k] === 1));
    if (this.crosshair) drawCrosshair(context, view.toScreen(...this.crosshair));
  }

  drawCandidate(context) {
    const { candidate } = this.prompt;
    if (!candidate) return;
    const path = new Path2D();
    for (const ring of candidate.outline) {
      ring.forEach((point, k) => path[k ? "lineTo" : "moveTo"](...this.viewer.view.toScreen(...point)));
      path.closePath();
    }
    context.fillStyle = "rgb(45 212 191 / 45%)";
    context.fill(path, "evenodd");
    twice(context, () => context.stroke(path), []);
  }

  drawStroke(context) {
    if (!this.stroke.length) return;
    const points = this.stroke.map((point) => this.viewer.view.toScreen(...point));
    const path = new Path2D();
    if (this.current === "box" && points.length === 2) {
      const [[left, top], [right, bottom]] = points;
      path.rect(left, top, right - left, bottom - top);
    } else {
      points.forEach((point, k) => path[k ? "lineTo" : "moveTo"](...point));
      if (this.crosshair) path.lineTo(...this.viewer.view.toScreen(...this.crosshair));
      if (this.current !== "line") path.closePath();
    }
    if (this.current === "add" || this.current === "erase") {
      context.fillStyle = this.current === "add" ? "rgb(45 212 191 / 35%)" : "rgb(239 68 68 / 35%)";
      context.fill(path);
    }
    twice(context, () => context.stroke(path), this.current === "line" ? [] : [6, 4]);
  }
}

const distance = ([ax, ay], [bx, by]) => Math.hypot(ax - bx, ay - by);
const rounded = ([x, y]) => [Math.round(x * 100) / 100, Math.round(y * 100) / 100];

/** A white line on a dark one is seen on any picture. */
function twice(context, stroke, dash) {
  context.lineJoin = "round";
  context.setLineDash([]);
  context.lineWidth = 4;
  context.strokeStyle = "rgb(0 0 0 / 70%)";
  stroke();
  context.setLineDash(dash);
  context.lineWidth = 2;
  context.strokeStyle = "white";
  stroke();
  context.setLineDash([]);
}

/** A disc with a plus or a minus. */
function drawPoint(context, [x, y], isPositive) {
  context.beginPath();
  context.arc(x, y, 8, 0, 2 * Math.PI);
  context.fillStyle = isPositive ? "#0f766e" : "#b91c1c";
  context.fill();
  context.lineWidth = 2;
  context.strokeStyle = "white";
  context.stroke();
  context.beginPath();
  context.moveTo(x - 4, y);
  context.lineTo(x + 4, y);
  if (isPositive) {
    context.moveTo(x, y - 4);
    context.lineTo(x, y + 4);
  }
  context.stroke();
}

function drawCrosshair(context, [x, y]) {
  const path = new Path2D();
  for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
    path.moveTo(x + 4 * dx, y + 4 * dy);
    path.lineTo(x + 16 * dx, y + 16 * dy);
  }
  twice(context, () => context.stroke(path), []);
}
