"""Values of JSON that chats hold: what may be one, and the arguments of calls."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from unisono.errors import SpecError, shown
from unisono.user_files import short_float, unique_keys

_DEEPEST = 200
"""Levels of a schema, or of arguments; what is much deeper could not be written as JSON."""


def read_arguments(text: str, *, strict: bool = True) -> dict[str, Any]:
    """Read the JSON text of a call's arguments.

    Raises a `ValueError` where it is not that of an object, a key stands twice, or a number cannot be expressed in
    JSON; if ``strict``, also where a string holds a control character as it is.
    """
    try:
        value = json.loads(text, object_pairs_hook=unique_keys, parse_float=short_float, strict=strict)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("not an object")
    plain: dict[str, Any] = plain_value("it", value)
    return plain


def past_arguments(text: str) -> Any:
    """What a past call gave, as templates are passed it: a value of JSON, or the text where it is none.

    A model may have written anything, or have been cut off; a text is what transformers would pass. No text is no
    arguments.
    """
    try:
        value = plain_value(
            "it", json.loads(text.strip() or "{}", object_pairs_hook=unique_keys, parse_float=short_float)
        )
    except (ValueError, RecursionError):
        return text
    return text if value is None or isinstance(value, str) else value


def plain_value(what: str, value: object, depth: int = 0) -> Any:
    if depth > _DEEPEST:
        raise SpecError(f"{what} is nested more than {_DEEPEST} levels deep", hint="give a flatter schema")
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain_value(what, inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(what, inner, depth + 1) for inner in value]
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise SpecError(f"{what} holds {shown(value)}, which is not a JSON value", hint="give a JSON schema")


def encodable(value: object) -> str:
    """A value as JSON that can be encoded: half of a pair of surrogates, which a text may name, stays a number."""
    written = json.dumps(value, ensure_ascii=False)
    return re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found.group()):04x}", written)


def refuse_constant(constant: str) -> None:
    """Raise a `ValueError` for what Python reads as JSON and JSON does not have (``parse_constant``)."""
    raise ValueError(constant)


def is_list(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether a value is one that JSON writes as a list."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
