// The turns of a conversation, each with its answers, and what the tab keeps of them when it is loaded again.

import { forget, keep, kept } from "./storage.js";
import { Variant } from "./variant.js";

const KEPT = "unisono.conversation";
const FEW = 50; // messages that are kept where not all can be
const MOST_KEPT = 4_000_000; // characters: browsers keep some five million for a page

export class Turn {
  constructor(prompt) {
    this.prompt = prompt;
    this.variants = [];
    this.shown = []; // the answers that stand side by side
    this.chosen = null; // the one that the conversation goes on from
  }

  add(variant, { beside = false } = {}) {
    this.variants.push(variant);
    this.shown = beside ? [...this.shown, variant] : [variant];
    this.chosen = this.chosen && beside ? this.chosen : variant;
    return variant;
  }

  toggle(variant) {
    if (!this.shown.includes(variant)) this.shown.push(variant);
    else if (this.shown.length > 1) this.shown = this.shown.filter((each) => each !== variant);
    if (!this.shown.includes(this.chosen)) this.chosen = this.shown[0];
  }
}

export class Conversation {
  turns = [];

  add(prompt) {
    this.turns.push(new Turn(prompt));
    return this.turns.at(-1);
  }

  // What is sent for a turn: all before it that has an answer, and its prompt.
  messages(turn) {
    const before = this.turns.slice(0, this.turns.indexOf(turn)).filter((each) => each.chosen?.text);
    return [
      ...before.flatMap((each) => [
        { role: "user", content: each.prompt },
        { role: "assistant", content: each.chosen.text },
      ]),
      { role: "user", content: turn.prompt },
    ];
  }

  // Keeps as much as the browser does. Returns what is lost in words, none where nothing is.
  keep() {
    const attempts = [
      ["", () => this.turns.map((turn) => packed(turn))],
      ["Of this long conversation, a reload keeps the texts and not the votes.", () => this.turns.map((turn) => packed(turn, false))],
      [`Of this long conversation, a reload keeps the texts of the last ${FEW} messages only.`, () => this.turns.slice(-FEW).map((turn) => packed(turn, false))],
    ];
    for (const [lost, turns] of attempts) {
      const words = JSON.stringify(turns());
      if (words.length <= MOST_KEPT && keep(KEPT, words)) return lost;
    }
    forget(KEPT);
    return "The browser keeps nothing for this page: a reload forgets the conversation.";
  }

  forget() {
    this.turns = [];
    forget(KEPT);
  }

  static kept() {
    const conversation = new Conversation();
    try {
      conversation.turns = JSON.parse(kept(KEPT) ?? "[]").map(unpacked);
    } catch {
      conversation.forget();
    }
    return conversation;
  }
}

function packed(turn, withVotes = true) {
  const variants = turn.variants.map((variant) => {
    const { model, settings, name, messages, begun, state, problem, report, seed, about } = variant;
    const steps = withVotes ? variant.steps : variant.steps.map(({ bytes, mark, part }) => ({ bytes, mark, part, p: null, voted: [], members: {} }));
    const parent = turn.variants.indexOf(variant.parent);
    const its = parent < 0 ? { messages } : {}; // a branch answers what its parent does
    return { model, settings, name, begun: begun.length, state, problem, report, seed, about, steps, parent, ...its };
  });
  return { prompt: turn.prompt, variants, chosen: turn.variants.indexOf(turn.chosen), shown: turn.shown.map((each) => turn.variants.indexOf(each)) };
}

function unpacked(kept) {
  const turn = new Turn(kept.prompt);
  for (const its of kept.variants) {
    const parent = turn.variants[its.parent] ?? null;
    const variant = new Variant({ ...its, begun: its.steps.slice(0, its.begun), parent, messages: its.messages ?? parent.messages });
    Object.assign(variant, { steps: its.steps, state: its.state, problem: its.problem, report: its.report, seed: its.seed, ownAbout: its.about });
    if (["waiting", "writing"].includes(variant.state)) Object.assign(variant, { state: "failed", problem: "the page was loaded again while this was written" });
    turn.variants.push(variant);
  }
  turn.chosen = turn.variants[kept.chosen] ?? null;
  turn.shown = kept.shown.map((place) => turn.variants[place]).filter(Boolean);
  return turn;
}
