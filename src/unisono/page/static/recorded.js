// The page of a recorded trace: its texts, one below the other. Nothing is asked of any server but the trace itself.

import { byId, plural, say } from "./dom.js";
import { TurnView } from "./turn_view.js";
import { Turn } from "./conversation.js";
import { Variant } from "./variant.js";

const AT_ONCE = 2000; // pieces that are shown in one go

export class Recorded {
  #views = [];
  #colour = "outcome";

  constructor(pane) {
    this.pane = pane;
  }

  async start() {
    say("Reading the trace…");
    try {
      await this.#showAll(await read());
    } catch (error) {
      say(`The trace cannot be shown: ${error.message}`, true);
    }
  }

  async #showAll(found) {
    document.title = `${found.name}: unisono`;
    for (const text of found.texts) await this.#show(text);
    const count = found.texts.reduce((sum, text) => sum + text.steps.length, 0);
    say([`${found.name}: ${plural(count, "step")}.`, ...found.notes].join(" "), found.notes.length > 0);
  }

  get about() {
    return this.#views[0]?.turn.chosen.about;
  }

  recolour(by) {
    this.#colour = by;
    for (const view of this.#views) view.recolour(by);
  }

  async #show(text) {
    const variant = new Variant({ model: "", name: text.name });
    variant.isRecorded = true;
    variant.ownAbout = text.steps[0]?.about ?? null;
    variant.state = "done";
    const turn = new Turn(text.prompt);
    turn.add(variant);
    const view = new TurnView(turn, { pane: this.pane, changed: () => {} });
    view.recolour(this.#colour);
    this.#views.push(view);
    byId("conversation").append(view.element);
    for (let place = 0; place < text.steps.length; place += AT_ONCE) {
      variant.steps.push(...text.steps.slice(place, place + AT_ONCE));
      view.grow(variant);
      await new Promise(requestAnimationFrame);
    }
    view.update(variant);
  }
}

async function read() {
  const inside = byId("trace");
  if (inside) return JSON.parse(inside.textContent);
  const answer = await fetch("/trace.json");
  if (!answer.ok) throw new Error(`the program that shows it answered with status ${answer.status}`);
  return answer.json();
}
