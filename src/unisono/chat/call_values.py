"""Values of arguments that stand one by one: what a text is by the schema of its argument."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from unisono.chat.call_literals import PYTHON_WORDS, whole_literal
from unisono.chat.json_values import refuse_constant
from unisono.user_files import unique_keys

_TYPES: tuple[tuple[str, type | tuple[type, ...]], ...] = (
    ("boolean", bool),
    ("integer", int),
    ("number", (int, float)),
    ("string", str),
    ("array", list),
    ("object", dict),
    ("null", type(None)),
)


_TRUTHS: Mapping[str, bool] = {"true": True, "false": False}


def text_of(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def read_value(text: str, schema: object = True, whole: object = True) -> Any:
    """The value that a text is by a schema, a part of the ``whole`` one: JSON, or the text where that does not fit."""
    kinds = kinds_of(schema, whole)
    if kinds == frozenset({"string"}):
        return text
    try:
        value = json.loads(text, object_pairs_hook=unique_keys, parse_constant=refuse_constant)
    except (ValueError, RecursionError):
        if kinds is None:
            return text
        value = PYTHON_WORDS[text.strip()] if text.strip() in PYTHON_WORDS else whole_literal(text.strip())
        if "boolean" in kinds and "string" not in kinds:
            value = _TRUTHS.get(text.strip().lower(), value)
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


def part_of(schema: object, whole: object, key: str | None, depth: int = 0) -> object:
    """The schema of a list's entries (``None``), or of a mapping's value, as far as a schema says it."""
    if not isinstance(schema, Mapping) or depth > 20:
        return None
    if isinstance(reference := schema.get("$ref"), str):
        return part_of(referred(reference, whole), whole, key, depth + 1)
    found = schema.get("items") if key is None else None
    properties = schema.get("properties")
    if key is not None and isinstance(properties, Mapping):
        found = properties.get(key, schema.get("additionalProperties"))
    choices = [each for name in ("anyOf", "oneOf", "allOf") for each in schema.get(name) or ()]
    parts = (part_of(each, whole, key, depth + 1) for each in choices)
    return found if found is not None else next((each for each in parts if each is not None), None)


def referred(reference: str, whole: object) -> object:
    found = whole
    for step in reference.removeprefix("#").split("/")[1:]:
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found


def _is_finite(value: object) -> bool:
    return not isinstance(value, float) or math.isfinite(value)
