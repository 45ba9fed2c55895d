// Makes elements. Texts become text nodes: nothing in a text is ever read as HTML.

export function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "text") element.textContent = value;
    else if (key in element && key !== "list" && key !== "role") element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function byId(id) {
  return document.getElementById(id);
}

export function say(words, isProblem = false) {
  const status = byId("status");
  status.textContent = words;
  status.classList.toggle("problem", isProblem);
}

// Says one sentence on a piece to screen readers.
export function announce(words) {
  byId("piece").textContent = words;
}

export function percent(share) {
  if (share === null || share === undefined) return "not among its likeliest";
  if (share > 0 && share < 0.001) return "under 0.1 %";
  return `${(100 * share).toFixed(1)} %`;
}

export function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}
