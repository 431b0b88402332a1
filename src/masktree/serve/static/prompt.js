/** Clicks and boxes on the image and the mask that the server makes of them, until it is accepted or dropped. */

import { ApiError, requestJson } from "./api.js";
import { announce, say } from "./announce.js";

/** @typedef {{rle: object, outline: number[][][], score: number, area: number, bbox: number[]}} Candidate */

/** Events: "change". */
export class Prompt extends EventTarget {
  /** @param {import("./scene.js").Scene} scene @param {import("./edits.js").Edits} edits */
  constructor(scene, edits) {
    super();
    this.scene = scene;
    this.edits = edits;
    this.granularity = null; // null: the best of all
    this.clear();
    scene.addEventListener("image", () => this.clear());
  }

  clear() {
    /** @type {[number, number][]} */
    this.points = [];
    this.labels = [];
    this.box = null;
    /** @type {Candidate[]} */
    this.candidates = [];
    this.place = 0;
    this.request = (this.request ?? 0) + 1;
    this.dispatchEvent(new Event("change"));
  }

  get isEmpty() {
    return this.points.length === 0 && this.box === null;
  }

  /** @returns {Candidate | null} */
  get candidate() {
    return this.candidates[this.place] ?? null;
  }

  addPoint(x, y, isPositive) {
    if (!isPositive && this.isEmpty) {
      announce("Click on the thing itself first; a negative click then takes a place away.", "error");
      return undefined;
    }
    this.points.push([x, y]);
    this.labels.push(isPositive ? 1 : 0);
    return this.ask();
  }

  setBox(box) {
    this.box = box;
    return this.ask();
  }

  setGranularity(granularity) {
    this.granularity = granularity;
    return this.isEmpty ? undefined : this.ask();
  }

  removeLast() {
    if (this.points.length) {
      this.points.pop();
      this.labels.pop();
    } else this.box = null;
    return this.isEmpty ? this.clear() : this.ask();
  }

  /** Asks for masks; one request at a time, and another one if something has changed meanwhile. */
  async ask() {
    this.request++;
    this.dispatchEvent(new Event("change"));
    if (this.isAsking) return;
    this.isAsking = true;
    let answered;
    try {
      do {
        answered = this.request;
        await this.askOnce(answered);
      } while (answered !== this.request && !this.isEmpty);
    } finally {
      this.isAsking = false;
    }
  }

  async askOnce(request) {
    const { points, labels, box, granularity } = this;
    let answer;
    try {
      answer = await requestJson("POST", `/api/images/${this.scene.image.id}/click`, { points, labels, box, granularity });
    } catch (error) {
      if (request !== this.request) return;
      announce(error.message, "error");
      if (error instanceof ApiError && error.status === 400) this.clear();
      return;
    }
    if (request !== this.request) return; // a later click was made meanwhile
    this.candidates = answer.masks;
    this.place = 0;
    this.dispatchEvent(new Event("change"));
    say(this.candidate ? `Mask of ${this.candidate.area} pixels. Enter accepts it, Escape drops it.` : "No mask there.");
  }

  /** Shows another of the server's answers. */
  next(step = 1) {
    if (this.candidates.length === 0) return;
    this.place = (this.place + step + this.candidates.length) % this.candidates.length;
    this.dispatchEvent(new Event("change"));
    say(`Answer ${this.place + 1} of ${this.candidates.length}, ${this.candidate.area} pixels.`);
  }

  async accept() {
    const { candidate } = this;
    if (!candidate) return;
    this.clear();
    await this.edits.apply({ op: "create", rle: candidate.rle, score: candidate.score }, "New mask added.");
  }
}
