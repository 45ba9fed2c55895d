// What happened at a piece, as its record says it, in words and as a heat.

import { label } from "./bytes.js";

export const KINDS = {
  agreed: "all that were asked agreed",
  carried: "some would have written something else, not the lead",
  overruled: "the vote overruled the lead",
  nobody: "nobody's first choice",
  shut: "the gate stayed shut, and the lead wrote it",
  forced: "nobody was asked: one piece was allowed",
  taken: "you chose it",
  unknown: "what happened here is not kept",
};

export const COLOURS = {
  outcome: "what happened",
  carrier: "who carried it",
  variation: "how far members are apart (total variation)",
  entropy: "entropy of the combined distribution",
  none: "nothing",
};

export function leadOf(step, about) {
  return step.lead ?? about?.lead ?? step.voted[0] ?? null;
}

export function kindOf(step) {
  return step.taken ? "taken" : (step.kind ?? "unknown");
}

// The member that gave a piece most of its mass: its weight times its probability of it. A subtracted one gives nothing.
export function carrierOf(step, about) {
  const weights = weightsOf(about);
  let best = null;
  let most = -Infinity;
  for (const [name, p] of Object.entries(step.members ?? {})) {
    const weight = weights[name] ?? 1;
    const share = weight * (p ?? 0);
    if (weight > 0 && share > most) [best, most] = [name, share];
  }
  return best;
}

export function weightsOf(about) {
  return Object.fromEntries((about?.members ?? []).map((member) => [member.name, member.weight]));
}

const COLOURED = 8; // members, each with a colour of its own
const numbers = new Map(); // by name

// Gives members their colours, in the order in which they are first named: a member keeps its colour on the whole page.
export function numberMembers(about) {
  for (const { name } of about?.members ?? []) if (!numbers.has(name)) numbers.set(name, numbers.size % COLOURED);
}

export function memberNumber(name) {
  return numbers.get(name) ?? "none";
}

// A sentence on what happened, for the pane and for screen readers.
export function sentence(step, about) {
  const kind = kindOf(step);
  const { winners = [], top = {}, subtracted = [] } = step;
  const lost = Object.keys(top).filter((name) => !winners.includes(name) && !subtracted.includes(name));
  if ((kind !== "overruled" && kind !== "carried") || !winners.length || !lost.length) return capital(KINDS[kind] ?? kind);
  const wanted = lost.map((name) => `${name} would have written ${label(top[name][0])}`);
  const verb = winners.length === 1 ? "carried it" : "carried it together";
  return `${winners.join(" and ")} ${verb}; ${wanted.join(", ")}.`;
}

function capital(words) {
  return `${words[0].toUpperCase()}${words.slice(1)}.`;
}

// From 0 to 9, or null where the trace does not say it.
export function heat(step, by) {
  const value = by === "variation" ? step.variation : step.entropy === undefined ? undefined : step.entropy / 5;
  return value === undefined || value === null ? null : Math.min(9, Math.max(0, Math.floor(value * 10)));
}
