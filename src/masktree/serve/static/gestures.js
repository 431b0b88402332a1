/** Mouse, pen, fingers and wheel on the image. */

const DRAG = 4; // CSS pixels; a shorter movement is a click

export class Gestures {
  /**
   * @param {import("./viewer.js").Viewer} viewer @param {import("./tools.js").Tools} tools
   * @param {import("./scene.js").Scene} scene
   */
  constructor(viewer, tools, scene) {
    Object.assign(this, { viewer, tools, scene });
    /** @type {Map<number, {x: number, y: number}>} pressed pointers */
    this.pointers = new Map();
    this.action = null; // "press", "pan", "draw", "pinch"
    const { area } = viewer;
    area.addEventListener("pointerdown", (event) => this.down(event));
    area.addEventListener("pointermove", (event) => this.move(event));
    area.addEventListener("pointerup", (event) => this.up(event));
    area.addEventListener("pointercancel", (event) => this.cancel(event));
    area.addEventListener("pointerleave", () => this.leave());
    area.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    area.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  place(event) {
    const box = this.viewer.area.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  down(event) {
    if (!this.scene.image) return;
    this.viewer.area.setPointerCapture(event.pointerId);
    const place = this.place(event);
    this.pointers.set(event.pointerId, place);
    this.tools.crosshair = null;
    if (this.pointers.size === 2) {
      this.action = "pinch";
      this.tools.stroke = [];
    } else if (this.pointers.size === 1) {
      this.start = place;
      const isMain = event.button === 0;
      if (event.button === 1 || this.isSpaceDown) this.action = "pan";
      else if (isMain && this.tools.draws && !(event.altKey && this.tools.prompt.box)) this.action = "draw";
      else this.action = "press";
      if (this.action === "draw") this.tools.begin(this.viewer.view.toImage(place.x, place.y));
    }
    if (event.button === 1) event.preventDefault();
  }

  move(event) {
    const place = this.place(event);
    const last = this.pointers.get(event.pointerId);
    if (!last) {
      if (event.pointerType !== "touch" && this.scene.tree) this.scene.hoverAt(...this.viewer.view.toImage(place.x, place.y));
      return;
    }
    if (this.action === "pinch") this.pinch(event.pointerId, place);
    else if (this.action === "draw") {
      for (const part of event.getCoalescedEvents?.() ?? [event]) {
        const { x, y } = this.place(part);
        this.tools.extend(this.viewer.view.toImage(x, y));
      }
    } else if (this.action === "pan") this.viewer.pan(place.x - last.x, place.y - last.y);
    else if (this.action === "press" && Math.hypot(place.x - this.start.x, place.y - this.start.y) > DRAG) {
      this.action = "pan";
      this.viewer.area.classList.add("panning");
      this.viewer.pan(place.x - this.start.x, place.y - this.start.y);
    }
    this.pointers.set(event.pointerId, place);
  }

  pinch(id, place) {
    const [first, second] = [...this.pointers.keys()];
    const other = this.pointers.get(id === first ? second : first);
    const last = this.pointers.get(id);
    if (!other) return;
    const before = Math.hypot(last.x - other.x, last.y - other.y);
    const after = Math.hypot(place.x - other.x, place.y - other.y);
    this.viewer.pan((place.x - last.x) / 2, (place.y - last.y) / 2);
    if (before > 0) this.viewer.zoom(after / before, (place.x + other.x) / 2, (place.y + other.y) / 2);
  }

  up(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    const place = this.place(event);
    const point = this.viewer.view.toImage(place.x, place.y);
    const isShort = Math.hypot(place.x - this.start.x, place.y - this.start.y) <= DRAG;
    const how = { isSecond: event.button === 2 || event.altKey, isAdding: event.shiftKey || event.ctrlKey || event.metaKey };
    if (this.action === "draw" && isShort && this.tools.current === "box") {
      this.tools.stroke = [];
      this.tools.click(point, how);
    } else if (this.action === "draw") this.tools.end();
    else if (this.action === "press") this.tools.click(point, how);
    if (this.pointers.size === 0 || this.action !== "pinch") this.action = null;
    this.viewer.area.classList.remove("panning");
  }

  cancel(event) {
    this.pointers.delete(event.pointerId);
    this.tools.stroke = [];
    this.action = null;
    this.viewer.mark("ink");
  }

  leave() {
    if (this.pointers.size === 0) this.scene.setHovered(null);
  }

  /** Zooms; with Alt, walks from part to whole. Control and wheel is what a pinch on a touchpad sends. */
  wheel(event) {
    event.preventDefault();
    if (!this.scene.image) return;
    const { x, y } = this.place(event);
    if (event.altKey) {
      this.wheelSum = (this.wheelSum ?? 0) + event.deltaY;
      if (Math.abs(this.wheelSum) < 30) return;
      this.scene.walk(this.wheelSum < 0 ? 1 : -1);
      this.wheelSum = 0;
      return;
    }
    const lines = event.deltaMode === 1 ? 20 : 1;
    this.viewer.zoom(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0015)), x, y);
  }
}
