/** Tells what happened: to screen readers in the live region, to the eye in a note that goes away. */

import { byId, element } from "./dom.js";

const SECONDS = 5;

/** @param {string} message one sentence @param {"info" | "error"} kind */
export function announce(message, kind = "info") {
  byId("live").textContent = message;
  const toast = element("p", { class: `toast ${kind}` }, [message]);
  byId("toasts").replaceChildren(...[...byId("toasts").children].slice(-1), toast);
  setTimeout(() => toast.remove(), SECONDS * 1000 * (kind === "error" ? 2 : 1));
}

/** Tells screen readers only: what the eye sees anyway. */
export function say(message) {
  byId("live").textContent = message;
}

/** A line that stays below the header until it is taken away with null. */
export function notice(message) {
  const line = byId("notice");
  line.hidden = message === null;
  if (line.textContent !== (message ?? "")) line.textContent = message ?? "";
}
