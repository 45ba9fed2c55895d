"""What a JSON schema asks for that no grammar made of it would see to, found before one is made."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from unisono.errors import SpecError

_OF_NAMES = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_OF_MANY = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_OF_ONE = ("items", "additionalItems", "additionalProperties", "contains", "propertyNames", "not", "if", "then", "else")
_ASSERTIONS = (
    *_OF_NAMES,
    *_OF_MANY,
    *_OF_ONE,
    *("$ref", "const", "enum", "type", "required", "format", "pattern", "minLength", "maxLength"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    *("minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties", "dependentRequired"),
)
_ANNOTATIONS = ("title", "description", "default", "example", "examples", "deprecated", "readOnly", "writeOnly")
_NEAR = 0.8
OPTIONS = "x-guidance"


def check_schema(schema: Any) -> None:
    """Refuse what would be loosened silently.

    A word that is no keyword is a remark, by JSON Schema's own rule, so a misspelt keyword would ask for nothing.
    Keys of a map that its schema does not name may come twice in a text (JSON's parsers keep the last), so a number
    of them that is asked for might not be reached.

    Raises:
        SpecError: naming the keyword, and where it stands.
    """
    for where, part in _schemas(schema, "the schema"):
        for keyword in part:
            _check_keyword(keyword, where)
        least, sure = part.get("minProperties", 0), part.get("required", ())
        if isinstance(least, int) and isinstance(sure, list) and least > max(1, len(sure)):
            raise SpecError(
                f"minProperties is {least} in {where}, which cannot be seen to for names that the schema leaves open",
                hint="name the properties, as required ones",
            )


def _check_keyword(keyword: str, where: str) -> None:
    if keyword == OPTIONS:
        raise SpecError(
            f"{OPTIONS} in {where} would change what the grammar keeps to", hint="leave it out: whitespace is settled"
        )
    if keyword in _ASSERTIONS or keyword in _ANNOTATIONS:
        return
    if near := difflib.get_close_matches(keyword.lower(), [known.lower() for known in _ASSERTIONS], 1, _NEAR):
        meant = next(known for known in _ASSERTIONS if known.lower() == near[0])
        raise SpecError(
            f"{keyword!r} in {where} is no keyword of JSON Schema; did you mean {meant!r}?",
            hint="unknown words ask for nothing: correct it, or rename it if it is a remark",
        )


def _schemas(schema: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """All schemas within one, itself included, with where they stand."""
    if not isinstance(schema, dict):
        return
    yield where, schema
    for keyword, value in schema.items():
        if keyword in _OF_NAMES and isinstance(value, dict):
            for name, part in value.items():
                yield from _schemas(part, f"{keyword}.{name}")
        elif keyword in _OF_MANY and isinstance(value, list):
            for number, part in enumerate(value):
                yield from _schemas(part, f"{keyword}[{number}]")
        elif keyword in _OF_ONE:
            yield from _schemas(value, keyword)
