"""What users write, read strictly: the keys of a mapping, and numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from unisono.errors import SpecError, nearest, shown

DECIMAL = re.compile(r"-?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
LONGEST = 100
"""Characters of a number; what is longer is no number that anybody means."""


def known_keys(what: str, given: Mapping[Any, Any], known: Sequence[str], *, hint: str | None = None) -> dict[str, Any]:
    """Return the mapping when all its keys are known. Raises a `SpecError` that suggests the nearest."""
    for key in given:
        if key not in known:
            name = key if isinstance(key, str) else shown(key)
            raise SpecError(
                f"unknown key {shown(name)} in {what}{nearest(name, known)}; known: {', '.join(known)}", hint=hint
            )
    return dict(given)


def read_number(text: str) -> int | float | str:
    """Read ASCII decimal digits, with a point and an exponent or without; anything else comes back as it is."""
    if len(text) > LONGEST or not DECIMAL.fullmatch(text):
        return text
    return int(text) if text.removeprefix("-").isdigit() else float(text)


def plain_number(value: object) -> str | None:
    """How a number that came as text is written so that YAML takes it for one; ``None`` where it is none."""
    text = value.strip() if isinstance(value, str) else ""
    if isinstance(read_number(text), str):
        return None
    plain = f"{Decimal(text):f}" if abs(Decimal(text).adjusted()) <= LONGEST else text
    return plain if len(plain) <= LONGEST else None


def unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object, as a hook of `json.loads` is given it. Raises `ValueError` at a key that stands twice."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {shown(key)} stands twice")
        found[key] = value
    return found
