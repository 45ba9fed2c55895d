// The lead's confidence along an answer, with the gate's threshold as a line: how many pieces would have been asked.

import { make, plural } from "./dom.js";
import { leadOf } from "./outcome.js";

const HEIGHT = 56;
const KINDS = {
  confidence: { name: "confidence", most: 1, opens: (score, threshold) => score <= threshold },
  margin: { name: "margin", most: 1, opens: (score, threshold) => score <= threshold },
  entropy: { name: "entropy", most: 5, opens: (score, threshold) => score >= threshold },
};

export class Strip {
  #variant;
  #canvas = make("canvas", { height: HEIGHT, "aria-hidden": "true" }); // the slider says the same
  #words = make("output", { "aria-live": "off" }); // the slider says it, and not each time that a piece is written
  #swatches = ["calm", "warm", "line"].map((name) => make("i", { className: `swatch ${name}` }));
  #range = make("input", { type: "range", step: "any", min: 0, className: "threshold" });

  constructor(variant, { choose }) {
    this.#variant = variant;
    this.#range.setAttribute("aria-label", "Threshold of the gate");
    this.#range.addEventListener("input", () => this.#draw());
    this.#canvas.addEventListener("pointerdown", (event) => this.#drag(event));
    this.#canvas.addEventListener("pointermove", (event) => event.buttons && this.#drag(event));
    this.#canvas.addEventListener("dblclick", (event) => choose(this.#placeAt(event)));
    this.element = make("figure", { className: "strip" }, make("figcaption", {}), this.#canvas, this.#range, this.#words, ...this.#swatches);
    this.element.hidden = true;
    new ResizeObserver(() => this.redraw()).observe(this.element); // also once it is in the page, and has colours
  }

  get #kind() {
    return KINDS[this.#variant.about?.gate?.kind] ?? KINDS.confidence;
  }

  get #isGated() {
    return this.#variant.about?.gate?.kind in KINDS;
  }

  // What the strip reaches up to: the gate's own threshold may be above the usual scores.
  get #most() {
    return this.#isGated ? Math.max(this.#kind.most, this.#variant.about.gate.parameter) : this.#kind.most;
  }

  // The lead's score at each piece; null where the lead was not asked.
  get #scores() {
    const { about, steps } = this.#variant;
    const isGated = this.#isGated;
    return steps.map((step) => (isGated && step.gate ? step.gate.score : isGated ? null : (step.top?.[leadOf(step, about)]?.[0]?.p ?? null)));
  }

  update() {
    this.scores = this.#scores;
    const known = this.scores.some((score) => score !== null);
    this.element.hidden = !known;
    if (!known) return;
    if (this.#range.dataset.kind !== this.#kind.name) {
      this.#range.dataset.kind = this.#kind.name;
      this.#range.max = this.#most;
      this.#range.value = this.#isGated ? this.#variant.about.gate.parameter : this.#kind.most / 2;
    }
    const lead = this.#variant.about?.lead ?? "the lead";
    this.element.firstChild.textContent = `${this.#kind.name} of ${lead}, piece by piece`;
    this.#draw();
  }

  // Draws it again: its width or the colours are others.
  redraw() {
    if (this.element.isConnected && !this.element.hidden) this.#draw();
  }

  asked(threshold) {
    return this.scores.filter((_, place) => this.#opens(place, threshold)).length;
  }

  // Whether the gate would open at a piece: never inside a token of another member, where it keeps to boundaries.
  #opens(place, threshold) {
    const score = this.scores[place];
    return score !== null && !this.#variant.steps[place].gate?.inside && this.#kind.opens(score, threshold);
  }

  #draw() {
    const threshold = Number(this.#range.value);
    const known = this.scores.filter((score) => score !== null).length;
    this.#words.textContent = `At ${threshold.toFixed(2)}, the others would have been asked at ${this.asked(threshold)} of ${plural(known, "piece")} of this text.`;
    this.#range.setAttribute("aria-valuetext", this.#words.textContent);
    if (!this.element.isConnected) return;
    const width = Math.max(100, Math.round(this.element.clientWidth || 300));
    this.#canvas.width = width;
    const pen = this.#canvas.getContext("2d");
    const [calm, warm, line] = this.#swatches.map((swatch) => getComputedStyle(swatch).color);
    this.#paintScores(pen, width, [calm, warm], threshold);
    pen.fillStyle = line;
    pen.fillRect(0, this.#y(threshold) - 1, width, 2);
  }

  // A bar a piece, or a column of pixels where there are more pieces than pixels: its most and least score.
  #paintScores(pen, width, [calm, warm], threshold) {
    const count = this.scores.length;
    const columns = Math.min(count, width);
    for (let column = 0; column < columns; column++) {
      const [begin, end] = [column, column + 1].map((edge) => Math.floor((edge * count) / columns));
      const its = this.scores.slice(begin, end).filter((score) => score !== null);
      if (!its.length) continue;
      const isOpen = this.scores.slice(begin, end).some((_, place) => this.#opens(begin + place, threshold));
      pen.fillStyle = isOpen ? warm : calm;
      const y = this.#y(Math.min(...its));
      pen.fillRect((column * width) / columns, y, Math.max(1, width / columns - (columns < width / 3 ? 1 : 0)), HEIGHT - y);
    }
  }

  #y(score) {
    return HEIGHT * (1 - Math.min(1, score / this.#most));
  }

  #drag(event) {
    const box = this.#canvas.getBoundingClientRect();
    this.#range.value = this.#most * (1 - (event.clientY - box.top) / box.height);
    this.#draw();
  }

  #placeAt(event) {
    const box = this.#canvas.getBoundingClientRect();
    return Math.floor((this.scores.length * (event.clientX - box.left)) / box.width);
  }
}
