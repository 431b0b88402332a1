/** Elements from a tag, properties and children. Styles are set as properties: the page allows no inline style. */

/** @returns {any} the element of the page with this id */
export const byId = (id) => document.getElementById(id);

/**
 * @param {string} tag
 * @param {Record<string, any>} properties `class`, `data`, `on` (listeners), attributes with a dash or `role`; else properties
 * @param {(Node | string)[]} children
 */
export function element(tag, properties = {}, children = []) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name === "class") node.className = value;
    else if (name === "data") Object.assign(node.dataset, value);
    else if (name === "on") for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else if (name.includes("-") || name === "role" || name === "for") node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children);
  return node;
}

const SVG = "http://www.w3.org/2000/svg";

/** An icon of icons.svg; the control that holds it has the name. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `/static/icons.svg#${name}`);
  svg.append(use);
  return svg;
}

/** True while the keyboard types text or moves a control of its own, so that shortcuts must not act. */
export function takesKeys(target) {
  return target instanceof HTMLElement && target.matches("input, select, textarea, [contenteditable]");
}
