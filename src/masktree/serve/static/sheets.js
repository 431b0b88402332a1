/** On a narrow screen the panels are sheets that cover the image, one at a time. */

import { byId } from "./dom.js";

const PANELS = ["images-panel", "masks-panel"];

export class Sheets {
  constructor() {
    this.narrow = matchMedia("(max-width: 860px)");
    for (const button of document.querySelectorAll("[data-opens]")) {
      button.addEventListener("click", () => this.open(button.dataset.opens));
    }
    for (const button of document.querySelectorAll("[data-closes]")) button.addEventListener("click", () => this.open(""));
    byId("images-button").addEventListener("click", () => {
      if (this.narrow.matches) this.open("images-panel");
      else this.setWide(document.body.classList.toggle("no-images"));
    });
    this.opened = "";
  }

  setWide(isHidden) {
    byId("images-button").setAttribute("aria-expanded", String(!isHidden));
  }

  /** @param {string} id of the panel to open, "" for the image */
  open(id) {
    const before = this.opened;
    this.opened = id;
    for (const panel of PANELS) byId(panel).classList.toggle("opened", panel === id);
    for (const button of document.querySelectorAll("[data-opens]")) {
      button.setAttribute("aria-expanded", String(button.dataset.opens === id));
    }
    if (!this.narrow.matches) return;
    if (id) byId(id).querySelector(".sheet-close").focus();
    else if (before) document.querySelector(`[data-opens="${before}"]`).focus();
  }

  /** @returns {boolean} true if a sheet was open */
  closeAll() {
    if (!this.opened || !this.narrow.matches) return false;
    this.open("");
    return true;
  }
}
