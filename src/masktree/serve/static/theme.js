/** Light or dark: as the system has it, until the switch is used. */

import { byId } from "./dom.js";
import { announce } from "./announce.js";

const KEY = "masktree-theme";

export function startTheme() {
  const saved = localStorage.getItem(KEY);
  if (saved) document.documentElement.dataset.theme = saved;
  byId("theme-button").addEventListener("click", () => {
    const isDark = document.documentElement.dataset.theme
      ? document.documentElement.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    const theme = isDark ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    localStorage.setItem(KEY, theme);
    announce(`${theme === "dark" ? "Dark" : "Light"} colours.`);
  });
}
