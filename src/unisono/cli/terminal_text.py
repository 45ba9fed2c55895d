"""What models and files say, made harmless for a terminal: no text of theirs may move its cursor or write its title."""

from __future__ import annotations

import re

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""All of C0 and C1 but the tab and the line end: escape sequences begin with one of them."""


def harmless(text: str) -> str:
    """The text with control characters written as their numbers, such as ``[U+001B]``, and each line end as one."""
    return _CONTROLS.sub(lambda found: f"[U+{ord(found[0]):04X}]", text.replace("\r\n", "\n"))


class HarmlessText:
    """The same of a text that comes in parts, one of which may end between the characters of a line end."""

    def __init__(self) -> None:
        self._waits = ""

    def __call__(self, text: str) -> str:
        """What of the text so far is to be shown now."""
        text = self._waits + text
        self._waits = "\r" if text.endswith("\r") else ""
        return harmless(text.removesuffix("\r"))

    def end(self) -> str:
        """What still waits, at the end."""
        rest, self._waits = self._waits, ""
        return harmless(rest)
