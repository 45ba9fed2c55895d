"""The grammar of a call's arguments that stand one by one: each by its part of the schema, in the schema's order.

A text stands as it is, so its schema becomes a regular expression; other values are JSON. See
`unisono.chat.call_parameters`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from unisono.chat.call_parameters import ParameterSegments, kinds_of_value, referred
from unisono.constraints.json_schema import KEYWORDS, OPTIONS
from unisono.errors import SpecError, shown

_OF_ARGUMENTS = ("type", "properties", "required", "additionalProperties", "$defs", "definitions")
_OF_TEXTS = ("type", "enum", "const", "minLength", "maxLength", "pattern", "format")
_DATE, _TIME = (
    r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|1\d|2[0-8])",
    r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(Z|[+-]([01]\d|2[0-3]):[0-5]\d)",
)
_OCTET = r"(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "email": r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*@[A-Za-z0-9]+(-[A-Za-z0-9]+)*(\.[A-Za-z0-9]+(-[A-Za-z0-9]+)*)+",
    "hostname": r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*(\.[A-Za-z0-9]+(-[A-Za-z0-9]+)*)*",
    "ipv4": rf"({_OCTET}\.){{3}}{_OCTET}",
    "uuid": r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "uri": r"[a-z]+:\/\/[A-Za-z0-9.-]+(\/[A-Za-z0-9._~-]+)*\/?",
    "unknown": r"(?s:.*)",
}
"""What is written of a format: not all that it allows, such as a 29th of February, but nothing else."""
_BEGINS = {
    "array": r"\[",
    "object": r"\{",
    "integer": "[-0-9]",
    "number": "[-0-9]",
    "boolean": "[tTfF]",
    "null": "[nN]",
}
"""How JSON of a type may begin, or what is read as such."""
_NAME = r"/[A-Za-z0-9_.-]+/"
_DEEPEST = 20


def parameter_rules(
    rule: str, form: ParameterSegments, schema: Mapping[str, Any], options: Mapping[str, Any]
) -> list[str]:
    """Rules of Lark for what stands behind a function's name, of which the first has the name ``rule``.

    ``options`` are those of JSON. Raises a `SpecError` where a schema cannot be kept to in this form.
    """
    odd = next((key for key in schema if key in KEYWORDS and key not in _OF_ARGUMENTS), None)
    if odd is not None:
        raise _unkept(odd, "the parameters")
    values = _Values(form.stop, schema, options)
    properties = dict(schema.get("properties", {}))
    required = schema.get("required", ())
    properties |= {name: True for name in required if name not in properties}
    more = schema.get("additionalProperties", True)
    if not properties and more is not False:
        value = values.rule(f"{rule}_any", more, "additionalProperties")
        one = f"{_NAME} {_text(form.middle)} {rule}_any"
        return [
            f"{rule}: {_text(form.none)} | {_text(form.first)} {one} ({_text(form.again)} {one})* {_text(form.close)}",
            *value,
        ]
    lines, count = [f"{rule}: {rule}_0_first"], len(properties)
    for number, (name, part) in enumerate(properties.items()):
        _check_name(name, form)
        lines += values.rule(f"{rule}_{number}_value", part, f"properties.{name}")
        for place, before in (("first", form.first), ("more", form.again)):
            skipped = "" if name in required else f" | {rule}_{number + 1}_{place}"
            written = f"{_text(f'{before}{name}{form.middle}')} {rule}_{number}_value {rule}_{number + 1}_more"
            lines.append(f"{rule}_{number}_{place}: {written}{skipped}")
    return [*lines, f"{rule}_{count}_first: {_text(form.none)}", f"{rule}_{count}_more: {_text(form.close)}"]


def _check_name(name: str, form: ParameterSegments) -> None:
    if not name or re.search(r"[\s<>\"']", name) or form.middle.strip()[:1] in name:
        raise SpecError(
            f"the argument {shown(name)} cannot be written: the lead's calls hold it within a tag",
            hint="name it by letters, digits and the characters _ - .",
        )


class _Values:
    """Rules for values, each with what stands behind it."""

    def __init__(self, stop: str, whole: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        self._stop = stop
        self._whole = whole
        self._options = options

    def rule(self, name: str, schema: Any, where: str) -> list[str]:
        leaves = list(self._leaves(schema, where))
        others = [leaf for leaf in leaves if leaf.get("type") != "string"]
        lines, ways, free = [], list[str](), list[str]()
        for number, leaf in enumerate(others):
            lines.append(f"{name}_json_{number}: %json {json.dumps(self._alone(leaf))}")
            ways.append(f"{name}_json_{number} {_text(self._stop)}")
        for leaf in leaves:
            if leaf.get("type") != "string":
                continue
            if "enum" in leaf:
                ways += [_text(value + self._stop) for value in leaf["enum"]]
            else:
                free.append(self._expression(leaf, others, where))
        for number, expression in enumerate(free):
            lines.append(f"{name}_text_{number}[suffix={json.dumps(self._stop)}]: {expression}")
            ways.append(f"{name}_text_{number}")
        if not ways:
            raise SpecError(f"{where} allows no value", hint="leave the argument out of the schema")
        return [f"{name}: {' | '.join(ways)}", *lines]

    def _expression(self, leaf: Mapping[str, Any], others: Sequence[Mapping[str, Any]], where: str) -> str:
        """The regular expression of a text, which no value beside it is read of."""
        parts = []
        if "minLength" in leaf or "maxLength" in leaf:
            parts.append(f"(?s:.{{{leaf.get('minLength', 0)},{leaf.get('maxLength', '')}}})")
        if "pattern" in leaf:
            parts.append(_searched(leaf["pattern"]))
        if "format" in leaf:
            if leaf["format"] not in _FORMATS:
                raise _unkept(f"format: {leaf['format']}", where)
            parts.append(_FORMATS[leaf["format"]])
        wanted = " & ".join(f"/{_slashed(part)}/" for part in parts or [r"(?s:.*)"])
        wanted += f" & ~/(?s:.*){_slashed(re.escape(self._stop.strip()))}(?s:.*)/"  # where such a value would end
        begins = {_BEGINS[kind] for other in others for kind in _kinds(other) if kind in _BEGINS}
        return wanted + "".join(rf" & ~/\s*{begin}(?s:.*)/" for begin in sorted(begins))

    def _leaves(self, schema: Any, where: str, depth: int = 0) -> Iterator[dict[str, Any]]:
        """The schemas among which a value has a choice: texts, and others."""
        if schema is False or depth > _DEEPEST:
            return
        asked = {key: value for key, value in schema.items() if key in KEYWORDS} if isinstance(schema, dict) else {}
        if asked.keys() == {"$ref"}:
            yield from self._leaves(referred(asked["$ref"], self._whole), where, depth + 1)
            return
        for key in ("anyOf", "oneOf", "allOf"):
            if asked.keys() == {key} and (key == "anyOf" or len(asked[key]) == 1 or _are_apart(asked[key], key)):
                for each in asked[key]:
                    yield from self._leaves(each, where, depth + 1)
                return
        if not asked:
            yield {"type": "string"}  # which is read as any value
        elif "enum" in asked or "const" in asked:
            yield from _of_values([asked["const"]] if "const" in asked else asked["enum"], asked, where)
        elif isinstance(kinds := asked.get("type"), str | list):
            for kind in [kinds] if isinstance(kinds, str) else kinds:
                leaf = {**asked, "type": kind}
                odd = next((key for key in leaf if key not in _OF_TEXTS), None) if kind == "string" else None
                if odd is not None and isinstance(kinds, str):
                    raise _unkept(odd, where)
                yield {key: leaf[key] for key in _OF_TEXTS if key in leaf} if kind == "string" else leaf
        else:
            raise _unkept(next(iter(asked)), where)

    def _alone(self, leaf: Mapping[str, Any]) -> dict[str, Any]:
        """A schema that stands by itself, with all that it refers to."""
        place = "/$defs/whole"
        if "$ref" not in json.dumps(leaf):
            return {**leaf, OPTIONS: dict(self._options)}
        return {
            **moved(dict(leaf), place),
            "$defs": {"whole": moved(dict(self._whole), place)},
            OPTIONS: dict(self._options),
        }


def _of_values(values: list[Any], asked: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
    if odd := next((key for key in asked if key not in ("enum", "const", "type")), None):
        raise _unkept(odd, where)
    kinds = asked.get("type")
    allowed = None if kinds is None else {kinds} if isinstance(kinds, str) else set(kinds)
    values = [value for value in values if allowed is None or allowed & kinds_of_value(value)]
    if texts := [value for value in values if isinstance(value, str)]:
        yield {"type": "string", "enum": texts}
    if others := [value for value in values if not isinstance(value, str)]:
        yield {"enum": others}


def _are_apart(schemas: list[Any], key: str) -> bool:
    """Whether of some schemas no value fits two: ``oneOf`` those of different types."""
    kinds = [each.get("type") if isinstance(each, dict) else None for each in schemas]
    known = [kind for kind in kinds if isinstance(kind, str)]
    return key == "oneOf" and len(set(known)) == len(kinds) and not {"integer", "number"} <= set(known)


def _kinds(leaf: Mapping[str, Any]) -> frozenset[str]:
    if "enum" in leaf:
        return frozenset[str]().union(*map(kinds_of_value, leaf["enum"]))
    return frozenset({leaf["type"]})


def moved(schema: Any, place: str) -> Any:
    """A schema whose references hold where it is a part of another."""
    if isinstance(schema, list):
        return [moved(inner, place) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: f"#{place}{inner[1:]}" if key == "$ref" and str(inner).startswith("#") else moved(inner, place)
        for key, inner in schema.items()
    }


def _searched(pattern: str) -> str:
    """A pattern that is looked for in a text, as one that the whole text has to fit."""
    plain = pattern.replace("\\\\", "")
    if "|" in plain or not (pattern.startswith("^") and pattern.endswith("$") and not plain.endswith("\\$")):
        ahead, behind = "" if pattern.startswith("^") else "(?s:.*)", "" if pattern.endswith("$") else "(?s:.*)"
        if "|" in plain and (pattern.startswith("^") or pattern.endswith("$")):
            raise _unkept("pattern with ^ or $, and |", "an argument")
        return f"{ahead}({pattern.removeprefix('^').removesuffix('$')}){behind}"
    return f"({pattern[1:-1]})"


def _slashed(expression: str) -> str:
    """An expression between slashes."""
    return re.sub(r"(?<!\\)((?:\\\\)*)/", r"\1\\/", expression)


def _unkept(keyword: str, where: str) -> SpecError:
    return SpecError(
        f"{where} has {shown(keyword)}, to which arguments that are written one by one cannot be kept",
        hint="leave it out of the schema, or make a member the lead that writes calls as JSON",
    )


def _text(text: str) -> str:
    return json.dumps(text)
