// A turn: its prompt, the tree of its answers, and those that are shown, side by side, with the piece at which they part.

import { label } from "./bytes.js";
import { make, plural } from "./dom.js";
import { KINDS, kindOf } from "./outcome.js";
import { Strip } from "./strip.js";
import { TextView } from "./text_view.js";
import { parting } from "./variant.js";

export class TurnView {
  #views = new Map(); // by answer
  #colour = "outcome";

  constructor(turn, actions) {
    this.turn = turn;
    this.actions = actions;
    this.tree = make("ul", { className: "tree" });
    this.tree.setAttribute("aria-label", "Answers to this message");
    this.columns = make("div", { className: "answers" });
    this.words = make("p", { className: "parting" });
    this.buttons = actions.again ? this.#buttons() : null;
    const prompt = turn.prompt === null ? null : make("p", { className: "prompt", text: turn.prompt, dir: "auto" });
    this.element = make("article", { className: "turn" }, prompt, this.tree, this.words, this.columns, this.buttons);
    this.render();
  }

  // Shows which answers there are and which are shown; their texts stay as they are.
  render() {
    const { turn } = this;
    this.tree.replaceChildren(...turn.variants.filter((each) => !turn.variants.includes(each.parent)).map((root) => this.#branch(root)));
    this.tree.hidden = turn.variants.length < 2;
    this.columns.replaceChildren(...turn.shown.map((variant) => this.#viewOf(variant).element));
    this.columns.dataset.count = turn.shown.length;
    for (const variant of turn.shown) this.update(variant);
  }

  // Shows new pieces of an answer, and nothing that is counted over all of them.
  grow(variant) {
    this.#views.get(variant)?.text.update();
  }

  // Shows what is new of an answer.
  update(variant) {
    const view = this.#views.get(variant);
    if (!view) return;
    view.text.update();
    view.strip.update();
    view.foot.textContent = footOf(variant);
    view.foot.classList.toggle("problem", variant.state === "failed");
    view.element.dataset.state = variant.state;
    view.element.setAttribute("aria-busy", ["waiting", "writing"].includes(variant.state));
    if (this.#shownOf(variant)) this.#compare();
  }

  recolour(by) {
    this.#colour = by;
    for (const { text, strip } of this.#views.values()) {
      text.recolour(by);
      strip.redraw();
    }
  }

  select(variant, place) {
    this.#views.get(variant)?.text.select(place, { scroll: true });
  }

  #shownOf(variant) {
    return this.turn.shown.length > 1 && this.turn.shown.includes(variant);
  }

  #viewOf(variant) {
    if (!this.#views.has(variant)) this.#views.set(variant, this.#made(variant));
    return this.#views.get(variant);
  }

  #made(variant) {
    const text = new TextView(variant, { pane: this.actions.pane });
    text.recolour(this.#colour);
    const strip = new Strip(variant, { choose: (place) => text.select(place, { scroll: true }) });
    const foot = make("p", { className: "foot", dir: "auto" });
    const name = make("h2", { text: variant.name, dir: "auto" });
    const element = make("section", { className: "answer" }, name, text.element, foot, strip.element);
    element.setAttribute("aria-label", variant.name);
    return { element, text, strip, foot };
  }

  #branch(variant) {
    const { turn } = this;
    const isShown = turn.shown.includes(variant);
    const only = make("button", { type: "button", text: variant.name, dir: "auto", title: "Show this answer alone, and go on from it", onclick: () => this.#showOnly(variant) });
    if (turn.chosen === variant) only.setAttribute("aria-current", "true");
    const beside = make("button", { type: "button", className: "beside", text: isShown ? "−" : "+", onclick: () => this.#toggle(variant) });
    beside.setAttribute("aria-label", `${isShown ? "Hide" : "Show beside"}: ${variant.name}`);
    const children = turn.variants.filter((each) => each.parent === variant).map((child) => this.#branch(child));
    const item = make("li", {}, only, beside, children.length ? make("ul", {}, ...children) : null);
    item.classList.toggle("is-shown", isShown);
    return item;
  }

  #showOnly(variant) {
    this.turn.shown = [variant];
    this.turn.chosen = variant;
    this.render();
    this.actions.changed();
  }

  #toggle(variant) {
    this.turn.toggle(variant);
    this.render();
    this.actions.changed();
  }

  #buttons() {
    const again = make("button", { type: "button", text: "Again with these settings", onclick: () => this.actions.again(this.turn) });
    const beside = make("button", { type: "button", text: "Beside each member alone", onclick: () => this.actions.beside(this.turn) });
    const copy = make("button", { type: "button", text: "Copy the text", onclick: () => this.actions.copy(this.turn) });
    return make("p", { className: "buttons" }, again, beside, copy);
  }

  #compare() {
    const [first, ...others] = this.turn.shown;
    const found = others.map((other) => [other, parting(first, other)]);
    const places = found.map(([, pair]) => pair?.[0] ?? null).filter((place) => place !== null);
    this.#views.get(first)?.text.mark(places.length ? Math.min(...places) : null);
    for (const [other, pair] of found) this.#views.get(other)?.text.mark(pair?.[1] ?? null);
    this.words.textContent = found.map(([other, pair]) => partingWords(first, other, pair)).join(" ");
  }
}

function partingWords(first, other, pair) {
  if (pair === null) return `${other.name} is as ${first.name}.`;
  const [one, two] = [first.steps[pair[0]], other.steps[pair[1]]];
  const where = `at piece ${(pair[0] ?? first.steps.length) + 1}`;
  if (!one || !two) return `${other.name} and ${first.name}: one goes on ${where}.`;
  return `${other.name} parts from ${first.name} ${where}: ${label(two)} for ${label(one)}.`;
}

function footOf(variant) {
  if (variant.state === "waiting") return "Waiting for the first piece…";
  const count = plural(variant.steps.filter((step) => step.bytes !== null).length, "piece");
  if (variant.state === "writing") return `Writing: ${count} so far…`;
  if (variant.state === "failed") return `${count}. ${variant.problem}`;
  const counts = {};
  for (const step of variant.steps) counts[kindOf(step)] = (counts[kindOf(step)] ?? 0) + 1;
  const kinds = Object.keys(KINDS).filter((kind) => counts[kind]).map((kind) => `${counts[kind]} ${kind}`);
  const seconds = variant.report?.seconds?.total;
  return [count, seconds ? `${seconds.toFixed(1)} s` : "", kinds.join(", "), variant.ending].filter(Boolean).join("; ");
}
