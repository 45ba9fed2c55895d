// An answer as coloured spans. Spans stand in blocks, which the browser leaves out while they are out of sight.

import { PieceDecoder, hasHidden, hex, label, visible } from "./bytes.js";
import { make } from "./dom.js";
import { carrierOf, heat, kindOf, memberNumber, numberMembers } from "./outcome.js";

const BLOCK = 60; // pieces, after which a line end begins the next block
const LONGEST_BLOCK = 400; // pieces, after which one begins in the middle of a line, which a sign says
const SHORT = 6; // blocks, up to which all are laid out at once
const FIRST_LETTER = /[\p{L}\u05be-\u05c6\u200e\u200f]/u;
const LEFTWARD = /[\u0590-\u08ff\u200f\ufb1d-\ufdff\ufe70-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;

export class TextView {
  #variant;
  #spans = [];
  #decoders = { answer: new PieceDecoder(), reasoning: new PieceDecoder() };
  #block = null;
  #part = null;
  #chosen = null;
  #colour = "outcome";

  constructor(variant, { pane }) {
    this.#variant = variant;
    this.pane = pane;
    this.element = make("div", { className: "text", tabIndex: 0, role: "group", dir: "auto" });
    this.element.setAttribute("aria-label", `${variant.name}: the arrow keys go through its pieces, Enter goes to the chosen one`);
    this.element.addEventListener("pointerover", (event) => this.#hover(event));
    this.element.addEventListener("click", (event) => this.#click(event));
    this.element.addEventListener("keydown", (event) => this.#key(event));
    this.element.addEventListener("focus", () => this.pane.isPinned || (this.#spans.length && this.select(this.#chosen ?? 0)));
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

  select(place, { scroll = false, aloud = false } = {}) {
    if (this.#chosen !== null) this.#spans[this.#chosen]?.classList.remove("is-chosen");
    const span = this.#spans[place];
    if (!span) return;
    this.#chosen = place;
    span.classList.add("is-chosen");
    if (scroll) span.scrollIntoView({ block: "nearest" });
    this.pane.show(this.#variant, place, this.element, { aloud });
  }

  #add(step, place) {
    const part = step.part ?? "answer";
    if (!this.#block || part !== this.#part || this.#isFull()) this.#begin(part);
    const span = make("span");
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
    this.#block = make("div", { className: `block part-${part}` });
    this.element.append(this.#block);
    this.element.classList.toggle("is-long", this.element.childElementCount > SHORT);
  }

  #paint(span, step) {
    const about = this.#variant.about;
    const kind = kindOf(step);
    const names = ["piece", `is-${kind}`];
    if (step.draft) names.push(step.draft.accepted ? "is-drafted" : "is-redrafted");
    if (this.#colour === "outcome") names.push(`by-${kind}`);
    if (this.#colour === "carrier") numberMembers(about);
    if (this.#colour === "carrier") names.push(`member-${memberNumber(carrierOf(step, about))}`);
    if (this.#colour === "variation" || this.#colour === "entropy") names.push(`heat-${heat(step, this.#colour) ?? "none"}`);
    names.push(...["parts", "is-chosen"].filter((name) => span.classList.contains(name)));
    span.className = names.join(" ");
  }

  #hover(event) {
    const span = event.target.closest?.(".piece");
    if (!span || event.pointerType === "touch" || this.pane.isPinned) return;
    this.select(Number(span.dataset.place));
  }

  // Pins a piece; a click on the pinned one releases it.
  #click(event) {
    const span = event.target.closest?.(".piece");
    if (!span) return;
    const place = Number(span.dataset.place);
    const isSame = this.pane.isPinned && this.pane.shows(this.element) && place === this.#chosen;
    this.select(place, { aloud: true });
    if (isSame) this.pane.release();
    else this.pane.pin();
  }

  #key(event) {
    if (event.key === "Enter" && this.#spans.length) {
      event.preventDefault();
      this.select(this.#chosen ?? 0);
      this.pane.enter();
    } else this.#move(event);
  }

  // Whether the line of a piece runs to the left, as its first letter says to browsers, too.
  #runsLeft(place) {
    const texts = this.#spans.map((span) => span.textContent);
    const line = texts.slice(0, place + 1).join("").split("\n").pop() + texts.slice(place + 1).join("").split("\n")[0];
    return LEFTWARD.test(FIRST_LETTER.exec(line)?.[0] ?? "");
  }

  #move(event) {
    const right = this.#runsLeft(this.#chosen ?? 0) ? -1 : 1;
    const steps = { ArrowRight: right, ArrowLeft: -right, ArrowDown: 10, ArrowUp: -10, Home: -Infinity, End: Infinity };
    const by = steps[event.key];
    if (by === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const place = (this.#chosen ?? 0) + by;
    this.select(Math.max(0, Math.min(this.#spans.length - 1, place)), { scroll: true, aloud: true });
  }
}
