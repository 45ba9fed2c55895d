// The page of a server: sends messages, shows answers while they are written, and goes on from any piece.

import { keepKey, models, stream } from "./api.js";
import { label, same } from "./bytes.js";
import { Conversation } from "./conversation.js";
import { byId, plural, say } from "./dom.js";
import { Settings, words } from "./settings.js";
import { TurnView } from "./turn_view.js";
import { Variant } from "./variant.js";

const COUNTED = 1000; // milliseconds from one drawing of what is counted over all pieces to the next; new pieces are shown as they come

export class Live {
  #conversation = Conversation.kept();
  #views = new Map(); // by turn
  #running = new Set(); // of AbortControllers
  #settings = new Settings(byId("controls"));
  #models = [];
  #colour = "outcome";
  #isStarting = false;

  constructor(pane) {
    this.pane = pane;
    pane.takePiece = (variant, place, piece) => this.branch(variant, place, piece);
    byId("composer").addEventListener("submit", (event) => this.#submit(event));
    byId("message").addEventListener("keydown", (event) => this.#enter(event));
    byId("stop").addEventListener("click", () => this.#running.forEach((each) => each.abort()));
    byId("new").addEventListener("click", () => this.#forget());
    byId("model").addEventListener("change", () => this.#settings.show(this.#model.about));
    addEventListener("pagehide", () => this.#running.size && this.#keep()); // what is being written
    for (const turn of this.#conversation.turns) this.#show(turn);
  }

  get #model() {
    return this.#models.find((model) => model.id === byId("model").value);
  }

  // Of the ensemble that is chosen, also where one of its members alone is.
  get about() {
    const name = byId("model").value.split("/")[0];
    return (this.#models.find((model) => model.id === name) ?? this.#model)?.about;
  }

  // Whether the server's models are known; says what is the matter where they are not, and asks again.
  #isReady() {
    if (this.#model) return true;
    if (this.#isStarting) say("The server has not said yet which models it has: it cannot be reached, or still loads them.", true);
    else this.start();
    return false;
  }

  // Asks which models there are, again and again while they load; not where a key is wanted and none is given.
  async start() {
    say("Asking the server which models it has…");
    this.#isStarting = true;
    try {
      this.#models = await models();
      byId("model").replaceChildren(...this.#models.map((model) => new Option(model.id, model.id)));
      byId("model").dispatchEvent(new Event("change"));
      this.#isStarting = false;
      say("");
      byId("message").focus();
    } catch (error) {
      say(error.message, true);
      if (error.needsKey) this.#isStarting = await askKey();
      if (!this.#isStarting) return;
      if (!error.needsKey) await new Promise((resolve) => setTimeout(resolve, 2000));
      await this.start();
    }
  }

  recolour(by) {
    this.#colour = by;
    for (const view of this.#views.values()) view.recolour(by);
  }

  async branch(variant, place, piece) {
    const turn = this.#conversation.turns.find((each) => each.variants.includes(variant));
    const isSame = same(piece, variant.steps[place]);
    const name = isSame ? `on from ${label(piece)}, piece ${place + 1}` : `${label(piece)} at piece ${place + 1}`;
    const branch = variant.branch(name, place, piece);
    turn.add(branch);
    turn.shown = [variant, branch];
    await this.#write(turn, [branch]);
  }

  #submit(event) {
    event.preventDefault();
    const message = byId("message");
    if (!message.value.trim() || this.#running.size || !this.#isReady()) return;
    const turn = this.#conversation.add(message.value);
    message.value = "";
    const settings = this.#settings.values;
    const messages = this.#conversation.messages(turn);
    turn.add(new Variant({ model: this.#model.id, settings, messages, name: [this.#model.id, words(settings)].filter(Boolean).join(", ") }));
    this.#show(turn);
    this.#write(turn, turn.variants);
  }

  #enter(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    byId("composer").requestSubmit();
  }

  #again(turn) {
    if (!this.#isReady()) return undefined;
    const settings = this.#settings.values;
    const before = turn.chosen;
    const { messages } = before;
    const variant = new Variant({ model: this.#model.id, settings, messages, name: `again: ${[this.#model.id, words(settings)].filter(Boolean).join(", ")}` });
    turn.add(variant);
    turn.shown = [before, variant];
    return this.#write(turn, [variant]);
  }

  #beside(turn) {
    if (!this.#isReady()) return undefined;
    const ensemble = turn.chosen.model.split("/")[0];
    const alone = this.#models.filter((model) => model.id.startsWith(`${ensemble}/`));
    if (!alone.length) {
      const isServed = this.#models.some((model) => model.id === ensemble);
      say(isServed ? "This server does not serve the members alone: start it without --no-members-alone." : `This server does not serve ${ensemble}, which wrote the answer.`, true);
      return undefined;
    }
    const { messages } = turn.chosen;
    const { max_tokens, temperature, seed = turn.chosen.seed } = turn.chosen.settings; // drawn alike, members part by what they say
    const added = alone.map((model) => turn.add(new Variant({ model: model.id, settings: { max_tokens, temperature, seed }, messages, name: `${model.id.split("/")[1]} alone` }), { beside: true }));
    return this.#write(turn, added);
  }

  #show(turn) {
    const view = new TurnView(turn, {
      pane: this.pane,
      again: (which) => this.#again(which),
      beside: (which) => this.#beside(which),
      copy: (which) => copied(which.chosen.text).then(() => say("The text is copied."), () => say("The browser does not let this page copy.", true)),
      changed: () => this.#keep(),
    });
    view.recolour(this.#colour);
    this.#views.set(turn, view);
    byId("conversation").append(view.element);
    view.element.scrollIntoView({ block: "end" });
  }

  // Lets answers of a turn be written at once, and shows them as they come.
  async #write(turn, variants) {
    this.#views.get(turn).render();
    this.#keep();
    await Promise.all(variants.map((variant) => this.#writeOne(turn, variant)));
    this.#keep();
    if (!this.#conversation.turns.includes(turn)) return; // a new conversation has begun meanwhile
    const pieces = variants.map((variant) => `${variant.name}: ${plural(variant.steps.length, "piece")}`);
    const failed = variants.find((variant) => variant.state === "failed");
    const isStopped = variants.some((variant) => variant.state === "stopped");
    if (failed) say(failed.problem, true);
    else say(`${isStopped ? "Stopped" : "Written"}. ${pieces.join("; ")}.`);
  }

  async #writeOne(turn, variant) {
    const controller = new AbortController();
    this.#busy(controller, true);
    const view = this.#views.get(turn);
    let frame = 0;
    let counted = -Infinity;
    const draw = (now) => {
      frame = 0;
      const isDue = now - counted >= COUNTED;
      if (isDue) counted = now;
      following(() => (isDue ? view.update(variant) : view.grow(variant)));
    };
    try {
      for await (const news of stream(variant.request, controller.signal)) {
        variant.add(news);
        frame ||= requestAnimationFrame(draw); // none comes while the page is out of sight
      }
      variant.state = "done";
    } catch (error) {
      variant.state = error.name === "AbortError" ? "stopped" : "failed";
      variant.problem = error.message;
      if (error.needsKey) await askKey();
    }
    this.#busy(controller, false);
    cancelAnimationFrame(frame);
    draw(Infinity);
  }

  #busy(controller, isBusy) {
    if (isBusy) this.#running.add(controller);
    else this.#running.delete(controller);
    byId("stop").hidden = !this.#running.size;
    byId("send").disabled = this.#running.size > 0;
    if (isBusy) say("Writing…");
  }

  // Keeps the conversation, and says what a reload would lose.
  #keep() {
    byId("kept").textContent = this.#conversation.keep();
  }

  #forget() {
    for (const each of this.#running) each.abort();
    this.#conversation.forget();
    this.#views.clear();
    byId("conversation").replaceChildren();
    this.pane.clear();
    byId("kept").textContent = "";
    say("A new conversation.");
    byId("message").focus();
  }
}

// Does something, and stays at the end of the conversation where that is in sight.
function following(change) {
  const box = [byId("conversation"), document.scrollingElement].find((each) => each.scrollHeight > each.clientHeight);
  const isAtEnd = !box || box.scrollHeight - box.scrollTop - box.clientHeight < 80;
  change();
  if (isAtEnd && box) box.scrollTop = box.scrollHeight;
}

// Browsers have no clipboard for pages that come over plain HTTP from elsewhere.
async function copied(text) {
  await navigator.clipboard.writeText(text);
}

let asking = null; // the dialog's end, while it is open

// Asks for a key, once for all that want one. Whether one was given: Escape leaves the earlier one as it is.
function askKey() {
  asking ??= new Promise((resolve) => {
    const dialog = byId("ask-key");
    dialog.returnValue = "";
    dialog.addEventListener("close", () => {
      const key = dialog.returnValue === "use" ? byId("key").value.trim() : "";
      byId("key").value = "";
      asking = null;
      if (key) keepKey(key);
      resolve(Boolean(key));
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}
