// Begins: the page of a server, or that of a recorded trace.

import { byId, make } from "./dom.js";
import { showLegend } from "./legend.js";
import { Live } from "./live.js";
import { COLOURS } from "./outcome.js";
import { Pane } from "./pane.js";
import { Recorded } from "./recorded.js";

const pane = new Pane(byId("pane"));
const page = document.documentElement.dataset.mode === "live" ? new Live(pane) : new Recorded(pane);
byId("colour").replaceChildren(...Object.entries(COLOURS).map(([value, text]) => make("option", { value, text })));
byId("colour").addEventListener("change", recolour);
byId("model").addEventListener("change", recolour);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour); // strips are drawn in the scheme's colours
page.start().then(recolour);

function recolour() {
  showLegend(byId("colour").value, page.about);
  page.recolour(byId("colour").value);
}
