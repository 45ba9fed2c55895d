// What the colours of pieces mean, for the colouring that is chosen.

import { byId, make } from "./dom.js";
import { KINDS, memberNumber, numberMembers } from "./outcome.js";

const LINES = [["is-drafted", "drafted"], ["is-redrafted", "drafted otherwise"]];

export function showLegend(by, about) {
  numberMembers(about);
  byId("colours").replaceChildren(...entries(by, about).map(([classes, words]) => make("li", {}, make("span", { className: `sample ${classes}`, text: "abc" }), ` ${words}`)));
}

function entries(by, about) {
  if (by === "outcome") return [...Object.entries(KINDS).filter(([kind]) => kind !== "unknown").map(([kind, words]) => [`is-${kind} by-${kind}`, words]), ...LINES];
  if (by === "carrier") return (about?.members ?? []).filter(({ weight }) => weight > 0).map(({ name }) => [`member-${memberNumber(name)}`, name]);
  if (by === "variation") return [["heat-0", "members say the same"], ["heat-5", "half of their mass differs"], ["heat-9", "all of it differs"]];
  if (by === "entropy") return [["heat-0", "one piece has all mass"], ["heat-5", "2.5 nats"], ["heat-9", "4.5 nats and more"]];
  return [];
}
