"""The grammar of a call's arguments that stand one by one: each by its part of the schema, in the schema's order.

A text stands as it is, so its schema becomes a regular expression; other values are JSON, or as
`unisono.chat.literal_grammar` says. See `unisono.chat.call_parameters`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from unisono.chat.call_parameters import ParameterSegments
from unisono.chat.call_values import kinds_of_value
from unisono.chat.literal_grammar import LiteralValues
from unisono.chat.tag_grammar import TagValues
from unisono.chat.value_rules import ANY_NAME, Write
from unisono.chat.value_schemas import alone, expressions, joined, leaves, unkept, without
from unisono.constraints.json_schema import KEYWORDS
from unisono.errors import SpecError, shown

_OF_ARGUMENTS = ("type", "properties", "required", "additionalProperties", "$defs", "definitions")
_BEGINS = {
    "array": r"\[",
    "object": r"\{",
    "integer": "[-0-9]",
    "number": "[-0-9]",
    "boolean": "[tTfF]",
    "null": "[nN]",
}
"""How JSON of a type may begin, or what is read as such."""
_NOTHING = '""'


class Values(Protocol):
    """Writes rules for values, with what stands around them."""

    def rule(self, name: str, schema: Any, where: str, stop: str = "") -> list[str]:
        """The lines of a rule, and of those that it needs; a ``stop`` ends its values.

        Raises a `SpecError` where a schema cannot be kept to.
        """
        ...


@dataclass(frozen=True, slots=True)
class Entries:
    """What stands around the names and values of arguments, or of a mapping within one."""

    first: str
    middle: str
    again: str
    close: str
    none: str
    stop: tuple[str, str] = ("", "")
    """Around a name, behind its value."""


def parameter_rules(
    rule: str, form: ParameterSegments, schema: Mapping[str, Any], options: Mapping[str, Any], write: Write
) -> list[str]:
    """Rules of Lark for what stands behind a function's name, of which the first has the name ``rule``.

    ``options`` are those of JSON, and ``write`` makes a text literals and marks. Raises a `SpecError` where a schema
    cannot be kept to in this form.
    """
    if form.tags is not None:
        entries = Entries(form.first, form.middle, form.again, form.close, form.none, (form.tags.close, form.tags.end))
        tagged = TagValues(form.tags, schema, options, write, entry_rules_of=_nested_tags)
        return entry_rules(rule, entries, schema, tagged, write, avoided="/")
    if form.literals is None:
        entries = Entries(form.first, "", form.again, form.close, form.none)
        values: Values = _Values(form, schema, options, write)
        return entry_rules(rule, entries, schema, values, write, avoided=form.middle.strip()[:1])
    entries = Entries(form.first, form.middle, form.again, form.close, form.none)
    literal = LiteralValues(rule, form.literals, schema, options, write, entry_rules_of=_nested)
    return [*entry_rules(rule, entries, schema, literal, write, avoided=form.middle.strip()[:1]), *literal.anything()]


def _nested(rule: str, schema: Mapping[str, Any], values: LiteralValues, write: Write, where: str) -> list[str]:
    """The rules of a mapping within an argument."""
    form = values.form
    assert form.key is not None
    before, behind = form.key
    entries = Entries("{" + before, behind, form.item + before, "}", "{}")
    return entry_rules(rule, entries, schema, values, write, where, avoided=behind.strip()[:1])


def _nested_tags(rule: str, schema: Mapping[str, Any], values: TagValues, write: Write, where: str) -> list[str]:
    """The rules of tags within a tag."""
    tags = values.form
    entries = Entries(tags.open, tags.end, tags.open, "", "", (tags.close, tags.end))
    return entry_rules(rule, entries, schema, values, write, where, avoided="/")


def entry_rules(
    rule: str,
    form: Entries,
    schema: Mapping[str, Any],
    values: Values,
    write: Write,
    where: str = "",
    *,
    avoided: str = "",
) -> list[str]:
    """Rules for the names and values of one object; no name has the character that is ``avoided``."""
    odd = next((key for key in schema if key in KEYWORDS and key not in _OF_ARGUMENTS), None)
    if odd is not None:
        raise unkept(odd, where or "the parameters")
    properties = dict(schema.get("properties", {}))
    required = schema.get("required", ())
    properties |= {name: True for name in required if name not in properties}
    more, place = schema.get("additionalProperties", True), f"{where}." if where else ""
    if not properties and more is not False:
        value = values.rule(f"{rule}_any", more, f"{place}additionalProperties", form.stop[0])
        one = f"{ANY_NAME} {write(form.middle)} {rule}_any" + (
            f" {ANY_NAME} {write(form.stop[1])}" if form.stop[0] else ""
        )
        first, again, close = map(write, (form.first, form.again, form.close))
        return [f"{rule}: {write(form.none) or _NOTHING} | {first} {one} ({again} {one})* {close}", *value]
    lines, count = [f"{rule}: {rule}_0_first"], len(properties)
    for number, (name, part) in enumerate(properties.items()):
        _check_name(name, avoided)
        stop = name.join(form.stop) if form.stop[0] else ""
        lines += values.rule(f"{rule}_{number}_value", part, f"{place or 'properties.'}{name}", stop)
        for which, before in (("first", form.first), ("more", form.again)):
            skipped = "" if name in required else f" | {rule}_{number + 1}_{which}"
            written = f"{write(f'{before}{name}{form.middle}')} {rule}_{number}_value {rule}_{number + 1}_more"
            lines.append(f"{rule}_{number}_{which}: {written}{skipped}")
    none, close = (write(text) or _NOTHING for text in (form.none, form.close))
    return [*lines, f"{rule}_{count}_first: {none}", f"{rule}_{count}_more: {close}"]


def _check_name(name: str, avoided: str) -> None:
    if not name or re.search(r"[\s<>\"']", name) or (avoided and avoided in name):
        raise SpecError(
            f"the argument {shown(name)} cannot be written: the lead's calls hold it within a tag",
            hint="name it by letters, digits and the characters _ - .",
        )


class _Values:
    """Rules for values, each with what stands before it and behind it."""

    def __init__(
        self, form: ParameterSegments, whole: Mapping[str, Any], options: Mapping[str, Any], write: Write
    ) -> None:
        self._form = form
        self._whole = whole
        self._options = options
        self._write = write
        self._told = form.text_middle is not None
        """Whether a text is told from other values."""

    def rule(self, name: str, schema: Any, where: str, stop: str = "") -> list[str]:
        found = [leaf for each in leaves(schema, self._whole, where) for leaf in self._kinds_of(each)]
        others = [leaf for leaf in found if leaf.get("type") != "string"]
        before, stop = self._write(self._form.middle), stop or self._form.stop
        text_before = before if self._form.text_middle is None else self._write(self._form.text_middle)
        lines, ways, free = [], list[str](), list[str]()
        for number, leaf in enumerate(others):
            lines.append(f"{name}_json_{number}: %json {json.dumps(alone(leaf, self._whole, self._options))}")
            ways.append(f"{before} {name}_json_{number} {self._write(stop)}")
        for leaf in found:
            if leaf.get("type") != "string":
                continue
            if "enum" in leaf:
                values = [value for value in leaf["enum"] if self._form.stop.strip() not in value]
                ways += [f"{text_before} {self._write(value + stop)}" for value in values]
            else:
                free.append(self._expression(leaf, others, where))
        for number, expression in enumerate(free):
            lines.append(f"{name}_text_{number}[suffix={json.dumps(stop)}]: {expression}")
            ways.append(f"{text_before} {name}_text_{number}")
        if not ways:
            raise SpecError(f"{where} allows no value", hint="leave the argument out of the schema")
        return [f"{name}: {' | '.join(ways)}", *lines]

    def _kinds_of(self, leaf: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Anything is a text, which is read as any value, where texts are not told from others."""
        if leaf:
            return [leaf]
        others = {"type": ["number", "boolean", "null", "array", "object"]}
        return [{"type": "string"}, others] if self._told else [{"type": "string"}]

    def _expression(self, leaf: Mapping[str, Any], others: Sequence[Mapping[str, Any]], where: str) -> str:
        """The regular expression of a text, which no value beside it is read of."""
        wanted = joined(expressions(leaf, where)) + without(self._form.stop.strip())  # where such a value would end
        if self._told:
            return wanted
        begins = {_BEGINS[kind] for other in others for kind in _kinds(other) if kind in _BEGINS}
        return wanted + "".join(rf" & ~/\s*{begin}(?s:.*)/" for begin in sorted(begins))


def _kinds(leaf: Mapping[str, Any]) -> frozenset[str]:
    if "enum" in leaf:
        return frozenset[str]().union(*map(kinds_of_value, leaf["enum"]))
    return frozenset({leaf["type"]})
