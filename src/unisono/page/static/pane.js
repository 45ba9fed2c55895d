// What is known of one piece: every member's likeliest pieces beside the combined ones, masses, gate, draft, spelling.

import { hex, label, same } from "./bytes.js";
import { announce, make, percent } from "./dom.js";
import { sentence, weightsOf } from "./outcome.js";

// A piece is pinned by a click or by Enter: until it is released, pointing at others does not replace it.
export class Pane {
  #text = null; // the text whose piece is shown
  #pin = make("p", { className: "pin", hidden: true, text: "Pinned. Escape, or another click on the piece, releases it." });

  constructor(element, { takePiece = null } = {}) {
    this.element = element;
    this.takePiece = takePiece;
    this.isPinned = false;
    element.addEventListener("focusin", () => this.#text && this.pin());
    document.addEventListener("keydown", (event) => this.#escape(event));
    this.clear();
  }

  pin() {
    this.isPinned = true;
    this.#pin.hidden = false;
  }

  release() {
    this.isPinned = false;
    this.#pin.hidden = true;
  }

  // Pins the piece and goes to the first that can be gone on from.
  enter() {
    this.pin();
    this.element.querySelector("button")?.focus();
  }

  #escape(event) {
    if (event.key !== "Escape" || event.defaultPrevented || document.querySelector("dialog[open]")) return;
    const isInside = this.element.contains(document.activeElement);
    this.release();
    if (isInside) this.#text?.focus();
  }

  clear() {
    this.#text = null;
    this.release();
    announce("");
    const words = "Point at a piece, or go through a text with the arrow keys: here stands what every member gave it. A click pins it.";
    this.element.replaceChildren(make("p", { className: "hint", text: words }));
  }

  shows(text) {
    return this.#text === text;
  }

  // Shows a piece of a text, whose element it is; says it aloud where it was chosen by a key or a click.
  show(variant, place, text, { aloud = false } = {}) {
    this.#text = text;
    const step = variant.steps[place];
    const about = variant.about;
    const heading = make("h2", { text: label(step), dir: "auto" });
    const where = make("p", { className: "where", text: `piece ${place + 1} of ${variant.steps.length}, ${variant.name}` });
    const facts = make("dl", {}, ...rows(step, about));
    if (aloud) announce(`Piece ${place + 1}, ${heading.textContent}: ${sentence(step, about)}`);
    this.element.replaceChildren(heading, where, this.#pin, make("p", { className: "sentence", text: sentence(step, about), dir: "auto" }), this.#columns(variant, place), facts);
  }

  #columns(variant, place) {
    const step = variant.steps[place];
    const weights = weightsOf(variant.about);
    const combined = step.likeliest ? [["combined", step.likeliest, null]] : [];
    const members = Object.entries(step.top ?? {}).map(([name, pieces]) => [name, pieces, weights[name]]);
    const lists = [...combined, ...members].map(([name, pieces, weight]) => {
      const title = weight === null || weight === undefined ? name : `${name}, ${weighed(weight)}`;
      const items = pieces.map((piece) => make("li", {}, this.#bar(variant, place, piece)));
      return make("section", {}, make("h3", { text: title }), make("ol", {}, ...items));
    });
    return make("div", { className: "columns" }, ...lists);
  }

  #bar(variant, place, piece) {
    const words = label(piece);
    const isChosen = same(piece, variant.steps[place]);
    const canTake = this.takePiece && piece.bytes !== null && !variant.isRecorded;
    const inside = [make("span", { className: "bar" }), make("span", { className: "words", text: words, dir: "auto" }), make("span", { className: "mass", text: percent(piece.p) })];
    inside[0].style.setProperty("--mass", piece.p);
    const className = `row${isChosen ? " chosen" : ""}`;
    if (!canTake) return make("span", { className }, ...inside);
    const title = isChosen ? `Go on from here with ${words}, as it was chosen` : `Go on from here with ${words}`;
    return make("button", { type: "button", className, title, "aria-label": `${title}: ${percent(piece.p)}`, onclick: () => this.takePiece(variant, place, piece) }, ...inside);
  }
}

function weighed(weight) {
  return weight < 0 ? `subtracted, weight \u2212${(-weight).toFixed(2)}` : `weight ${weight.toFixed(2)}`;
}

function rows(step, about) {
  const found = [];
  const add = (name, words) => words && found.push(make("dt", { text: name }), make("dd", { text: words, dir: "auto" }));
  add("Probability", combinedMass(step));
  for (const [name, p] of Object.entries(step.members ?? {})) add(`Mass of ${name}`, percent(p));
  add("Not asked", (step.unasked ?? []).join(", "));
  add("Away", (step.absent ?? []).join(", "));
  add("Gate", gate(step, about));
  add("Draft", draft(step));
  add("Certain", step.certain === undefined ? "" : step.certain ? "yes: nothing that is unknown can change it" : "no: what is unknown could change it");
  add("Apart", step.variation === undefined ? "" : `${step.variation.toFixed(3)} (largest total variation of two members)`);
  add("Entropy", step.entropy === undefined ? "" : `${step.entropy.toFixed(3)} nats`);
  if (step.bytes?.length) add("Bytes", hex(step.bytes));
  for (const [name, ids] of Object.entries(step.spelled ?? {})) add(`${name} reads it as`, spelling(ids));
  add("Time", step.seconds ? `${(1000 * step.seconds.total).toFixed(1)} ms` : "");
  return found;
}

function combinedMass(step) {
  if (step.p === null || step.p === undefined) return step.taken ? "not among the ten likeliest" : "";
  return step.unknown ? `at least ${percent(step.p)}, at most ${percent(step.p + step.unknown)}` : percent(step.p);
}

function gate(step, about) {
  if (!step.gate) return "";
  const { score, threshold, asked, inside } = step.gate;
  const kind = about?.gate?.kind ?? "gate";
  const found = `${kind} ${score.toFixed(3)} at the threshold ${threshold}`;
  if (inside) return `${found}: shut, as the text is inside a token of ${inside}`;
  return `${found}: ${asked ? "open, so the others were asked" : "shut, so they were not asked"}`;
}

function draft(step) {
  if (!step.draft) return "";
  const { drafter, bytes, accepted } = step.draft;
  return accepted ? `${drafter} drafted it` : `${drafter} had drafted ${label({ bytes })}`;
}

function spelling(ids) {
  if (!ids.length) return "nothing: it has no id for it";
  return ids.map(({ id, bytes }) => (bytes.length ? `${label({ bytes })} (${id})` : `${id}`)).join(" + ");
}
