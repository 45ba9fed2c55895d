"""Texts of strangers, made fit to be shown: nothing in them is hidden, turns other text around, or has no end."""

from __future__ import annotations

import unicodedata

HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
"""Categories of characters that show nothing, or change how others are shown."""
NEVER = "\ufffe\uffff"
"""No characters, and no XML may have them."""
JOINERS = "\u200c\u200d"
"""They belong to some scripts' spelling, and to emoji."""
MOST_MARKS = 4
"""Combining marks on one character; more would run over the lines above and below."""


def visible(text: str) -> str:
    """The text with every character that would show nothing written as its number, such as ``[U+202E]``."""
    shown, marks = [], 0
    for character in text.replace("\r\n", "\n"):
        category = unicodedata.category(character)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        hidden = character in NEVER or (category in HIDDEN and character not in "\n\t" + JOINERS)
        shown.append(f"[U+{ord(character):04X}]" if hidden or marks > MOST_MARKS else character)
    return "".join(shown)


def one_line(text: str) -> str:
    """The same on one line: line ends as ``⏎``."""
    return " ".join(visible(text).replace("\n", " ⏎ ").split())


def cut(text: str, head: int, tail: int) -> str:
    """The beginning and the end of a text, and how much is left out between them."""
    left_out = len(text) - head - tail
    if left_out <= 0:
        return text
    return f"{text[:head]} […{left_out:,} characters…] {text[len(text) - tail :]}"
