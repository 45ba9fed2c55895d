"""Schemas of arguments that are written one by one: the kinds of values that they allow, and the texts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from unisono.chat.call_values import kinds_of_value, referred
from unisono.constraints.json_schema import KEYWORDS, OPTIONS
from unisono.errors import SpecError, shown

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
_ANY = "(?s:.*)"
_TOKENS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)
"""Of a pattern: what is escaped, a class, and any other character."""
_ENDED = re.compile(r"(?<!\\)(?:\\\\)*\$\Z")
"""A pattern that has nothing behind it: its last dollar is not escaped."""
_FLAGS = re.compile(r"\(\?[a-zA-Z-]+\)")
DEEPEST = 20
ANYTHING: Mapping[str, Any] = {}
"""Of `leaves`: a value of any kind."""


def leaves(schema: Any, whole: Mapping[str, Any], where: str, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """The schemas among which a value has a choice, each of one type or of some values, or `ANYTHING`.

    ``whole`` is what references are into. Raises a `SpecError` where a schema cannot be kept to.
    """
    if schema is False or depth > DEEPEST:
        return
    asked = {key: value for key, value in schema.items() if key in KEYWORDS} if isinstance(schema, dict) else {}
    if asked.keys() == {"$ref"}:
        yield from leaves(referred(asked["$ref"], whole), whole, where, depth + 1)
        return
    for key in ("anyOf", "oneOf", "allOf"):
        if asked.keys() == {key} and (key == "anyOf" or len(asked[key]) == 1 or _are_apart(asked[key], key)):
            for each in asked[key]:
                yield from leaves(each, whole, where, depth + 1)
            return
    if not asked:
        yield ANYTHING
    elif "enum" in asked or "const" in asked:
        yield from _of_values([asked["const"]] if "const" in asked else asked["enum"], asked, where)
    elif isinstance(kinds := asked.get("type"), str | list):
        for kind in [kinds] if isinstance(kinds, str) else kinds:
            leaf = {**asked, "type": kind}
            odd = next((key for key in leaf if key not in _OF_TEXTS), None) if kind == "string" else None
            if odd is not None and isinstance(kinds, str):
                raise unkept(odd, where)
            yield {key: leaf[key] for key in _OF_TEXTS if key in leaf} if kind == "string" else leaf
    else:
        raise unkept(next(iter(asked)), where)


def holds(value: Any, mark: str) -> bool:
    """Whether a text within a value, or a name, holds a mark: it would end there."""
    if isinstance(value, str):
        return mark in value
    inner = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(holds(each, mark) for each in inner)


def expressions(leaf: Mapping[str, Any], where: str) -> list[str]:
    """The regular expressions of a text, which has to fit all. Raises a `SpecError` for a format that has none."""
    parts = []
    if "minLength" in leaf or "maxLength" in leaf:
        parts.append(f"(?s:.{{{leaf.get('minLength', 0)},{leaf.get('maxLength', '')}}})")
    if "pattern" in leaf:
        parts.append(_searched(leaf["pattern"]))
    if "format" in leaf:
        if leaf["format"] not in _FORMATS:
            raise unkept(f"format: {leaf['format']}", where)
        parts.append(_FORMATS[leaf["format"]])
    return parts


def joined(parts: list[str]) -> str:
    """What fits all of some regular expressions, as a terminal's."""
    return " & ".join(f"/{slashed(part)}/" for part in parts or [r"(?s:.*)"])


def fits_nothing(expression: str) -> bool:
    """Whether an expression fits the empty text; not, where Python does not read it."""
    try:
        return re.fullmatch(expression, "") is not None
    except re.error:
        return False


def without(text: str) -> str:
    """What a terminal's expression ends with where it may not hold a text."""
    return f" & ~/(?s:.*){slashed(re.escape(text))}(?s:.*)/"


def alone(leaf: Mapping[str, Any], whole: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """A schema that stands by itself, with all that it refers to."""
    place = "/$defs/whole"
    if "$ref" not in json.dumps(leaf):
        return {**leaf, OPTIONS: dict(options)}
    return {**moved(dict(leaf), place), "$defs": {"whole": moved(dict(whole), place)}, OPTIONS: dict(options)}


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


def slashed(expression: str) -> str:
    """An expression between slashes."""
    return re.sub(r"(?<!\\)((?:\\\\)*)/", r"\1\\/", expression)


def unkept(keyword: str, where: str) -> SpecError:
    return SpecError(
        f"{where} has {shown(keyword)}, to which arguments that are written one by one cannot be kept",
        hint="leave it out of the schema, or make a member the lead that writes calls as JSON",
    )


def _of_values(values: list[Any], asked: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
    if odd := next((key for key in asked if key not in ("enum", "const", "type")), None):
        raise unkept(odd, where)
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


def _searched(pattern: str) -> str:
    """A pattern that is looked for in a text, as one that the whole text has to fit."""
    parts = _alternatives(pattern)
    if not any(part.startswith("^") or _ENDED.search(part) for part in parts):
        parts = [pattern]
    elif len(parts) > 1 and _FLAGS.search(pattern):  # they hold in the alternatives that follow, too
        raise unkept("pattern with flags, | and ^ or $", "an argument")
    return f"({'|'.join(map(_around, parts))})" if len(parts) > 1 else _around(pattern)


def _around(part: str) -> str:
    """An alternative of a pattern with any text before and behind it, where it does not say that there is none."""
    begins, ends = part.startswith("^"), _ENDED.search(part) is not None
    inner = part[begins : len(part) - ends]
    return f"{'' if begins else _ANY}({inner}){'' if ends else _ANY}"


def _alternatives(pattern: str) -> list[str]:
    """What a pattern chooses between as a whole: at no bar that is escaped, or within a group or a class."""
    parts, depth = [""], 0
    for token in _TOKENS.findall(pattern):
        depth += (token == "(") - (token == ")")
        if token == "|" and not depth:
            parts.append("")
        else:
            parts[-1] += token
    return parts
