"""Refuse what a JSON schema requires and a grammar made of it would not enforce."""

from __future__ import annotations

import difflib
import functools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from unisono.errors import SpecError, shown

_OF_NAMES = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_OF_MANY = ("allOf", "anyOf", "oneOf", "prefixItems")
_OF_ONE = ("items", "additionalProperties", "contains", "propertyNames", "not", "if", "then", "else")
_UNEVALUATED = ("unevaluatedItems", "unevaluatedProperties")
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minContains", "maxContains")
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_FORMS: dict[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys((*_OF_NAMES, "dependentRequired"), ((dict,), "an object")),
    **dict.fromkeys((*_OF_MANY, "enum", "required"), ((list,), "an array")),
    **dict.fromkeys((*_OF_ONE, *_UNEVALUATED), ((dict, bool), "a schema")),
    **dict.fromkeys((*_COUNTS, "minProperties", "maxProperties"), ((int,), "a whole number")),
    **dict.fromkeys(_NUMBERS, ((int, float), "a number")),
    **dict.fromkeys(("$ref", "format", "pattern"), ((str,), "text")),
    "uniqueItems": ((bool,), "true or false"),
    "type": ((str, list), "a type, or an array of types"),
    "const": ((object,), "anything"),
}
"""The keywords that require something, and the form of their values."""
KEYWORDS = frozenset(_FORMS)
_LOWER = {known.lower(): known for known in _FORMS}
REMARKS = ("title", "description", "default", "example", "examples", "deprecated", "readOnly", "writeOnly")
_NEAR = 0.8
MOST_ODD = 100
"""Different words in a schema that are no keywords: each is compared with those that are."""
FORMATS = ("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "unknown", "uri", "uuid")
"""The values of ``format`` that llguidance has a grammar of; it refuses others."""
_LACKING = frozenset(
    (
        *("not", "if", "then", "else", "oneOf", "uniqueItems", "contains", "minContains", "maxContains"),
        *("propertyNames", "dependentRequired", "dependentSchemas", *_UNEVALUATED),
    )
)
"""Keywords that llguidance does not keep to, or not in all their uses."""
_LOOKING = re.compile(r"\(\?[=!<]|\\[1-9bB]")
"""What its regular expressions lack: looking around, and back."""
DEFINED_FORMATS = (
    *FORMATS,
    *("idn-email", "idn-hostname", "uri-reference", "iri", "iri-reference", "uri-template"),
    *("json-pointer", "relative-json-pointer", "regex"),
)
"""Those that mean something: JSON Schema (draft 2020-12, section 7.3 of its validation) defines no others."""
_FORMAT_OF = {re.sub("[-_]", "", name): name for name in DEFINED_FORMATS}
NULLABLE = ("nullable", "x-nullable")
"""OpenAPI's words for a schema that null fits, too."""
_DEFINING = ("$defs", "definitions")
TYPES = ("string", "number", "integer", "boolean", "object", "array", "null")
UNWRITABLE = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\ud800-\udfff]")
"""Characters that JSON writes by their number alone, which `JSON_OPTIONS` do not allow."""
LARGEST = 2**53
"""Whole numbers up to this are the same as doubles, through which they go."""
OPTIONS = "x-guidance"
JSON_OPTIONS = {
    # No \u0061 for a: a name that the schema forbids, or has already, could come in disguise.
    "json_allowed_escapes": 'nrbtf\\"',
    "lenient": False,
}
"""How JSON is written beside its spacing, in llguidance's words."""
SPACING = {
    # At most one space after a comma or a colon and no whitespace elsewhere: where JSON allows any, small models
    # write nothing else any more.
    "whitespace_flexible": False,
    "item_separator": ", ?",
    "key_separator": ": ?",
}
"""The spacing of an answer in JSON."""
GIVEN_OPTIONS = (*JSON_OPTIONS, *SPACING, "whitespace_pattern", "coerce_one_of")
"""What a grammar may say of the JSON in it. guidance says all but the first."""


def check_schema(schema: Any) -> None:
    """Refuse what would be loosened silently. Raises a `SpecError` that names the keyword and its place.

    A word that is no keyword is a remark, by JSON Schema's own rule (draft 2020-12), so a misspelt keyword, one of an
    older draft, or one with a value of the wrong type would ask for nothing. Keys that the schema does not name may
    come twice in a text (JSON's parsers keep the last), so a number of them might not be reached.
    """
    odd = set[str]()
    for where, part in _schemas(schema, "the schema"):
        for keyword, value in part.items():
            _check_keyword(keyword, value, where)
            if keyword not in _FORMS and keyword not in REMARKS:
                odd.add(keyword)
            if len(odd) > MOST_ODD:
                raise SpecError(
                    f"the schema has more than {MOST_ODD} different words that are not keywords of JSON Schema",
                    hint="leave out words without effect",
                )
        _check_values(part, where)
        least = part.get("minProperties", 0)
        if least > max(1, len(part.get("required", ()))):
            raise SpecError(
                f"minProperties is {least} in {where}, which cannot be seen to for names that the schema leaves open",
                hint="name the properties, as required ones",
            )


def is_kept(schema: Any) -> bool:
    """Whether a schema has nothing that a grammar might not keep to, beside formats."""
    parts = [part for _, part in _schemas(schema, "")]
    return not any(part.keys() & _LACKING or _LOOKING.search(str(part.get("pattern", ""))) for part in parts)


def without_unknown_formats(schema: Any, known: Sequence[str] = FORMATS) -> Any:
    """A schema without each ``format`` that no grammar is known of: an annotation, by JSON Schema's own rule."""

    def change(keyword: str, value: Any) -> Any:
        return None if keyword == "format" and isinstance(value, str) and value not in known else value

    return _changed(schema, change)


def plain_schema(schema: Any) -> Any:
    """A schema as it was meant, where programs write it in another way.

    A keyword that is null is left out, as in Go; a list without values in the place of an object is PHP's; types in
    capitals are Google's; ``nullable`` is OpenAPI's; and formats may be spelled with other capitals and hyphens.
    """

    def change(keyword: str, value: Any) -> Any:
        if value == [] and keyword in _OF_NAMES:
            return {}
        if keyword == "type":
            return [*map(_lower, value)] if isinstance(value, list) else _lower(value)
        if keyword == "format" and isinstance(value, str):
            return _FORMAT_OF.get(_squashed(value), value)
        return value

    return _changed(schema, change, _with_null)


def _with_null(part: dict[str, Any]) -> dict[str, Any]:
    """A schema that OpenAPI calls nullable, as one that null fits."""
    if not any(part.get(word) is True for word in NULLABLE):
        return part
    plain = {word: value for word, value in part.items() if word not in NULLABLE}
    asked = plain.keys() & KEYWORDS - {*_DEFINING}
    kinds, values = plain.get("type"), plain.get("enum")
    if not asked:
        return plain  # anything fits, null too
    if isinstance(kinds, str | list) and not asked & {*_OF_MANY[:3], "$ref", "not", "if", "const"}:
        listed = [kinds] if isinstance(kinds, str) else kinds
        plain["type"] = [*listed, *([] if "null" in listed else ["null"])]
    elif asked != {"enum"}:
        outside = {word: plain[word] for word in plain if word in _DEFINING or word not in KEYWORDS}
        inside = {word: plain[word] for word in plain if word not in outside}
        return {**outside, "anyOf": [inside, {"type": "null"}]}
    if isinstance(values, list) and None not in values:
        plain["enum"] = [*values, None]
    return plain


def _squashed(name: str) -> str:
    return re.sub("[-_ ]", "", name).lower()


def _lower(given: Any) -> Any:
    lower = given.lower() if isinstance(given, str) else given
    return lower if lower in TYPES else given


def _changed(
    schema: Any,
    change: Callable[[str, Any], Any],
    rebuild: Callable[[dict[str, Any]], dict[str, Any]] = lambda part: part,
) -> Any:
    """A schema in which the values of keywords, down to the innermost, are changed, or left out where they are null.

    Then each schema within it is built anew.
    """
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Any] = {}
    for keyword, given in schema.items():
        value = change(keyword, given) if keyword in KEYWORDS and keyword != "const" else given
        if value is None and keyword in KEYWORDS and keyword != "const":
            continue
        if keyword in _OF_NAMES and isinstance(value, dict):
            value = {name: _changed(part, change, rebuild) for name, part in value.items()}
        elif keyword in _OF_MANY and isinstance(value, list):
            value = [_changed(part, change, rebuild) for part in value]
        elif keyword in _OF_ONE:
            value = _changed(value, change, rebuild)
        found[keyword] = value
    return rebuild(found)


def _check_keyword(keyword: str, value: object, where: str) -> None:
    if keyword == OPTIONS:
        raise SpecError(
            f"{OPTIONS} in {where} would change what the grammar keeps to", hint="leave it out: whitespace is settled"
        )
    if keyword in NULLABLE and value not in (False, None):
        raise SpecError(
            f"{keyword} is {shown(value)} in {where}: it is OpenAPI's, and not a keyword of JSON Schema",
            hint='write "type": ["string", "null"] (null in enum, too), or anyOf with {"type": "null"}',
        )
    if keyword in _FORMS:
        types, form = _FORMS[keyword]
        if not isinstance(value, types) or (isinstance(value, bool) and not {bool, object} & {*types}):
            raise SpecError(
                f"{keyword} is {shown(value)} in {where}: it must be {form}",
                hint="write the schema as in draft 2020-12 of JSON Schema",
            )
    elif keyword == "additionalItems":
        raise SpecError(f"{keyword} in {where} is of an older draft", hint="write prefixItems and items")
    elif keyword not in REMARKS and (near := _near(keyword.lower())):
        raise SpecError(
            f"{keyword!r} in {where} is not a keyword of JSON Schema; did you mean {near!r}?",
            hint="unknown words have no effect: correct it, or rename it if it is a remark",
        )


@functools.lru_cache(maxsize=1024)
def _near(word: str) -> str | None:
    """The keyword of which a word is a slip, among those that begin or end alike: schemas have many words."""
    if not 1 < len(word) < 2 * max(map(len, _LOWER)):
        return None
    alike = [known for known in _LOWER if known[0] == word[0] or known[-1] == word[-1]]
    return next((_LOWER[near] for near in difflib.get_close_matches(word, alike, 1, _NEAR)), None)


def _check_values(part: dict[str, Any], where: str) -> None:
    """Refuse values and names that would be written as others."""
    values = [part["const"]] if "const" in part else []
    for keyword in ("enum", "properties", "required"):
        values += part.get(keyword, ())  # of the properties the names
    for value in _scalars(values):
        if isinstance(value, str) and (found := UNWRITABLE.search(value)):
            raise SpecError(
                f"{shown(value)} in {where} has the character {shown(found.group())}, which is not written",
                hint="leave it out: JSON writes it as \\u and digits, and so any character could come in disguise",
            )
        whole = isinstance(value, int) and not isinstance(value, bool)
        if (whole and abs(value) > LARGEST) or (isinstance(value, float) and not math.isfinite(value)):
            raise SpecError(
                f"the number {shown(value)} in {where} would not be written exactly",
                hint=f"whole numbers are exact up to {LARGEST}; make it text",
            )


def _scalars(values: list[Any]) -> Iterator[Any]:
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list):
            waiting += value
        else:
            yield value


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
