// An answer as coloured spans. Spans stand in blocks, which the browser leaves out while they are out of sight.

import { PieceDecoder, hasHidden, hex, label, visible } from "./bytes.js";
import { make } from "./dom.js";
import { carrierOf, heat, kindOf } from "./outcome.js";

const BLOCK = 120; // pieces, after which a line end begins the next block
const LONGEST_BLOCK = 500; // pieces, after which one begins in the middle of a line, which a sign says
const SHORT = 3; // blocks, up to which all are laid out at once
const MEMBERS = 8; // colours

let ids = 0;

export class TextView {
  #variant;
  #spans = [];
  #decoders = { answer: new PieceDecoder(), reasoning: new PieceDecoder() };
  #block = null;
  #part = null;
  #chosen = null;
  #colour = "outcome";

  constructor(variant, { choose }) {
    this.#variant = variant;
    this.choose = choose;
    this.element = make("div", { className: "text", tabIndex: 0, role: "listbox", dir: "auto", id: `text-${++ids}` });
    this.element.setAttribute("aria-label", `${variant.name}: pieces, the arrow keys go through them`);
    this.element.addEventListener("pointerover", (event) => this.#hover(event));
    this.element.addEventListener("click", (event) => this.#hover(event, true));
    this.element.addEventListener("keydown", (event) => this.#move(event));
    this.element.addEventListener("focus", () => this.#chosen ?? (this.#spans.length && this.select(0)));
  }

  get size() {
    return this.#spans.length;
  }

  get place() {
    return this.#chosen;
  }

  // Shows the steps that are new.
  update() {
    const steps = this.#variant.steps;
    for (let place = this.#spans.length; place < steps.length; place++) this.#add(steps[place], place);
  }

  recolour(by) {
    this.#colour = by;
    this.#spans.forEach((span, place) => this.#paint(span, this.#variant.steps[place]));
  }

  mark(place) {
    for (const span of this.#spans) span.classList.remove("parts");
    if (place !== null) this.#spans[place]?.classList.add("parts");
  }

  select(place, { scroll = false } = {}) {
    if (this.#chosen !== null) this.#spans[this.#chosen]?.removeAttribute("aria-selected");
    const span = this.#spans[place];
    if (!span) return;
    this.#chosen = place;
    span.setAttribute("aria-selected", "true");
    span.setAttribute("aria-label", label(this.#variant.steps[place]));
    span.id ||= `${this.element.id}-${place}`;
    this.element.setAttribute("aria-activedescendant", span.id);
    if (scroll) span.scrollIntoView({ block: "nearest" });
    this.choose(this.#variant, place);
  }

  #add(step, place) {
    const part = step.part ?? "answer";
    if (!this.#block || part !== this.#part || this.#isFull()) this.#begin(part);
    const span = make("span", { role: "option" });
    span.dataset.place = place;
    if (step.mark || step.bytes === null) span.dataset.sign = step.mark ? label(step) : "END";
    else this.#write(span, step);
    this.#paint(span, step);
    this.#spans.push(span);
    this.#block.append(span);
  }

  #write(span, step) {
    const text = this.#decoders[this.#part].add(step.bytes);
    if (!text) span.dataset.sign = hex(step.bytes);
    else span.textContent = hasHidden(text) ? visible(text) : text;
  }

  #isFull() {
    const last = this.#block.lastChild;
    const count = this.#block.childElementCount;
    return count >= LONGEST_BLOCK || (count >= BLOCK && last.textContent.endsWith("\n"));
  }

  #begin(part) {
    const goesOn = this.#block && part === this.#part && !this.#block.lastChild.textContent.endsWith("\n");
    if (goesOn) this.#block.classList.add("goes-on");
    this.#part = part;
    this.#block = make("div", { className: `block part-${part}`, role: "presentation" });
    this.element.append(this.#block);
    this.element.classList.toggle("is-long", this.element.childElementCount > SHORT);
  }

  #paint(span, step) {
    const about = this.#variant.about;
    const kind = kindOf(step);
    const names = ["piece", `is-${kind}`];
    if (step.draft) names.push(step.draft.accepted ? "is-drafted" : "is-redrafted");
    if (this.#colour === "outcome") names.push(`by-${kind}`);
    if (this.#colour === "carrier") names.push(`member-${this.#number(carrierOf(step, about), about)}`);
    if (this.#colour === "variation" || this.#colour === "entropy") names.push(`heat-${heat(step, this.#colour) ?? "none"}`);
    if (span.classList.contains("parts")) names.push("parts");
    span.className = names.join(" ");
  }

  #number(name, about) {
    const place = (about?.members ?? []).findIndex((member) => member.name === name);
    return place < 0 ? "none" : place % MEMBERS;
  }

  #hover(event, isClick = false) {
    const span = event.target.closest?.(".piece");
    if (!span || (!isClick && event.pointerType === "touch")) return;
    this.select(Number(span.dataset.place));
  }

  #move(event) {
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, Home: -Infinity, End: Infinity };
    const by = steps[event.key];
    if (by === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const place = (this.#chosen ?? 0) + by;
    this.select(Math.max(0, Math.min(this.#spans.length - 1, place)), { scroll: true });
  }
}
