/** Where the image lies on the screen: scale in screen pixels per image pixel, and the image's upper left corner. */

const MAX_SCALE = 40;

export class View {
  constructor() {
    this.scale = 1;
    this.left = 0;
    this.top = 0;
    this.width = 1; // of the screen area, in CSS pixels
    this.height = 1;
    this.imageWidth = 1;
    this.imageHeight = 1;
  }

  get fitScale() {
    return Math.min(this.width / this.imageWidth, this.height / this.imageHeight) * 0.96;
  }

  fit() {
    this.scale = this.fitScale;
    this.left = (this.width - this.imageWidth * this.scale) / 2;
    this.top = (this.height - this.imageHeight * this.scale) / 2;
  }

  /** Zooms by a factor around a point of the screen. */
  zoom(factor, x = this.width / 2, y = this.height / 2) {
    const scale = Math.min(MAX_SCALE, Math.max(this.fitScale / 2, this.scale * factor));
    const change = scale / this.scale;
    this.left = x - (x - this.left) * change;
    this.top = y - (y - this.top) * change;
    this.scale = scale;
    this.keepInSight();
  }

  pan(dx, dy) {
    this.left += dx;
    this.top += dy;
    this.keepInSight();
  }

  /** At least 40 pixels of the image stay on the screen. */
  keepInSight() {
    this.left = Math.min(this.width - 40, Math.max(40 - this.imageWidth * this.scale, this.left));
    this.top = Math.min(this.height - 40, Math.max(40 - this.imageHeight * this.scale, this.top));
  }

  /** Shows a box of the image with room around it. */
  show([x, y, width, height]) {
    this.scale = Math.min(MAX_SCALE / 4, (0.6 * this.width) / width, (0.6 * this.height) / height);
    this.left = this.width / 2 - (x + width / 2) * this.scale;
    this.top = this.height / 2 - (y + height / 2) * this.scale;
  }

  toImage(x, y) {
    return [(x - this.left) / this.scale, (y - this.top) / this.scale];
  }

  toScreen(x, y) {
    return [this.left + x * this.scale, this.top + y * this.scale];
  }
}
