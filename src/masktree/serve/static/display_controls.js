/** Sliders and switches of what is shown, and the line that names what is under the pointer. */

import { cssOf } from "./colours.js";
import { byId, element } from "./dom.js";

const MOUSE_HINT = "Point at the image. Alt + wheel or ↑ ↓ goes from part to whole; ? shows all keys.";
const TOUCH_HINT = "Tap a thing to select its mask.";

export class DisplayControls {
  /** @param {import("./scene.js").Scene} scene */
  constructor(scene) {
    this.scene = scene;
    this.listen("granularity", "input", (field) => this.setGranularity(Number(field.value)));
    this.listen("opacity", "input", (field) => scene.setDisplay({ opacity: Number(field.value) }));
    this.listen("outlines-only", "change", (field) => scene.setDisplay({ outlinesOnly: field.checked }));
    this.listen("min-area", "input", (field) => scene.setDisplay({ minArea: Number(field.value) }));
    this.listen("min-score", "input", (field) => scene.setDisplay({ minScore: Number(field.value) }));
    this.listen("hide-rejected", "change", (field) => scene.setDisplay({ hideRejected: field.checked }));
    byId("mode").addEventListener("change", (event) => this.setMode(event.target.value));
    for (const box of document.querySelectorAll("input[name=level]")) {
      box.addEventListener("change", () => {
        const levels = new Set([...document.querySelectorAll("input[name=level]:checked")].map((checked) => checked.value));
        scene.setDisplay({ levels });
      });
    }
    for (const event of ["display", "tree", "image"]) scene.addEventListener(event, () => this.draw());
    this.draw();
  }

  listen(id, event, run) {
    byId(id).addEventListener(event, (happened) => run(happened.target));
  }

  /** Moving the slider shows colours if the picture alone was shown. */
  setGranularity(granularity) {
    const { display } = this.scene;
    this.scene.setDisplay({ granularity, mode: display.mode === "original" ? (this.coloured ?? "masks") : display.mode });
  }

  moveGranularity(by) {
    this.setGranularity(Math.round(1000 * Math.min(1, Math.max(0, this.scene.display.granularity + by))) / 1000);
  }

  setMode(mode) {
    if (mode !== "original") this.coloured = mode;
    else if (this.scene.display.mode !== "original") this.coloured = this.scene.display.mode;
    this.scene.setDisplay({ mode });
  }

  /** Colours on and off. */
  toggleOriginal() {
    this.setMode(this.scene.display.mode === "original" ? (this.coloured ?? "masks") : "original");
  }

  toggleMasks() {
    this.setMode(this.scene.display.mode === "masks" && this.scene.tree?.hasRegions ? "regions" : "masks");
  }

  draw() {
    const { display, tree } = this.scene;
    const hasRegions = tree === null || tree.hasRegions;
    byId("granularity").value = display.granularity;
    byId("granularity-value").textContent = display.granularity.toFixed(2);
    byId("mode-note").hidden = hasRegions;
    byId("opacity").value = display.opacity;
    byId("opacity").disabled = display.outlinesOnly;
    byId("outlines-only").checked = display.outlinesOnly;
    byId("min-area-value").textContent = display.minArea === 0 ? "any" : shareText(display.minArea ** 2);
    byId("min-score-value").textContent = display.minScore === 0 ? "any" : display.minScore.toFixed(2);
    for (const radio of document.querySelectorAll("input[name=mode]")) {
      radio.checked = radio.value === display.mode;
      if (radio.value === "regions") radio.disabled = !hasRegions;
    }
    const shown = tree ? tree.masks.filter((_, index) => this.scene.isVisible(index)).length : 0;
    byId("filter-facts").textContent = tree && shown < tree.masks.length ? `${shown} of ${tree.masks.length}` : "";
  }
}

function shareText(share) {
  const percent = 100 * share;
  return `${percent < 0.1 ? percent.toFixed(3) : percent < 1 ? percent.toFixed(2) : percent.toFixed(1)} %`;
}

/** Tells what of the image is being loaded. */
export class LoadingLine {
  /** @param {import("./scene.js").Scene} scene */
  constructor(scene) {
    scene.addEventListener("loading", () => {
      const { size } = scene.loading;
      byId("loading").hidden = size === 0;
      if (size) byId("loading-text").textContent = `Loading ${[...scene.loading].join(", ")} …`;
    });
  }
}

/** Names the masks under the pointer: whole > part > subpart. */
export class ChainLine {
  /** @param {import("./scene.js").Scene} scene */
  constructor(scene) {
    this.scene = scene;
    this.line = byId("chain");
    for (const event of ["hover", "selection", "image", "tree"]) scene.addEventListener(event, () => this.draw());
  }

  draw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = null;
      this.line.replaceChildren(...this.contents());
    });
  }

  contents() {
    const { tree, hovered, hoveredId, lastSelected } = this.scene;
    if (!tree) return [];
    let ids = hovered?.chain;
    if (!ids && lastSelected !== null) ids = tree.chain(tree.indices.get(lastSelected)).map((index) => tree.masks[index].id);
    if (!ids) return [element("span", { class: "hint" }, [matchMedia("(hover: none)").matches ? TOUCH_HINT : MOUSE_HINT])];
    const marked = hoveredId ?? lastSelected;
    // A long chain shows its whole, the masks around the one that is outlined, and the smallest.
    const place = ids.indexOf(marked);
    const { clientWidth } = this.line;
    const reach = clientWidth < 420 ? 0 : clientWidth < 900 ? 1 : 2;
    const isShown = (k) => k === 0 || k === ids.length - 1 || Math.abs(k - place) <= reach;
    const parts = [];
    for (let k = ids.length - 1; k >= 0; k--) {
      if (!isShown(k)) {
        if (isShown(k + 1)) parts.push(element("span", { class: "chain-gap" }, ["…"]));
        continue;
      }
      const swatch = element("span", { class: "swatch" });
      swatch.style.backgroundColor = cssOf(ids[k]);
      parts.push(element("span", { class: ids[k] === marked ? "link marked" : "link", data: { id: String(ids[k]) } }, [swatch, element("span", { class: "link-name" }, [tree.label(tree.indices.get(ids[k]))])]));
    }
    return parts.flatMap((part, k) => (k ? [element("span", { class: "chain-sign", "aria-hidden": "true" }, ["›"]), part] : [part]));
  }
}
