// What a tester of accessibility looks for: names of controls, contrast of texts, unique ids.
(() => {
  const controls = "button, input, select, textarea, summary, [role=treeitem], [role=tree], [role=application], dialog[open]";
  const hasName = (control) => control.getAttribute("aria-label") || control.textContent.trim()
    || [...(control.labels ?? [])].some((label) => label.textContent.trim())
    || document.getElementById(control.getAttribute("aria-labelledby"))?.textContent;

  // Contrast as WCAG 2.2 defines it; at least 4.5 for texts (1.4.3), except those of disabled controls.
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (text) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = text;
    canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const linear = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const ground = (node) => {
    const colour = rgba(getComputedStyle(node).backgroundColor);
    return colour[3] === 255 || !node.parentElement ? colour : ground(node.parentElement);
  };
  const contrast = (node) => {
    const [low, high] = [luminance(rgba(getComputedStyle(node).color)), luminance(ground(node))].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const isExempt = (node) => node.closest(":disabled, .visually-hidden, .skip, svg") || node.querySelector(":scope > :disabled")
    || node.parentElement?.querySelector(":scope > :disabled");
  const hasText = (node) => [...node.childNodes].some((child) => child.nodeType === Node.TEXT_NODE && child.data.trim());

  const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
  return {
    nameless: [...document.querySelectorAll(controls)].filter((node) => node.checkVisibility() && !hasName(node)).map((node) => node.outerHTML),
    faint: [...document.querySelectorAll("body *")]
      .filter((node) => node.checkVisibility() && hasText(node) && !isExempt(node) && contrast(node) < 4.5)
      .map((node) => `${node.className} "${node.textContent}" ${contrast(node).toFixed(2)}`),
    double: ids.filter((id, place) => ids.indexOf(id) !== place),
  };
})();
