"""The JSON object of one call, or its name and arguments, read character by character."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from unisono.chat.call_characters import Broken, Characters, Scan
from unisono.chat.call_form import CallForm
from unisono.chat.call_literals import read_literal
from unisono.chat.call_parameters import ParameterSegments, ends_of
from unisono.chat.call_segments import CallSegments, cut_open
from unisono.chat.call_tags import read_tagged
from unisono.chat.call_values import kinds_of, read_value
from unisono.chat.json_values import encodable, read_arguments, refuse_constant

_LONGEST_SPACE = 200
_ARGUMENTS = ("arguments", "parameters")
"""What models call a call's arguments; some use another one's word."""
_NONE = "{}"
_KIND = "type"
"""The key by which models say that a call is of a function, as OpenAI's API does."""


def _is_schema(value: Mapping[str, object]) -> bool:
    return value.get("type") == "object" and isinstance(value.get("properties"), dict)


class CallObject(Characters):
    """An incremental parser of one call's object, of one of the tools that ``names`` lists.

    Arguments that stand one by one become an object's, by the tools' ``schemas``.
    """

    def __init__(
        self, form: CallForm, names: Collection[str], schemas: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        super().__init__()
        self._form = form
        self._names = names
        self._schemas = schemas or {}
        self._name: str | None = None
        self._arguments: list[str] = []
        self._further = False  # whether it has a key that its form has not
        self._translated = False  # whether its arguments stand under another model's key
        self._taken = 0
        self._reader = self._read_object() if form.segments is None else self._read_named(form.segments)
        next(self._reader)
        self.at = 0
        self.whole = False
        self.begun = False
        """Whether one of a call's keys has been read."""
        self.is_reply = False
        """Whether it is no call, and all is read that stands before a text."""

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

    def _read_object(self) -> Scan[None]:
        yield from self.expect("{")
        separator = ","
        while separator == ",":
            yield from self.expect('"')
            key = self._meant((yield from self.string()))
            self.begun = self.begun or key in (self._form.name_key, self._form.arguments_key)
            yield from self.expect(":")
            yield from self._value_of(key)
            separator = yield from self.solid()
        if separator != "}" or self._name is None:
            raise Broken
        if not self._arguments:
            if self._further or not self._marked:  # what is beside the name may be meant as arguments
                raise Broken
            self._arguments.append(_NONE)

    @property
    def _marked(self) -> bool:
        """Whether something says that an object is a call, so that it is one however its arguments are written."""
        return self._form.begin_token is not None or bool(re.search(r"[\w<]", self._form.opening))

    def _meant(self, key: str) -> str:
        """The form's key of the arguments, where that is another model's."""
        own = (self._form.name_key, self._form.arguments_key, *self._form.other_keys)
        if key not in _ARGUMENTS or key in own:
            return key
        self._translated = True
        return self._form.arguments_key

    def _read_named(self, segments: CallSegments) -> Scan[None]:
        """A name with its arguments behind it; before it, what follows an id that stands there."""
        _, *ahead = cut_open(segments.before)
        if ahead:
            yield from self.parts(["", *ahead])
        reply = self._form.recipient.removesuffix(segments.middle)
        names = {*self._names, reply} - {""}
        name = yield from self.solid()
        while any(each.startswith(name) for each in names):
            self.begun = self.begun or name in self._names
            char = yield from self.char()
            if name in names and not any(each.startswith(name + char) for each in names):
                self.back(char)
                break
            name += char
        if name == reply:
            self.is_reply = True
            for wanted in segments.middle:
                if (yield from self.char()) != wanted:
                    raise Broken
            return
        if name not in self._names:
            raise Broken
        self._name = name
        if self._form.parameters is not None:
            yield from self._read_parameters(self._form.parameters, self._schemas.get(name, {}))
            return
        yield from self.parts(cut_open(segments.middle))
        yield from self.expect("{")
        yield from self._arguments_from("{")

    def _read_parameters(self, form: ParameterSegments, schema: Mapping[str, Any]) -> Scan[None]:
        """Arguments one by one, up to what ends them; each is told when it is whole."""
        known, properties = set[str](), schema.get("properties")
        properties = properties if isinstance(properties, Mapping) else {}
        more = yield from self._begins(form)
        self._arguments.append("{")
        while more:
            key, value, more = yield from self._parameter(form, properties, schema)
            if key in known or (not key and form.stop == ""):
                raise Broken
            entry = f"{encodable(key)}: {encodable(value)}"
            self._arguments.append(", " * bool(known) + entry)
            known.add(key)
        self._arguments.append("}")

    def _begins(self, form: ParameterSegments) -> Scan[bool]:
        """Whether an argument follows a function's name."""
        if form.literals is None and form.tags is None:
            return (yield from self.either(form.first, form.none))
        yield from self.expect(form.first)
        end = form.close.strip() if form.tags is None else form.close.strip().removeprefix(form.tags.open)
        return (yield from self._goes_on(end))

    def _goes_on(self, end: str) -> Scan[bool]:
        """Whether something else follows than an end, which is read, and which nothing else begins as."""
        char = yield from self.solid()
        self.back(char)
        if char == end[0]:
            yield from self.expect(end)
        return char != end[0]

    def _parameter(
        self, form: ParameterSegments, properties: Mapping[str, Any], schema: Mapping[str, Any]
    ) -> Scan[tuple[str, Any, bool]]:
        """The name of an argument, its value, and whether a further one follows."""
        if form.literals is not None:
            key = (yield from self.until(form.middle)).strip()
            value, is_told = yield from read_literal(self, form.literals)
            more = yield from self.either(form.again, form.close)
            return key, value if is_told else read_value(value, properties.get(key), schema), more
        if form.tags is not None:
            key = yield from self.up_to(form.tags.end)
            value = yield from read_tagged(self, form.tags, key, properties.get(key), schema)
            yield from self.expect(form.tags.open)
            return key, value, (yield from self._goes_on(form.close.strip().removeprefix(form.tags.open)))
        if form.kinds is None:
            key = yield from self.until(form.middle)
            text, more = yield from self._value(form)
            return key, form.value(text, properties.get(key), schema), more
        ahead, text_sign, other = form.kinds
        key = yield from self.until(ahead)
        is_text = yield from self.either(text_sign, other)
        text, more = yield from self._value(form)
        kinds = kinds_of(properties.get(key), schema)
        as_text = is_text and (kinds is None or "string" in kinds)
        return key, text if as_text else form.value(text, properties.get(key), schema), more

    def _value(self, form: ParameterSegments) -> Scan[tuple[str, bool]]:
        """The text of a value, and whether a further argument follows."""
        ends, longest = ends_of(form), len(form.stop + form.again + form.close) + _LONGEST_SPACE
        last, parts = (form.again.rstrip()[-1], form.close.rstrip()[-1]), list[str]()
        found: re.Match[str] | None = None
        while found is None:
            parts.append((yield from self.char()))
            if parts[-1] in last:
                found = ends.search("".join(parts[-longest:]))
        text = "".join(parts)
        return text[: len(text) - len(found.group())], found[1] is not None

    def _value_of(self, key: str) -> Scan[None]:
        if key == self._form.name_key and self._name is None:
            yield from self.expect('"')
            self._name = yield from self.string()
            if self._name not in self._names:
                raise Broken
        elif key == self._form.arguments_key and not self._arguments:
            yield from self._read_arguments()
        elif key in (self._form.name_key, self._form.arguments_key):
            raise Broken
        elif key in self._form.other_keys or self._marked:
            self._further = self._further or key not in (*self._form.other_keys, _KIND)
            yield from self._ignored()
        elif key == _KIND:
            yield from self.expect('"')
            if (yield from self.string()) != "function":
                raise Broken
        else:
            raise Broken

    def _ignored(self) -> Scan[None]:
        """A value of a key that says nothing here."""
        first = yield from self.solid()
        if first in "{[":
            yield from self.rest(first, [])
        elif first == '"':
            yield from self.string()
        else:
            try:
                json.loads((yield from self.scalar(first, ",}")), parse_constant=refuse_constant)
            except ValueError as error:
                raise Broken from error

    def _read_arguments(self) -> Scan[None]:
        """An object; of a call that is marked, also one within a string, or null or an empty string for none."""
        first = yield from self.solid()
        if first == "{":
            yield from self._arguments_from(first)
            return
        if not self._marked:
            raise Broken
        text = yield from (self.string() if first == '"' else self.scalar(first, ",}"))
        if first != '"' and text != "null":
            raise Broken
        told = _NONE if text.strip() in ("", "null") else text.strip()
        try:
            value = read_arguments(told, strict=False)
        except ValueError as error:
            raise Broken from error
        self._arguments.append(told if told.isprintable() else encodable(value))

    def _arguments_from(self, first: str) -> Scan[None]:
        yield from self.rest(first, self._arguments)
        try:
            value = read_arguments("".join(self._arguments))
        except ValueError as error:
            raise Broken from error
        if self._translated and not self._marked and _is_schema(value):  # which a definition of a tool has there
            raise Broken
