"""The JSON object of one call, or its name and arguments, read character by character."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Generator, Mapping, Sequence
from typing import Any, TypeVar

from unisono.chat.call_form import CallForm
from unisono.chat.call_parameters import ParameterSegments, ends_of
from unisono.chat.call_segments import CallSegments, cut_open
from unisono.chat.json_values import read_arguments

_WHITE = " \t\n\r"
_LONGEST_SPACE = 200

Value = TypeVar("Value")
Reader = Generator[None, str, Value]
"""Receives one character at a time; raises `Broken` at one that no call can contain there."""


class Broken(Exception):
    """The text is not a call."""


class CallObject:
    """An incremental parser of one call's object, of one of the tools that ``names`` lists.

    Arguments that stand one by one become an object's, by the tools' ``schemas``.
    """

    def __init__(
        self, form: CallForm, names: Collection[str], schemas: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        self._form = form
        self._names = names
        self._schemas = schemas or {}
        self._name: str | None = None
        self._arguments: list[str] = []
        self._taken = 0
        self._pushed = ""
        self._reader = self._read_object() if form.segments is None else self._read_named(form.segments)
        next(self._reader)
        self.at = 0
        self.whole = False
        self.begun = False
        """Whether one of a call's keys has been read."""

    @property
    def called(self) -> str | None:
        """The function's name, known as soon as it has been read."""
        return self._name

    @property
    def name(self) -> str | None:
        """The function's name, known when the arguments begin."""
        return self._name if self._arguments else None

    def read(self, text: str) -> None:
        """Read more text, at most to the end of the object. Raises `Broken`, with `at` at the offending place."""
        for char in text:
            try:
                self._reader.send(char)
            except StopIteration:
                self.whole = True
            self.at += 1
            if self.whole:
                return

    def take(self) -> str:
        """The text of the arguments that was read since the last call of this method."""
        new = "".join(self._arguments[self._taken :])
        self._taken = len(self._arguments)
        return new

    def _read_object(self) -> Reader[None]:
        yield from self._expect("{")
        separator = ","
        while separator == ",":
            yield from self._expect('"')
            key = yield from self._string()
            self.begun = self.begun or key in (self._form.name_key, self._form.arguments_key)
            yield from self._expect(":")
            yield from self._value_of(key)
            separator = yield from self._solid()
        if separator != "}" or self.name is None:
            raise Broken

    def _read_named(self, segments: CallSegments) -> Reader[None]:
        """A name with its arguments behind it; before it, what follows an id that stands there."""
        _, *ahead = cut_open(segments.before)
        if ahead:
            yield from self._parts(["", *ahead])
        name = yield from self._solid()
        while any(each.startswith(name) for each in self._names):
            self.begun = self.begun or name in self._names
            char = yield
            if name in self._names and not any(each.startswith(name + char) for each in self._names):
                self._pushed = char
                break
            name += char
        if name not in self._names:
            raise Broken
        self._name = name
        if self._form.parameters is not None:
            yield from self._read_parameters(self._form.parameters, self._schemas.get(name, {}))
            return
        yield from self._parts(cut_open(segments.middle))
        yield from self._expect("{")
        yield from self._arguments_from("{")

    def _read_parameters(self, form: ParameterSegments, schema: Mapping[str, Any]) -> Reader[None]:
        """Arguments one by one, up to what ends them; each is told when it is whole."""
        known, properties = set[str](), schema.get("properties")
        properties = properties if isinstance(properties, Mapping) else {}
        more = yield from self._either(form.first, form.none)
        self._arguments.append("{")
        while more:
            key = yield from self._until(form.middle)
            text, more = yield from self._value(form)
            value = form.value(text, properties.get(key), schema)
            if key in known:
                raise Broken
            entry = f"{json.dumps(key, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}"
            self._arguments.append(", " * bool(known) + entry)
            known.add(key)
        self._arguments.append("}")

    def _value(self, form: ParameterSegments) -> Reader[tuple[str, bool]]:
        """The text of a value, and whether a further argument follows."""
        ends, longest = ends_of(form), len(form.stop + form.again + form.close) + _LONGEST_SPACE
        last, parts = (form.again.rstrip()[-1], form.close.rstrip()[-1]), list[str]()
        found: re.Match[str] | None = None
        while found is None:
            parts.append((yield))
            if parts[-1] in last:
                found = ends.search("".join(parts[-longest:]))
        text = "".join(parts)
        return text[: len(text) - len(found.group())], found[1] is not None

    def _either(self, one: str, other: str) -> Reader[bool]:
        """Whether the first of two texts comes, of which none begins as the other is; white space does not matter."""
        wanted, read = ["".join(text.split()) for text in (one, other)], ""
        while read not in wanted:
            read += yield from self._solid()
            if not any(text.startswith(read) for text in wanted):
                raise Broken
        return read == wanted[0]

    def _until(self, mark: str) -> Reader[str]:
        """The text before a mark; white space around the mark's tags does not matter."""
        tag, closed, rest = mark.strip().partition(">")
        tag += closed
        text, self._pushed = self._pushed, ""
        parts = [text]
        while not text.endswith(tag):
            parts.append((yield))
            text = (text + parts[-1])[-len(tag) :]
        for wanted in "".join(rest.split()):
            yield from self._expect(wanted)
        return "".join(parts)[: -len(tag)]

    def _parts(self, parts: Sequence[str]) -> Reader[None]:
        """Texts, between which a number or an id stands; white space does not matter."""
        for place, part in enumerate(parts):
            if place:
                char = yield from self._solid()
                while char.isalnum():
                    char = yield from self._solid()
                self._pushed = char
            for wanted in "".join(part.split()):
                yield from self._expect(wanted)

    def _value_of(self, key: str) -> Reader[None]:
        if key == self._form.name_key and self._name is None:
            yield from self._expect('"')
            self._name = yield from self._string()
            if self._name not in self._names:
                raise Broken
        elif key == self._form.arguments_key and not self._arguments:
            yield from self._expect("{")
            yield from self._arguments_from("{")
        elif key in self._form.other_keys:
            first = yield from self._solid()
            if first in "{[":
                yield from self._rest(first, [])
            elif first == '"':
                yield from self._string()
            else:
                yield from self._scalar(first)
        else:
            raise Broken

    def _arguments_from(self, first: str) -> Reader[None]:
        yield from self._rest(first, self._arguments)
        try:
            read_arguments("".join(self._arguments))
        except ValueError as error:
            raise Broken from error

    def _solid(self) -> Reader[str]:
        while True:
            char, self._pushed = self._pushed or (yield), ""
            if char not in _WHITE:
                return char

    def _expect(self, wanted: str) -> Reader[None]:
        if (yield from self._solid()) != wanted:
            raise Broken

    def _string(self) -> Reader[str]:
        kept: list[str] = []
        yield from self._rest('"', kept)
        try:
            return str(json.loads("".join(kept)))
        except ValueError as error:
            raise Broken from error

    def _rest(self, first: str, kept: list[str]) -> Reader[None]:
        kept.append(first)
        depth, quoted, escaped = int(first in "{["), first == '"', False
        while depth or quoted:
            char = yield
            if quoted and char < " ":
                raise Broken
            if not quoted:
                depth += (char in "{[") - (char in "}]")
            if char == '"' and not escaped:
                quoted = not quoted
            escaped = char == "\\" and not escaped
            kept.append(char)

    def _scalar(self, text: str) -> Reader[None]:
        while (char := (yield)) not in ",}" + _WHITE:
            text += char
        self._pushed = char
        try:
            json.loads(text, parse_constant=_refuse)
        except ValueError as error:
            raise Broken from error


def _refuse(constant: str) -> None:
    raise ValueError(constant)
