/** The keyboard: one table for what keys do and for the help that lists them. */

import { byId, element, takesKeys } from "./dom.js";

const PAN = 60; // CSS pixels a key press
const STEP = 8; // of the crosshair
const STORED = "masktree-characters";

export class Keys {
  /** @param {Record<string, any>} parts the parts of the page by name, see main.js */
  constructor(parts) {
    this.parts = parts;
    this.table = this.makeTable();
    this.hasCharacters = localStorage.getItem(STORED) !== "off"; // single characters may come from speech or by accident
    document.addEventListener("keydown", (event) => this.down(event));
    document.addEventListener("keyup", (event) => {
      if (event.key === " ") parts.gestures.isSpaceDown = false;
    });
    byId("help-button").addEventListener("click", () => this.showHelp());
  }

  /** Groups of [keys to show, what they do, keys as the browser names them, action]. */
  makeTable() {
    const { corrections, tools, controls, viewer, scene, prompt, images, exportDialog, classList, panel } = this.parts;
    const showSelected = () => scene.lastSelected !== null && viewer.show(scene.tree.get(scene.lastSelected).bbox);
    return [
      ["Look", [
        ["+  −", "zoom in and out", { "+": () => viewer.zoom(1.25), "=": () => viewer.zoom(1.25), "-": () => viewer.zoom(0.8) }],
        ["0", "whole image", { 0: () => viewer.fit() }],
        ["Z", "zoom to the selected mask", { z: showSelected }],
        ["Shift + arrows", "move the image", {}],
        ["↑  ↓", "on the image: to the whole, to the part", {}],
        ["[  ]", "granularity finer, coarser", { "[": () => controls.moveGranularity(-0.02), "]": () => controls.moveGranularity(0.02) }],
        ["O", "picture alone", { o: () => controls.toggleOriginal() }],
        ["D", "regions or masks", { d: () => controls.toggleMasks() }],
        ["I", "outlines only", { i: () => scene.setDisplay({ outlinesOnly: !scene.display.outlinesOnly }) }],
        ["PageUp  PageDown", "previous, next image", { PageUp: () => images.step(-1), PageDown: () => images.step(1) }],
        ["/", "find a mask", { "/": () => byId("mask-search").focus() }],
      ]],
      ["Click", [
        ["V  C  B", "tools: select, click, box", { v: () => tools.set("look"), c: () => tools.set("point"), b: () => tools.set("box") }],
        ["Alt + click", "a place that does not belong to it (also right click)", {}],
        [",  .", "previous, next answer", { ",": () => prompt.next(-1), ".": () => prompt.next(1) }],
        ["Enter", "accept the new mask", {}],
        ["Backspace", "take back the last click", {}],
        ["Esc", "drop it, then the tool, then the selection", {}],
      ]],
      ["Correct", [
        ["A  R", "accept, reject; once more takes it back", { a: () => corrections.setStatus("accepted"), r: () => corrections.setStatus("rejected") }],
        ["M", "merge the selected masks", { m: () => corrections.merge() }],
        ["S", "split along the dendrogram", { s: () => corrections.split() }],
        ["L", "split by a drawn line", { l: () => tools.set("line") }],
        ["P  E", "draw around pixels to add, to erase", { p: () => tools.set("add"), e: () => tools.set("erase") }],
        ["Del", "delete", { Delete: () => corrections.delete() }],
        ["N", "rename", { n: () => panel.rename(), F2: () => panel.rename() }],
        ["1 – 9", "class", Object.fromEntries([1, 2, 3, 4, 5, 6, 7, 8, 9].map((digit) => [digit, () => corrections.setClassNumber(digit)]))],
        ["K", "edit the list of classes", { k: () => classList.open() }],
        ["Ctrl + Z", "undo", {}],
        ["Ctrl + Shift + Z", "redo", {}],
      ]],
      ["Without a mouse", [
        ["Arrows", "with a tool: move the crosshair (Shift: far)", {}],
        ["Space", "click, or set a corner, at the crosshair (Alt: take away)", {}],
        ["Enter", "end the shape", {}],
        ["T", "go to the list of masks", { t: () => byId("tree").focus() }],
        ["X", "export", { x: () => exportDialog.open() }],
        ["?", "this help", { "?": () => this.showHelp() }],
      ]],
    ];
  }

  down(event) {
    if (document.querySelector("dialog[open]") || event.defaultPrevented) return;
    if (event.key === "Escape") return this.escape(event);
    if (takesKeys(event.target) && !(event.target.matches("input[type=range], input[type=checkbox], input[type=radio]") && !event.key.startsWith("Arrow"))) return undefined;
    if ((event.ctrlKey || event.metaKey) && !event.altKey) return this.history(event);
    const onImage = event.target === this.parts.viewer.area || event.target === document.body;
    if (onImage && this.onImage(event)) return event.preventDefault();
    if (event.altKey) return undefined;
    if (event.key.length === 1 && !this.hasCharacters) return undefined;
    const run = this.find(event.key.length === 1 ? event.key.toLowerCase() : event.key);
    if (!run) return undefined;
    event.preventDefault();
    return run();
  }

  find(key) {
    for (const [, rows] of this.table) for (const [, , actions] of rows) if (Object.hasOwn(actions, key)) return actions[key];
    return null;
  }

  escape(event) {
    if (takesKeys(event.target)) return this.parts.viewer.area.focus();
    if (!this.parts.sheets.closeAll()) this.parts.tools.escape();
    return undefined;
  }

  history(event) {
    const key = event.key.toLowerCase();
    const { corrections } = this.parts;
    if (key !== "z" && key !== "y") return;
    event.preventDefault();
    if (key === "y" || event.shiftKey) corrections.redo();
    else corrections.undo();
  }

  /** Arrows, Space, Enter, Backspace on the image. @returns {boolean} true if the key did something */
  onImage(event) {
    const { tools, viewer, scene, prompt, gestures } = this.parts;
    const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!scene.image) return false;
    if (arrow && tools.current !== "look") tools.moveCrosshair(...arrow.map((a) => a * STEP * (event.shiftKey ? 5 : 1)));
    else if (arrow && !event.shiftKey && arrow[1] && (scene.hovered || scene.selection.size)) scene.walk(-arrow[1]);
    else if (arrow) viewer.pan(-PAN * arrow[0], -PAN * arrow[1]);
    else if (event.key === " " && tools.current !== "look") tools.press(event.altKey, event.shiftKey);
    else if (event.key === " ") gestures.isSpaceDown = true;
    else if (event.key === "Enter") {
      if (!tools.enter() && scene.hoveredId !== null) scene.select([scene.hoveredId], event.shiftKey ? "toggle" : "replace");
    } else if (event.key === "Backspace" && !prompt.isEmpty) prompt.removeLast();
    else if (event.key === "Backspace") this.parts.corrections.delete();
    else return false;
    return true;
  }

  setCharacters(isOn) {
    this.hasCharacters = isOn;
    localStorage.setItem(STORED, isOn ? "on" : "off");
  }

  showHelp() {
    const dialog = byId("help");
    const groups = this.table.map(([title, rows]) => element("section", {}, [
      element("h3", {}, [title]),
      element("dl", {}, rows.flatMap(([keys, text]) => [
        element("dt", {}, keys.split(/ {2}/).flatMap((key, k) => (k ? [" ", element("kbd", {}, [key])] : [element("kbd", {}, [key])]))),
        element("dd", {}, [text]),
      ])),
    ]));
    dialog.replaceChildren(
      element("h2", { id: "help-title" }, ["Keyboard and mouse"]),
      element("p", { class: "hint" }, ["Wheel or pinch zooms, dragging moves the image, Alt + wheel goes from part to whole. Click selects; Shift or Ctrl and click adds to the selection."]),
      element("label", { class: "check" }, [
        element("input", { type: "checkbox", id: "characters", checked: this.hasCharacters, on: { change: (event) => this.setCharacters(event.target.checked) } }),
        element("span", {}, ["Shortcuts of a single letter, digit or sign"]),
      ]),
      element("div", { class: "help-groups" }, groups),
      element("div", { class: "dialog-buttons" }, [element("button", { type: "button", class: "primary", on: { click: () => dialog.close() } }, ["Close"])]),
    );
    dialog.showModal();
  }
}
