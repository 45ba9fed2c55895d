"""Calls whose arguments stand one by one, each a name and a value, as Qwen3-Coder and GLM 4.5 write them.

A value whose schema wants a text is that text, as it is; any other is JSON. What stands around names and values is
text: `ParameterSegments`. Control tokens there are not understood.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unisono.chat.call_segments import CallSegments, FormUnknown, common_length
from unisono.chat.template_probe import ARGUMENTS, IDS, NAMES
from unisono.config.compact import unique_keys

_KEYS, _VALUES = tuple(ARGUMENTS), tuple(map(str, ARGUMENTS.values()))
_PYTHON = {"True": True, "False": False, "None": None}
"""As templates write these that make texts of values by Python's rules; models write what they have read."""
_TYPES: tuple[tuple[str, type | tuple[type, ...]], ...] = (
    ("boolean", bool),
    ("integer", int),
    ("number", (int, float)),
    ("string", str),
    ("array", list),
    ("object", dict),
    ("null", type(None)),
)


@dataclass(frozen=True, slots=True)
class ParameterSegments:
    """What stands around the names and values of a call's arguments, as a template writes it."""

    first: str
    """Between the function's name and the first argument's."""
    middle: str
    """Between an argument's name and its value."""
    stop: str
    """Behind each value."""
    again: str
    """Between that and the next argument's name."""
    close: str
    """Between that and the end of the call's arguments."""
    none: str
    """Behind a function's name where there are no arguments."""

    def written(self, arguments: Mapping[str, Any]) -> str:
        """What stands behind a function's name."""
        texts = (f"{key}{self.middle}{text_of(value)}{self.stop}" for key, value in arguments.items())
        return f"{self.first}{self.again.join(texts)}{self.close}" if arguments else self.none

    def value(self, text: str, schema: object, whole: object) -> Any:
        """The value that was written as a text, without the line breaks that belong to the form. See `read_value`."""
        if self.middle.endswith("\n"):
            text = text.removeprefix("\n")
        if self.stop.startswith("\n"):
            text = text.removesuffix("\n")
        return read_value(text, schema, whole)


@functools.lru_cache(64)
def ends_of(form: ParameterSegments) -> re.Pattern[str]:
    """What a text ends with where a value has ended: a stop behind which a further argument (group 1), or the end of
    all, is told. A stop alone may be a part of the value, as of code that reads such calls.
    """
    stop, again, close = map(_spaced, (form.stop, form.again, form.close))
    return re.compile(rf"{stop}\s*(?:({again})|{close})\Z")


def _spaced(text: str) -> str:
    """An expression for a text whose white space may be another."""
    return r"\s*".join(map(re.escape, text.split()))


def find_parameters(one: str, two: str | None, none: str) -> tuple[CallSegments, ParameterSegments]:
    """Cut answers of one call and of two; ``None`` where a template refuses two. ``none`` has a call without arguments.

    The middle of the `CallSegments` is empty. Raises a `FormUnknown`.
    """
    before, parameters, behind = _around(one, none)
    alone = CallSegments(before, "", behind, None, "")
    if two is None:
        return alone, parameters
    place = two.rfind(NAMES[1])
    between = two[two.rfind(_VALUES[1], 0, place) + len(_VALUES[1]) : place]
    head = parameters.stop + parameters.close
    if not two.startswith(one[: one.rfind(_VALUES[1])]) or not between.startswith(head):
        return alone, parameters
    between = between.removeprefix(head)
    shared = common_length(between, behind)
    end = two[two.rfind(_VALUES[1]) + len(_VALUES[1]) :].removeprefix(head + behind[:shared])
    return CallSegments(before, "", behind[:shared], between[shared:], end), parameters


def _around(one: str, none: str) -> tuple[str, ParameterSegments, str]:
    """What stands before a call's name, around its arguments, and behind the call."""
    if any(identity in one for identity in IDS):
        raise FormUnknown("its chat template writes the arguments of a call one by one, and its id beside them")
    before, *rest = _cut(one, NAMES[0], _KEYS[0], _VALUES[0], _KEYS[1], _VALUES[1])
    first, middle, again, its_middle, last = rest
    its_before, bare = _cut(none, NAMES[0])
    stop = _up_to_tag(again[: common_length(again, last)])
    if middle != its_middle or before != its_before or not stop.strip():
        raise FormUnknown("its chat template writes the arguments of a call one by one, each in another way")
    again, last = again.removeprefix(stop), last.removeprefix(stop)
    same = common_length(last[::-1], bare[::-1])
    close = _up_to_tag(last, first=True)
    behind = last.removeprefix(close)
    if len(behind) > same or not middle.strip():
        raise FormUnknown("its chat template writes the arguments of a call one by one, and none in another way")
    parameters = ParameterSegments(first, middle, stop, again, close, bare[: len(bare) - len(behind)])
    ways = ((parameters.first, parameters.none), (parameters.again, parameters.close))
    for each, other in (map(_solid, way) for way in ways):
        if each.startswith(other) or other.startswith(each):
            raise FormUnknown("its chat template writes the arguments of a call one by one, and does not end them")
    return before, parameters, behind


def _cut(text: str, *words: str) -> list[str]:
    parts = []
    for word in words:
        part, found, text = text.partition(word)
        if not found:
            raise FormUnknown("its chat template writes the arguments of a call one by one, and not all of them")
        parts.append(part)
    return [*parts, text]


def _up_to_tag(text: str, *, first: bool = False) -> str:
    """A text up to the end of its last tag, or of its first one; the whole where there is none."""
    place = text.find(">") if first else text.rfind(">")
    return text[: place + 1] if place >= 0 else text


def _solid(text: str) -> str:
    return "".join(text.split())


def text_of(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def read_value(text: str, schema: object = True, whole: object = True) -> Any:
    """The value that a text is by a schema, a part of the ``whole`` one: JSON, or the text where that does not fit."""
    kinds = kinds_of(schema, whole)
    if kinds == frozenset({"string"}):
        return text
    try:
        value = json.loads(text, object_pairs_hook=unique_keys, parse_constant=_refuse)
    except (ValueError, RecursionError):
        if text.strip() not in _PYTHON or kinds is None:
            return text
        value = _PYTHON[text.strip()]
    fits = not isinstance(value, str) and _is_finite(value) and (kinds is None or kinds & kinds_of_value(value))
    return value if fits else text


def kinds_of(schema: object, whole: object = True, depth: int = 0) -> frozenset[str] | None:
    """The types that a schema allows; ``None`` where it allows all, or does not say."""
    if not isinstance(schema, Mapping) or depth > 20:
        return None
    if isinstance(reference := schema.get("$ref"), str):
        return kinds_of(referred(reference, whole), whole, depth + 1)
    if "const" in schema or isinstance(schema.get("enum"), list):
        values = [schema["const"]] if "const" in schema else schema["enum"]
        return frozenset[str]().union(*map(kinds_of_value, values))
    if (kinds := schema.get("type")) is not None:
        return frozenset([kinds] if isinstance(kinds, str) else kinds)
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            found = [kinds_of(each, whole, depth + 1) for each in schema[key]]
            return None if None in found else frozenset[str]().union(*filter(None, found))
    found = [kinds_of(each, whole, depth + 1) for each in schema.get("allOf", ())]
    return next((each for each in found if each is not None), None)


def kinds_of_value(value: object) -> frozenset[str]:
    if isinstance(value, bool):
        return frozenset({"boolean"})
    whole = {"integer"} if isinstance(value, float) and value.is_integer() else set()
    return frozenset({name for name, kind in _TYPES[1:] if isinstance(value, kind)} | whole)


def referred(reference: str, whole: object) -> object:
    found = whole
    for step in reference.removeprefix("#").split("/")[1:]:
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found


def _is_finite(value: object) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _refuse(constant: str) -> None:
    raise ValueError(constant)
