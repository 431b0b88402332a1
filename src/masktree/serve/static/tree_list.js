/** The tree of masks as a list that only holds the rows in sight; its selection is that of the image. */

import { cssOf } from "./colours.js";
import { byId, element, icon } from "./dom.js";

const ROW = 32; // CSS pixels, as in the style sheet
const MARGIN = 6; // rows drawn above and below what is visible

export class TreeList {
  /** @param {import("./scene.js").Scene} scene @param {(id: number) => void} onShow shows a mask on the image */
  constructor(scene, onShow) {
    this.scene = scene;
    this.onShow = onShow;
    this.list = byId("tree");
    this.space = element("div", { class: "tree-space", role: "presentation" });
    this.list.append(this.space);
    this.search = "";
    /** @type {Set<number>} ids of the masks whose children are shown */
    this.opened = new Set();
    /** @type {number[]} indices of the masks in the rows */
    this.rows = [];
    this.active = null; // id of the row that has the keyboard
    scene.addEventListener("image", () => this.reset());
    scene.addEventListener("tree", () => this.layOut());
    scene.addEventListener("display", () => this.layOut());
    scene.addEventListener("selection", () => this.follow());
    scene.addEventListener("hover", () => this.draw());
    this.list.addEventListener("scroll", () => this.draw());
    this.list.addEventListener("click", (event) => this.click(event));
    this.list.addEventListener("dblclick", (event) => this.showRow(event));
    this.list.addEventListener("pointerover", (event) => this.hover(event));
    this.list.addEventListener("pointerleave", () => scene.setHovered(null));
    this.list.addEventListener("keydown", (event) => this.key(event));
    this.list.addEventListener("focus", () => this.draw());
    byId("mask-search").addEventListener("input", (event) => this.find(event.target.value));
    byId("collapse-all").addEventListener("click", () => this.setAll(false));
    byId("expand-all").addEventListener("click", () => this.setAll(true));
    new ResizeObserver(() => this.draw()).observe(this.list);
  }

  reset() {
    this.opened.clear();
    this.active = null;
    this.search = "";
    byId("mask-search").value = "";
    this.layOut();
  }

  find(text) {
    this.search = text.trim().toLowerCase();
    this.layOut();
  }

  setAll(isOpen) {
    this.opened = new Set(isOpen && this.scene.tree ? this.scene.tree.masks.map((mask) => mask.id) : []);
    this.layOut();
  }

  /** Which masks have a row, from top to bottom. Found masks are listed flat. */
  layOut() {
    const { tree } = this.scene;
    this.rows = [];
    if (tree) {
      const isFound = (index) => `${tree.label(index)} ${tree.masks[index].id} ${tree.masks[index].class ?? ""}`.toLowerCase().includes(this.search);
      const add = (index) => {
        if (this.scene.isVisible(index) && (!this.search || isFound(index))) this.rows.push(index);
        // Children of a mask that the filters hide are listed all the same.
        if (this.search || !this.scene.isVisible(index) || this.opened.has(tree.masks[index].id)) tree.children[index].forEach(add);
      };
      tree.roots.forEach(add);
      if (this.search) this.rows.sort((a, b) => tree.masks[b].area - tree.masks[a].area);
    }
    byId("mask-count").textContent = tree ? String(tree.masks.length) : "";
    this.space.style.height = `${this.rows.length * ROW}px`;
    this.draw();
  }

  /** Opens the way to the selected mask and brings it into sight. */
  follow() {
    const id = this.scene.lastSelected;
    if (id !== null) {
      const { tree } = this.scene;
      const ancestors = tree.chain(tree.indices.get(id)).slice(1).map((index) => tree.masks[index].id);
      const closed = ancestors.filter((ancestor) => !this.opened.has(ancestor));
      for (const ancestor of closed) this.opened.add(ancestor);
      if (closed.length) this.layOut();
      this.active = id;
      this.bringIntoSight();
    }
    this.draw();
  }

  bringIntoSight() {
    const place = this.activePlace;
    if (place < 0) return;
    const top = place * ROW;
    if (top < this.list.scrollTop) this.list.scrollTop = top - ROW;
    else if (top + ROW > this.list.scrollTop + this.list.clientHeight) this.list.scrollTop = top + 2 * ROW - this.list.clientHeight;
  }

  get activePlace() {
    return this.active === null || !this.scene.tree?.has(this.active) ? -1 : this.rows.indexOf(this.scene.tree.indices.get(this.active));
  }

  draw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = null;
      const first = Math.max(0, Math.floor(this.list.scrollTop / ROW) - MARGIN);
      const last = Math.min(this.rows.length, Math.ceil((this.list.scrollTop + this.list.clientHeight) / ROW) + MARGIN);
      const rows = [];
      for (let place = first; place < last; place++) rows.push(this.row(place));
      this.space.replaceChildren(...rows);
      const active = this.activePlace;
      if (active >= first && active < last) this.list.setAttribute("aria-activedescendant", `row-${this.active}`);
      else this.list.removeAttribute("aria-activedescendant");
    });
  }

  row(place) {
    const { tree, selection, hoveredId } = this.scene;
    const index = this.rows[place];
    const mask = tree.masks[index];
    const siblings = mask.parent === null ? tree.roots : tree.children[tree.parents[index]];
    const hasChildren = tree.children[index].length > 0 && !this.search;
    const isOpen = this.opened.has(mask.id);
    const depth = this.search ? 0 : tree.depth[index];
    const isSelected = selection.has(mask.id);
    const swatch = element("span", { class: "swatch" });
    swatch.style.backgroundColor = cssOf(mask.id);
    const twisty = element("span", { class: hasChildren ? `twisty${isOpen ? " open" : ""}` : "twisty none", data: { twisty: "" } }, hasChildren ? [icon("twisty")] : []);
    const badges = [];
    if (mask.class && mask.name) badges.push(element("span", { class: "badge" }, [mask.class]));
    if (mask.status) badges.push(element("span", { class: `status ${mask.status}`, title: mask.status }, [icon(mask.status === "accepted" ? "accept" : "reject")]));
    const row = element("div", {
      id: `row-${mask.id}`,
      class: `row${isSelected ? " selected" : ""}${mask.id === hoveredId ? " hovered" : ""}${mask.id === this.active ? " active" : ""}${mask.status ? ` is-${mask.status}` : ""}`,
      role: "treeitem",
      "aria-level": String(depth + 1),
      "aria-selected": String(isSelected),
      "aria-setsize": String(this.search ? this.rows.length : siblings.length),
      "aria-posinset": String(this.search ? place + 1 : siblings.indexOf(index) + 1),
      "aria-label": describe(tree, index),
      data: { id: String(mask.id) },
    }, [twisty, swatch, element("span", { class: "row-name" }, [tree.label(index)]), ...badges, element("span", { class: "row-score" }, [mask.score.toFixed(2)])]);
    if (hasChildren) row.setAttribute("aria-expanded", String(isOpen));
    row.style.top = `${place * ROW}px`;
    row.style.paddingLeft = `${6 + Math.min(depth, 12) * 14}px`;
    return row;
  }

  // --- pointer ---------------------------------------------------------------------------------------------------

  /** What lies under the pointer now: rows may have been drawn anew since the button went down. */
  under(event) {
    return document.elementFromPoint(event.clientX, event.clientY) ?? event.target;
  }

  idOf(event) {
    const row = this.under(event).closest(".row");
    return row ? Number(row.dataset.id) : null;
  }

  click(event) {
    const id = this.idOf(event);
    if (id === null) return;
    this.active = id;
    if (this.under(event).closest("[data-twisty] svg")) this.toggle(id);
    else if (event.shiftKey && this.scene.lastSelected !== null) this.selectRange(id);
    else this.scene.select([id], event.ctrlKey || event.metaKey ? "toggle" : "replace");
  }

  selectRange(id) {
    const { tree, lastSelected } = this.scene;
    const places = [lastSelected, id].map((mask) => this.rows.indexOf(tree.indices.get(mask))).sort((a, b) => a - b);
    const ids = this.rows.slice(Math.max(0, places[0]), places[1] + 1).map((index) => tree.masks[index].id);
    this.scene.select([...ids.filter((other) => other !== id), id], "add");
  }

  showRow(event) {
    const id = this.idOf(event);
    if (id !== null) this.onShow(id);
  }

  hover(event) {
    const id = event.pointerType === "touch" ? null : this.idOf(event);
    if (id !== null && this.scene.tree.has(id) && id !== this.scene.hoveredId) this.scene.hoverMask(id);
  }

  toggle(id, isOpen = !this.opened.has(id)) {
    if (isOpen) this.opened.add(id);
    else this.opened.delete(id);
    this.layOut();
  }

  // --- keyboard, as the tree pattern of the WAI-ARIA guide says -------------------------------------------------------

  key(event) {
    if (!this.rows.length || event.altKey) return;
    const { tree } = this.scene;
    const place = this.activePlace;
    const index = place < 0 ? this.rows[0] : this.rows[place];
    const { id } = tree.masks[index];
    const isOpen = this.opened.has(id);
    const page = Math.floor(this.list.clientHeight / ROW) - 1;
    const go = (to) => this.goTo(Math.min(this.rows.length - 1, Math.max(0, to)), event);
    const actions = {
      ArrowDown: () => go(place + 1),
      ArrowUp: () => go(place - 1),
      PageDown: () => go(place + page),
      PageUp: () => go(place - page),
      Home: () => go(0),
      End: () => go(this.rows.length - 1),
      ArrowRight: () => (tree.children[index].length === 0 ? undefined : isOpen ? go(place + 1) : this.toggle(id, true)),
      ArrowLeft: () => (isOpen && tree.children[index].length ? this.toggle(id, false) : go(this.rows.indexOf(tree.parents[index]))),
      " ": () => this.scene.select([id], event.ctrlKey || event.metaKey || event.shiftKey ? "toggle" : "replace"),
      Enter: () => this.onShow(id),
    };
    if (!(event.key in actions)) return;
    event.preventDefault();
    event.stopPropagation();
    actions[event.key]();
  }

  goTo(place, event) {
    const { id } = this.scene.tree.masks[this.rows[place]];
    this.active = id;
    if (event.ctrlKey || event.metaKey) {
      this.scene.hoverMask(id); // moves without selecting
      this.bringIntoSight();
    } else this.scene.select([id], event.shiftKey ? "add" : "replace");
  }
}

/** What a screen reader says of a mask. */
export function describe(tree, index) {
  const mask = tree.masks[index];
  const parts = [tree.label(index)];
  if (mask.name || mask.class) parts.push(mask.level);
  if (mask.name && mask.class) parts.push(mask.class);
  if (mask.status) parts.push(mask.status);
  parts.push(`score ${mask.score.toFixed(2)}`, `${mask.area} pixels`);
  return parts.join(", ");
}
