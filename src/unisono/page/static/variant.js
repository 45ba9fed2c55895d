// One answer to a prompt: by the ensemble, by a member alone, with other settings, or from another piece on.

import { same, textOf } from "./bytes.js";

const EVERY = 0.2; // seconds from one part of an answer to the next: each wakes the browser, which the models may want the processor from

let count = 0;

export class Variant {
  constructor({ model, settings = {}, name, messages = [], parent = null, begun = [] }) {
    this.id = ++count;
    this.model = model;
    this.settings = settings;
    this.name = name;
    this.messages = messages; // what it answers: those before it stay as they were then
    this.parent = parent; // the answer that it branches from
    this.begun = begun; // steps that were taken over, the last of them chosen by hand
    this.steps = [...begun];
    this.state = "waiting"; // writing, done, stopped, failed
    this.problem = null;
    this.report = null;
  }

  get about() {
    return this.ownAbout ?? this.parent?.about ?? null;
  }

  get text() {
    return textOf(this.steps);
  }

  add({ steps, report }) {
    this.state = "writing";
    for (const step of steps) {
      if (step.about) this.ownAbout = step.about;
      this.steps.push(step);
    }
    if (report.finish) this.report = { finish: report.finish, seconds: report.seconds };
    if (report.seed !== undefined && report.seed !== null) this.seed = report.seed; // that drew it
  }

  // Why it ended, for people.
  get ending() {
    const words = { end: "ended by its members", stop: "a stop string was written", length: "the limit was reached", context: "a context is full" };
    if (this.state === "failed") return this.problem;
    if (this.state === "stopped") return "stopped";
    return words[this.report?.finish] ?? "";
  }

  // The request that writes it. Pieces that are taken over are the beginning of the answer, and count among the most
  // that are wanted; one more is asked for where they are as many.
  get request() {
    const { max_tokens: most, temperature, seed, ...method } = this.settings;
    const max_tokens = most === undefined || !this.begun.length ? most : Math.max(1, most - this.begun.length);
    const request = { model: this.model, messages: this.messages, stream: true, max_tokens, temperature, seed, unisono: { trace: true, chunk_seconds: EVERY, ...method } };
    if (this.begun.length) request.prefill = this.begun.map(beginning);
    return JSON.parse(JSON.stringify(request)); // without what is undefined
  }

  // The answer that goes on from a piece with another in its place, or with the same: then it is drawn as this one was.
  branch(name, place, piece) {
    const { model, messages } = this;
    const settings = { ...this.settings, seed: this.settings.seed ?? this.seed };
    return new Variant({ model, settings, name, messages, parent: this, begun: this.#begunAt(place, piece) });
  }

  // The steps of a branch: what was written before a piece, and another piece in its place.
  #begunAt(place, piece) {
    const step = this.steps[place];
    const chances = Object.entries(step.top ?? {}).map(([name, pieces]) => [name, pieces.find((each) => same(each, piece))?.p ?? null]);
    const p = (step.likeliest ?? []).find((each) => same(each, piece))?.p ?? null;
    const mark = piece.mark ? { mark: piece.mark } : {};
    const taken = { ...step, bytes: piece.bytes, p, members: Object.fromEntries(chances), draft: null, spelled: {}, taken: true };
    delete taken.mark;
    return [...this.steps.slice(0, place), { ...taken, ...mark }];
  }
}

function beginning(step) {
  return step.mark ? { mark: step.mark } : { bytes: step.bytes };
}

// The place of the first piece at which two answers part, in each; null where one is the beginning of the other.
export function parting(one, other) {
  const [a, b] = [flat(one), flat(other)];
  const end = Math.min(a.length, b.length);
  for (let at = 0; at < end; at++) {
    if (a[at].sign !== b[at].sign) return [a[at].place, b[at].place];
  }
  return a.length === b.length ? null : [a[end]?.place ?? null, b[end]?.place ?? null];
}

// Byte by byte, with the place of the piece that each is of: members cut a text into different pieces.
function flat(variant) {
  return variant.steps.flatMap((step, place) => {
    if (step.mark) return [{ sign: step.mark, place }];
    if (step.bytes === null) return [{ sign: "END", place }];
    return step.bytes.map((sign) => ({ sign, place }));
  });
}
