// The settings of the next answer, as controls: what is left as the ensemble has it is not sent.

import { make } from "./dom.js";

const RULES = ["mean", "geometric", "max", "minimum", "logits", "contrastive"];
const GATES = { always: null, certain: null, confidence: 0.5, margin: 0.3, entropy: 1.5, every: 4, first: 8 };
const MOST_PIECES = 256;

export class Settings {
  #fields = {};

  constructor(element) {
    this.element = element;
  }

  // Shows the controls of a model, as its ensemble has them.
  show(about) {
    this.about = about;
    const names = about.members.map((member) => member.name);
    const isSigned = about.members.some(({ weight }) => weight < 0);
    const added = about.members.filter(({ weight }) => weight > 0).map((member) => member.name);
    const fields = {
      lead: choice(added, about.lead),
      combine: text(about.combine, RULES),
      gate: choice(Object.keys(GATES), about.gate.kind),
      threshold: number(about.gate.parameter, { step: "any", min: 0 }),
      speculate: choice(["off", "ngram", "auto", ...names], about.speculate?.split(":")[0] ?? "off"),
      temperature: number("", { step: 0.1, min: 0, placeholder: about.sampling }),
      seed: number("", { step: 1, placeholder: "another each time" }),
      max_tokens: number(MOST_PIECES, { step: 1, min: 1 }),
    };
    fields.gate.addEventListener("change", () => this.#gateChanged());
    const weights = names.length > 1 ? about.members.map(({ name, weight }) => [`weight:${name}`, weightField(weight, isSigned)]) : [];
    this.#fields = { ...fields, ...Object.fromEntries(weights) };
    const rows = Object.entries(this.#fields).map(([name, field]) => make("label", {}, `${titleOf(name)} `, Object.assign(field, { name })));
    this.element.replaceChildren(...rows);
    this.#gateChanged(false);
  }

  #gateChanged(isNew = true) {
    const usual = GATES[this.#fields.gate.value];
    this.#fields.threshold.disabled = usual === null;
    if (isNew) this.#fields.threshold.value = usual ?? "";
  }

  // What is other than the ensemble has it, as the fields of a request.
  get values() {
    const { about } = this;
    const value = (name) => this.#fields[name].value.trim();
    const found = { max_tokens: numeric(value("max_tokens")), temperature: numeric(value("temperature")), seed: numeric(value("seed")) };
    if (value("lead") !== about.lead) found.lead = value("lead");
    if (value("combine") && value("combine") !== about.combine) found.combine = value("combine");
    const gate = this.#gate(value("gate"), value("threshold"));
    if (gate !== this.#gate(about.gate.kind, about.gate.parameter ?? "")) found.gate = gate;
    if (value("speculate") !== (about.speculate?.split(":")[0] ?? "off")) found.speculate = value("speculate");
    const weights = this.#weights();
    if (weights) found.weights = weights;
    return found;
  }

  // A gate as a request says it. A blank threshold is that of the ensemble, or the usual one; boundaries are kept to as in the ensemble.
  #gate(kind, threshold) {
    const { gate } = this.about;
    const usual = gate.kind === kind ? gate.parameter : GATES[kind];
    const parameter = GATES[kind] === null ? "" : `:${threshold === "" ? usual : threshold}`;
    return `${kind}${parameter}${gate.boundary && kind !== "certain" ? " boundary" : ""}`;
  }

  // The weights where one is other than the ensemble has it.
  #weights() {
    const members = this.about.members.filter(({ name }) => this.#fields[`weight:${name}`]);
    const given = Object.fromEntries(members.map(({ name }) => [name, numeric(this.#fields[`weight:${name}`].value)]));
    for (const { name, weight } of members) given[name] ??= weight; // a blank weight is that of the ensemble
    return members.some(({ name, weight }) => given[name] !== weight && given[name] !== shortened(weight)) ? given : null;
  }
}

// A request has no weights where one is negative: then they are shown, and stay.
function weightField(weight, isSigned) {
  const more = isSigned ? { disabled: true, title: "weights with a signed one among them are those of the file" } : { min: 0 };
  return number(shortened(weight), { step: "any", ...more });
}

// The settings in a few words, as the name of an answer.
export function words(settings) {
  const found = Object.entries(settings).filter(([name, value]) => value !== undefined && name !== "max_tokens");
  return found.map(([name, value]) => `${name} ${typeof value === "object" ? Object.entries(value).map((pair) => pair.join("=")).join(" ") : value}`).join(", ");
}

function titleOf(name) {
  const titles = { combine: "rule", speculate: "drafts by", max_tokens: "pieces at most" };
  return titles[name] ?? name.replace("weight:", "weight of ");
}

function shortened(weight) {
  return Number(weight.toFixed(4));
}

function numeric(value) {
  return value === "" ? undefined : Number(value);
}

function choice(names, chosen) {
  const all = names.includes(chosen) ? names : [chosen, ...names];
  return make("select", {}, ...all.map((name) => make("option", { value: name, text: name, selected: name === chosen })));
}

function text(value, offered) {
  const list = make("datalist", { id: "rules" }, ...offered.map((each) => make("option", { value: each })));
  const field = make("input", { type: "text", value, list: "rules", size: 14 });
  field.addEventListener("focus", () => field.after(list), { once: true });
  return field;
}

function number(value, more) {
  return make("input", { type: "number", value: value ?? "", ...more });
}
