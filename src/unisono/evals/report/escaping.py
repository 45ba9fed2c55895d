"""Escapes untrusted texts for a report, so that they show all their characters and cannot become markup."""

from __future__ import annotations

import re
import unicodedata

from markupsafe import Markup

HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
"""Categories of characters that are invisible, or change how others are shown."""
NEVER = "\ufffe\uffff"
"""Noncharacters, forbidden in XML."""
JOINERS = "\u200c\u200d"
"""Part of some scripts' spelling, and of emoji."""
MOST_MARKS = 4
"""Combining marks on one character; more would run over the lines above and below."""
LONGEST = 36
_SPECIAL = re.compile(r"[\\`*_\[\]|~$#!@{}]")
_FIRST = re.compile(r"^(\d+)([.)])|^([-+=])")
_ADDRESS = re.compile(r"://|\bwww\.", re.IGNORECASE)


def visible(text: str) -> str:
    """The text with every invisible character written as its number, such as ``[U+202E]``."""
    shown, marks = [], 0
    for character in text.replace("\r\n", "\n"):
        category = unicodedata.category(character)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        hidden = character in NEVER or (category in HIDDEN and character not in "\n\t" + JOINERS)
        shown.append(f"[U+{ord(character):04X}]" if hidden or marks > MOST_MARKS else character)
    return "".join(shown)


def one_line(text: str) -> str:
    """The same on one line: line ends become ``⏎``."""
    return " ".join(visible(text).replace("\n", " ⏎ ").split())


def cut(text: str, head: int, tail: int) -> str:
    left_out = len(text) - head - tail
    if left_out <= 0:
        return text
    return f"{text[:head]} […{left_out:,} characters…] {text[len(text) - tail :]}"


def short(text: str, longest: int = LONGEST) -> str:
    text = one_line(cut(text, 2 * longest, 0))
    return text if len(text) <= longest else text[: longest - 1] + "…"


def markdown(text: str) -> Markup:
    """The text on one line, with everything escaped that Markdown or HTML would interpret."""
    plain = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    plain = _SPECIAL.sub(r"\\\g<0>", plain)
    plain = _FIRST.sub(lambda found: f"{found[1]}\\{found[2]}" if found[1] else f"\\{found[3]}", plain)
    return Markup(_ADDRESS.sub(lambda found: found[0].replace(":", "&#58;").replace(".", "&#46;"), plain))
