/** The images of the folder: thumbnails, upload, and finding masks in them. */

import { requestJson } from "./api.js";
import { announce } from "./announce.js";
import { byId, element, icon } from "./dom.js";

const POLL = 1000; // milliseconds, while masks are being made
const STATUS = { none: "no masks yet", queued: "waiting", running: "finding masks", failed: "failed" };

/** Events: "loaded", "opened". */
export class ImageList extends EventTarget {
  /** @param {import("./scene.js").Scene} scene */
  constructor(scene) {
    super();
    this.scene = scene;
    this.images = [];
    this.formats = [];
    this.methods = [];
    this.search = "";
    /** @type {Map<string, {key: string, item: HTMLElement}>} rows by id, kept while what they say stays the same */
    this.items = new Map();
    this.list = byId("image-list");
    this.list.addEventListener("click", (event) => this.click(event));
    byId("image-search").addEventListener("input", (event) => {
      this.search = event.target.value.trim().toLowerCase();
      this.draw();
    });
    byId("files").addEventListener("change", (event) => this.upload([...event.target.files]).then(() => (event.target.value = "")));
    this.acceptDrops();
    // Whoever comes back to the page may have put images into the folder; a lost server is told when something is done.
    window.addEventListener("focus", () => this.load().catch(() => {}));
    scene.addEventListener("tree", () => this.countMasks());
  }

  /** Reads the list; asks again every second while masks are being made. */
  async load() {
    clearTimeout(this.timer);
    const answer = await requestJson("GET", "/api/images");
    Object.assign(this, { images: answer.images, formats: answer.formats, methods: answer.methods, folder: answer.folder });
    this.draw();
    this.dispatchEvent(new Event("loaded"));
    const isBusy = (image) => image.status === "running" || image.status === "queued";
    if (this.images.some(isBusy)) this.timer = setTimeout(() => this.load().catch(() => this.loadLater()), POLL);
    await this.refreshOpen();
  }

  /** The server does not answer: the next try comes later. */
  loadLater() {
    this.timer = setTimeout(() => this.load().catch(() => this.loadLater()), 5 * POLL);
  }

  /** Loads the masks of the open image once they are there. */
  async refreshOpen() {
    const image = this.open;
    if (!image || !this.scene.image) return;
    const before = this.scene.image;
    this.scene.image = image;
    if (image.status === "done" && before.status !== "done") {
      await this.scene.loadTree();
      announce(`${image.name}: ${this.scene.tree.masks.length} masks found.`);
    } else if (image.status !== before.status && image.status === "failed") announce(`${image.name}: ${image.error}`, "error");
    if (image.status !== before.status || image.progress !== before.progress) this.scene.emit("status");
  }

  get open() {
    return this.images.find((image) => image.id === this.scene.image?.id) ?? null;
  }

  countMasks() {
    const image = this.open;
    if (!image) return;
    image.masks = this.scene.tree.masks.length;
    image.edits = this.scene.tree.version;
    this.draw();
  }

  async show(image) {
    if (!image || image.id === this.scene.image?.id) return;
    history.replaceState(null, "", `#${image.id}`);
    const opening = this.scene.open(image);
    this.draw();
    this.dispatchEvent(new Event("opened"));
    try {
      await opening;
    } catch (error) {
      announce(`${image.name}: ${error.message}`, "error");
    }
  }

  /** Opens the next (+1) or previous (-1) image. */
  step(by) {
    const place = this.images.findIndex((image) => image.id === this.scene.image?.id);
    return this.show(this.images[place + by]);
  }

  click(event) {
    const button = event.target.closest("button[data-id]");
    if (button) this.show(this.images.find((image) => image.id === button.dataset.id));
  }

  draw() {
    const found = this.images.filter((image) => image.name.toLowerCase().includes(this.search));
    byId("image-count").textContent = this.images.length ? String(this.images.length) : "";
    const items = found.map((image) => this.itemOf(image));
    const isSame = items.length === this.list.children.length && items.every((item, k) => item === this.list.children[k]);
    if (isSame) return;
    const focused = document.activeElement?.closest?.("#image-list button")?.dataset.id;
    this.list.replaceChildren(...items);
    if (focused) this.list.querySelector(`button[data-id="${focused}"]`)?.focus();
  }

  itemOf(image) {
    const key = [image.name, image.status, image.progress, image.masks, image.edits, image.id === this.scene.image?.id].join("\n");
    const known = this.items.get(image.id);
    if (known?.key === key) return known.item;
    const item = this.item(image);
    this.items.set(image.id, { key, item });
    return item;
  }

  item(image) {
    const facts = image.status === "done" ? `${image.masks ?? 0} masks${image.edits ? ` · ${image.edits} edits` : ""}` : STATUS[image.status];
    const percent = image.status === "running" && image.progress !== null ? ` ${Math.round(100 * image.progress)} %` : "";
    const isOpen = image.id === this.scene.image?.id;
    const picture = element("img", { class: "thumb", alt: "", loading: "lazy", src: `/api/images/${image.id}/thumbnail`, width: 56, height: 56 });
    const button = element("button", { type: "button", class: `image${isOpen ? " open" : ""}`, data: { id: image.id } }, [
      picture,
      element("span", { class: "image-text" }, [
        element("span", { class: "image-name", title: image.name }, [image.name]),
        element("span", { class: `image-facts ${image.status}` }, [facts + percent]),
      ]),
    ]);
    if (isOpen) button.setAttribute("aria-current", "true");
    return element("li", {}, [button]);
  }

  // --- upload ------------------------------------------------------------------------------------------------------

  acceptDrops() {
    const { body } = document;
    const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    body.addEventListener("dragover", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      body.classList.add("dropping");
    });
    body.addEventListener("dragleave", (event) => {
      if (event.relatedTarget === null) body.classList.remove("dropping");
    });
    body.addEventListener("drop", (event) => {
      body.classList.remove("dropping");
      if (!hasFiles(event)) return;
      event.preventDefault();
      this.upload([...event.dataTransfer.files]);
    });
  }

  async upload(files) {
    if (files.length === 0) return;
    const form = new FormData();
    for (const file of files) form.append("files", file, file.name);
    try {
      const answer = await requestJson("POST", "/api/upload", form);
      for (const { name, error } of answer.refused) announce(`${name}: ${error}`, "error");
      await this.load();
      if (answer.images.length) {
        announce(`${answer.images.length} ${answer.images.length === 1 ? "image" : "images"} added.`);
        await this.show(this.images.find((image) => image.id === answer.images[0]));
      }
    } catch (error) {
      announce(error.message, "error");
    }
  }

  // --- masks ---------------------------------------------------------------------------------------------------------

  async segment(image, settings) {
    try {
      await requestJson("POST", `/api/images/${image.id}/segment`, settings);
      await this.load();
    } catch (error) {
      announce(`${image.name}: ${error.message}`, "error");
    }
  }

  async cancel(image) {
    try {
      await requestJson("DELETE", `/api/images/${image.id}/segment`);
      await this.load();
      announce(`${image.name}: stopped.`);
    } catch (error) {
      announce(`${image.name}: ${error.message}`, "error");
    }
  }
}

/** The card in the middle of the stage: what can be done where there are no masks to show. */
export class SegmentCard {
  /** @param {import("./scene.js").Scene} scene @param {ImageList} list */
  constructor(scene, list) {
    Object.assign(this, { scene, list });
    this.card = byId("card");
    for (const event of ["image", "tree", "status"]) scene.addEventListener(event, () => this.draw());
    list.addEventListener("loaded", () => this.draw());
  }

  draw() {
    const { image, tree } = this.scene;
    const key = `${image?.id} ${image?.status} ${image?.progress} ${tree !== null} ${this.list.images.length}`;
    if (key === this.key) return; // the same content: the keyboard stays where it is
    this.key = key;
    this.card.hidden = tree !== null;
    if (tree !== null) return;
    this.card.replaceChildren(...(image ? this.contents(image) : this.welcome()));
  }

  welcome() {
    if (this.list.images.length) return [element("p", {}, ["Choose an image."])];
    return [
      icon("upload"),
      element("h2", {}, ["Drop images here"]),
      element("p", {}, ["or choose files. They stay on this machine."]),
      element("button", { type: "button", class: "primary", on: { click: () => byId("files").click() } }, ["Choose images"]),
    ];
  }

  contents(image) {
    if (image.status === "queued" || image.status === "running") return this.progress(image);
    if (image.status === "done") return [element("p", { class: "loading" }, ["Reading the masks …"])];
    const method = element("select", { id: "method" }, this.list.methods.map((name) => element("option", { value: name }, [name])));
    const start = element("button", { type: "button", class: "primary", id: "segment", on: { click: () => this.list.segment(image, { method: method.value, quality: "fast", detail: "auto" }) } }, [icon("segment"), "Find masks"]);
    const rest = this.list.images.filter((other) => other.status === "none" && other.id !== image.id);
    const all = element("button", { type: "button", class: "quiet", on: { click: () => this.segmentAll([image, ...rest], method.value) } }, [`Find masks in all ${rest.length + 1} images without`]);
    return [
      ...(image.status === "failed" ? [element("p", { class: "error" }, [image.error ?? "It failed."])] : []),
      element("h2", {}, ["No masks yet"]),
      element("label", { class: "field", for: "method" }, ["Method", method]),
      start,
      ...(rest.length ? [all] : []),
    ];
  }

  progress(image) {
    const bar = element("progress", { max: 1, "aria-label": "Progress" });
    if (image.progress) bar.value = image.progress; // at 0 it moves: the worker process is starting
    return [
      element("h2", {}, [image.status === "queued" ? "Waiting for its turn …" : "Finding masks …"]),
      bar,
      element("button", { type: "button", class: "quiet bordered", id: "cancel", on: { click: () => this.list.cancel(image) } }, ["Cancel"]),
    ];
  }

  async segmentAll(images, method) {
    for (const image of images) await this.list.segment(image, { method, quality: "fast", detail: "auto" });
  }
}
