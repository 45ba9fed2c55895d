"""Reads the text of a call character by character, as it comes."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from typing import TypeVar

_WHITE = " \t\n\r"

Value = TypeVar("Value")
Scan = Generator[None, str, Value]
"""Receives one character at a time; raises `Broken` at one that no call can contain there."""


class Broken(Exception):
    """The text is not a call."""


class Characters:
    """What is read of a call's text, in steps of which each goes on where the last has ended."""

    def __init__(self) -> None:
        self._pushed = ""

    def back(self, text: str) -> None:
        """Let what was read be read again."""
        self._pushed = text + self._pushed

    def char(self) -> Scan[str]:
        if not self._pushed:
            return (yield)
        char, self._pushed = self._pushed[0], self._pushed[1:]
        return char

    def solid(self) -> Scan[str]:
        """The next character that is no white space."""
        while True:
            char = yield from self.char()
            if char not in _WHITE:
                return char

    def expect(self, wanted: str) -> Scan[None]:
        """A text, whose white space does not matter."""
        for each in "".join(wanted.split()):
            if (yield from self.solid()) != each:
                raise Broken

    def either(self, one: str, other: str) -> Scan[bool]:
        """Whether the first of two texts comes, of which none begins as the other is; white space does not matter."""
        wanted, read = ["".join(text.split()) for text in (one, other)], ""
        while read not in wanted:
            read += yield from self.solid()
            if not any(text.startswith(read) for text in wanted):
                raise Broken
        return read == wanted[0]

    def up_to(self, mark: str) -> Scan[str]:
        """The text before a mark."""
        parts, text = list[str](), ""
        while not text.endswith(mark):
            parts.append((yield from self.char()))
            text = (text + parts[-1])[-len(mark) :]
        return "".join(parts)[: -len(mark)]

    def until(self, mark: str) -> Scan[str]:
        """The text before a mark; white space around the mark's tags does not matter."""
        tag, closed, rest = mark.strip().partition(">")
        text = yield from self.up_to(tag + closed)
        yield from self.expect(rest)
        return text

    def parts(self, parts: Sequence[str]) -> Scan[None]:
        """Texts, between which a number or an id stands; white space does not matter."""
        for place, part in enumerate(parts):
            if place:
                char = yield from self.solid()
                while char.isalnum():
                    char = yield from self.solid()
                self.back(char)
            yield from self.expect(part)

    def string(self) -> Scan[str]:
        """A string of JSON, behind its first quote."""
        kept: list[str] = []
        yield from self.rest('"', kept)
        try:
            return str(json.loads("".join(kept)))
        except ValueError as error:
            raise Broken from error

    def rest(self, first: str, kept: list[str]) -> Scan[None]:
        """The rest of a value of JSON that begins with a bracket or a quote.

        A line break, or another control character that stands in a string as it is, is kept as JSON writes it.
        """
        kept.append(first)
        depth, quoted, escaped = int(first in "{["), first == '"', False
        while depth or quoted:
            char = yield from self.char()
            if quoted and escaped and char < " ":
                raise Broken
            if not quoted:
                depth += (char in "{[") - (char in "}]")
            if char == '"' and not escaped:
                quoted = not quoted
            escaped = char == "\\" and not escaped
            kept.append(json.dumps(char)[1:-1] if quoted and char < " " else char)

    def scalar(self, text: str, ends: str) -> Scan[str]:
        """A value without quotes and brackets, up to one of its ends or white space."""
        while (char := (yield from self.char())) not in ends + _WHITE:
            text += char
        self.back(char)
        return text
