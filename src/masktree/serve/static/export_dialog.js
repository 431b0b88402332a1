/** Dialog that makes files for other tools and saves them. */

import { requestBlob } from "./api.js";
import { announce } from "./announce.js";
import { byId, element } from "./dom.js";

const ONLY = { all: "all that are not rejected", classified: "with a class", accepted: "accepted" };

export class ExportDialog {
  /** @param {import("./scene.js").Scene} scene @param {import("./image_list.js").ImageList} list */
  constructor(scene, list) {
    Object.assign(this, { scene, list });
    this.dialog = byId("export");
    this.format = "qupath";
  }

  open() {
    const done = this.list.images.filter((image) => image.status === "done");
    const isOpenDone = this.scene.image?.status === "done";
    if (done.length === 0) return announce("There are no masks to export yet.", "error");
    const help = element("p", { class: "hint", id: "format-help" });
    const format = element("select", { id: "format", "aria-describedby": "format-help", on: { change: () => showHelp() } },
      this.list.formats.map(({ name }) => element("option", { value: name, selected: name === this.format }, [name])));
    const showHelp = () => {
      const chosen = this.list.formats.find(({ name }) => name === format.value);
      help.textContent = chosen ? chosen.help : "";
    };
    showHelp();
    const scope = (value, text, checked, disabled = false) => element("label", { class: "check" }, [element("input", { type: "radio", name: "scope", value, checked, disabled }), element("span", {}, [text])]);
    const only = element("select", { id: "only" }, Object.entries(ONLY).map(([value, text]) => element("option", { value }, [text])));
    const start = element("button", { type: "submit", class: "primary", id: "export-start" }, ["Save"]);
    const form = element("form", { on: { submit: (event) => { event.preventDefault(); this.save(format.value, form.elements.scope.value, only.value, start); } } }, [
      element("h2", { id: "export-title" }, ["Export"]),
      element("label", { class: "field", for: "format" }, ["Format", format]),
      help,
      element("fieldset", {}, [element("legend", {}, ["Images"]),
        scope("this", isOpenDone ? `This image: ${this.scene.image.name}` : "This image (it has no masks)", isOpenDone, !isOpenDone),
        scope("all", `All ${done.length} images with masks`, !isOpenDone)]),
      element("label", { class: "field", for: "only" }, ["Masks", only]),
      element("p", { class: "hint" }, ["Your edits, names and classes are applied; rejected masks are left out."]),
      element("div", { class: "dialog-buttons" }, [
        element("button", { type: "button", class: "quiet bordered", on: { click: () => this.dialog.close() } }, ["Cancel"]),
        start,
      ]),
    ]);
    this.dialog.replaceChildren(form);
    this.dialog.showModal();
    return format.focus();
  }

  async save(format, scope, only, button) {
    this.format = format;
    button.disabled = true;
    button.textContent = "Making the file …";
    try {
      const images = scope === "all" ? null : [this.scene.image.id];
      const { blob, headers } = await requestBlob("POST", "/api/export", { format, images, options: { only } });
      const name = fileName(headers.get("Content-Disposition")) ?? `masktree-${format}.zip`;
      const link = element("a", { href: URL.createObjectURL(blob), download: name });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
      this.dialog.close();
      announce(`${name} saved.`);
    } catch (error) {
      announce(error.message, "error");
    } finally {
      button.disabled = false;
      button.textContent = "Save";
    }
  }
}

function fileName(header) {
  const encoded = header?.match(/filename\*=utf-8''([^;]+)/i);
  if (encoded) return decodeURIComponent(encoded[1]);
  return header?.match(/filename="?([^";]+)"?/)?.[1] ?? null;
}
