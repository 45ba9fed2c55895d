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
  #canvas = make("canvas", { height: HEIGHT });
  #words = make("output", {});
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
  }

  get #kind() {
    return KINDS[this.#variant.about?.gate?.kind] ?? KINDS.confidence;
  }

  // The lead's score at each piece; null where the lead was not asked.
  get #scores() {
    const { about, steps } = this.#variant;
    const isGated = about?.gate?.kind in KINDS;
    return steps.map((step) => (isGated && step.gate ? step.gate.score : isGated ? null : (step.top?.[leadOf(step, about)]?.[0]?.p ?? null)));
  }

  update() {
    this.scores = this.#scores;
    const known = this.scores.some((score) => score !== null);
    this.element.hidden = !known;
    if (!known) return;
    if (this.#range.dataset.kind !== this.#kind.name) {
      this.#range.dataset.kind = this.#kind.name;
      this.#range.max = this.#kind.most;
      this.#range.value = this.#variant.about?.gate?.parameter ?? this.#kind.most / 2;
    }
    const lead = this.#variant.about?.lead ?? "the lead";
    this.element.firstChild.textContent = `${this.#kind.name} of ${lead}, piece by piece`;
    this.#draw();
  }

  asked(threshold) {
    return this.scores.filter((score) => score !== null && this.#kind.opens(score, threshold)).length;
  }

  #draw() {
    const threshold = Number(this.#range.value);
    const known = this.scores.filter((score) => score !== null).length;
    this.#words.textContent = `At ${threshold.toFixed(2)}, the others would have been asked at ${this.asked(threshold)} of ${plural(known, "piece")} of this text.`;
    this.#range.setAttribute("aria-valuetext", this.#words.textContent);
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
      const its = this.scores.slice(Math.floor((column * count) / columns), Math.floor(((column + 1) * count) / columns)).filter((score) => score !== null);
      if (!its.length) continue;
      pen.fillStyle = its.some((score) => this.#kind.opens(score, threshold)) ? warm : calm;
      const y = this.#y(Math.min(...its));
      pen.fillRect((column * width) / columns, y, Math.max(1, width / columns - (columns < width / 3 ? 1 : 0)), HEIGHT - y);
    }
  }

  #y(score) {
    return HEIGHT * (1 - Math.min(1, score / this.#kind.most));
  }

  #drag(event) {
    const box = this.#canvas.getBoundingClientRect();
    this.#range.value = this.#kind.most * (1 - (event.clientY - box.top) / box.height);
    this.#draw();
  }

  #placeAt(event) {
    const box = this.#canvas.getBoundingClientRect();
    return Math.floor((this.scores.length * (event.clientX - box.left)) / box.width);
  }
}
