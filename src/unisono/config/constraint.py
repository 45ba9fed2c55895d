"""What a text may be bound to: JSON, of a schema or not, a regular expression, or a grammar."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from unisono.config.compact import known_keys
from unisono.errors import SpecError, nearest, shown
from unisono.records import is_unicode
from unisono.user_files import short_float, unique_keys

JSON_OBJECT = "json_object"
JSON_SCHEMA = "json_schema"
REGEX = "regex"
LARK = "lark"
KINDS = (JSON_OBJECT, JSON_SCHEMA, REGEX, LARK)
_SOURCED = (JSON_SCHEMA, REGEX, LARK)
BYTE_ORDER_MARK = "\ufeff"
"""What editors on Windows write before a text, of which it is no part."""
_WAYS = "write it as json_object, regex:[a-z]+, {json_schema: {type: object}}, {regex: …} or {lark: …}"


@dataclass(frozen=True, slots=True)
class Constraint:
    """The form of a text, from its first byte to END.

    Raises:
        SpecError: the kind is unknown, or the source is empty, no text, or no JSON schema.
    """

    kind: str
    """``json_object``, ``json_schema``, ``regex`` or ``lark``."""
    source: str = ""
    """The JSON schema, the regular expression that the whole text has to match, or the Lark grammar, as text."""

    def __post_init__(self) -> None:
        """Check the shape; whether a grammar comes of it is found out when it is compiled. Raises a `SpecError`."""
        if not isinstance(self.kind, str) or self.kind not in KINDS:
            near = nearest(self.kind, KINDS) if isinstance(self.kind, str) else ""
            raise SpecError(f"unknown constraint {shown(self.kind)}{near}; known: {', '.join(KINDS)}", hint=_WAYS)
        if not isinstance(self.source, str):
            raise SpecError(f"the {self.kind} of the constraint is {shown(self.source)}, not text", hint=_WAYS)
        if self.kind != REGEX:  # of a pattern it would be a part
            object.__setattr__(self, "source", self.source.removeprefix(BYTE_ORDER_MARK))
        if self.kind == JSON_OBJECT and self.source:
            raise SpecError(
                f"json_object is any JSON object, but {shown(self.source)} is given with it",
                hint="write json_object alone, or json_schema to say more",
            )
        if self.kind != JSON_OBJECT and not self.source:
            raise SpecError(f"the {self.kind} of the constraint is empty", hint="leave the constraint out")
        if not is_unicode(self.source):
            raise SpecError(f"the {self.kind} of the constraint is not Unicode text", hint="repair its encoding")
        if self.kind == JSON_SCHEMA:
            _check_schema(self.schema)

    @property
    def schema(self) -> Any:
        """The JSON schema. Raises a `SpecError` where the source is none."""
        if self.kind == JSON_OBJECT:
            return {"type": "object"}
        try:
            return json.loads(self.source, object_pairs_hook=unique_keys, parse_float=short_float)
        except (ValueError, RecursionError) as error:
            raise SpecError(f"the json_schema is not JSON: {error}", hint="check it with a JSON parser") from error

    @classmethod
    def parse(cls, value: object) -> Self | None:
        """Read a `Constraint`, ``"json_object"``, ``"regex:…"``, ``"lark:…"``, ``"json_schema:…"``, or a mapping of
        one of these kinds to its source. A schema may be a mapping itself. ``None`` is no constraint.

        Raises:
            SpecError: it is none of these.
        """
        if value is None or isinstance(value, cls):
            return value
        if isinstance(value, str):
            kind, _, source = value.partition(":")
            return cls(kind, source)
        if isinstance(value, Mapping):
            given = known_keys("constraint", value, _SOURCED, hint=_WAYS)
            if len(given) != 1:
                raise SpecError(f"a constraint has one key, but {len(given)} are given: {shown(value)}", hint=_WAYS)
            [(kind, source)] = given.items()
            return cls(kind, _written(source) if kind == JSON_SCHEMA else source)
        raise SpecError(f"the constraint is {shown(value)}", hint=_WAYS)


def _check_schema(schema: object) -> None:
    if not isinstance(schema, dict | bool):
        raise SpecError(f"the json_schema is {shown(schema)}, not an object", hint='write {"type": "object", …}')


def _written(schema: object) -> str:
    """A schema as JSON: in the order of its keys, which is the order in which properties are written."""
    if isinstance(schema, str):
        return schema
    try:
        return json.dumps(_plain(schema), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise SpecError(f"the json_schema cannot be written as JSON: {error}", hint="use plain types only") from error


def _plain(value: object) -> object:
    """The same in dictionaries and lists, whose keys are text."""
    if isinstance(value, Mapping):
        if wrong := next((key for key in value if not isinstance(key, str)), None):
            raise TypeError(f"the key {shown(wrong)} is not text")
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
