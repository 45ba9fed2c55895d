// Pieces are bytes. A piece need not be whole characters, and what it holds need not be visible.

const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]/;
const HIDDEN_ALL = new RegExp(HIDDEN.source, "g");

export function hex(bytes) {
  return bytes.map((byte) => byte.toString(16).toUpperCase().padStart(2, "0")).join(" ");
}

// The name of a character that does not show itself, or that would turn the text around it.
function named(character) {
  const code = character.codePointAt(0);
  if (code < 0x20) return String.fromCodePoint(0x2400 + code);
  return `[U+${code.toString(16).toUpperCase().padStart(4, "0")}]`;
}

export function visible(text) {
  return text.replace(HIDDEN_ALL, named);
}

export function hasHidden(text) {
  return HIDDEN.test(text);
}

export function wholeText(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(new Uint8Array(bytes));
  } catch {
    return null;
  }
}

// How a piece, a mark or END is called in words: a piece in quotes, bytes that are no whole character by their numbers.
export function label(piece) {
  if (piece.mark) return piece.mark.replaceAll("_", " ");
  if (piece.bytes === null) return "END";
  const text = wholeText(piece.bytes);
  if (text === null) return `bytes ${hex(piece.bytes)}`;
  return `“${visible(text).replaceAll("\n", "⏎").replaceAll("\t", "⇥")}”`;
}

export function same(one, other) {
  if ((one.mark ?? null) !== (other.mark ?? null)) return false;
  if (one.bytes === null || other.bytes === null) return one.bytes === other.bytes;
  return one.bytes.length === other.bytes.length && one.bytes.every((byte, place) => byte === other.bytes[place]);
}

// What each piece adds to the text: a character appears with the piece that completes it.
export class PieceDecoder {
  #decoder = new TextDecoder("utf-8", { ignoreBOM: true });

  add(bytes) {
    return this.#decoder.decode(new Uint8Array(bytes), { stream: true });
  }
}

export function textOf(steps) {
  const decoder = new PieceDecoder();
  return steps
    .filter((step) => step.bytes !== null && !step.mark && step.part !== "reasoning")
    .map((step) => decoder.add(step.bytes))
    .join("");
}
