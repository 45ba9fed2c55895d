"""How much longer a tokenizer's normalizer may make a text: what a model's author writes there runs before any bound.

Known ones replace a space by ``▁``, or characters by their composed forms.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping
from typing import Any

MOST = 1_000
"""Times a text's length."""
UNKNOWN = 1.5
"""Times, where a regular expression is replaced by a character or none: it may match between all characters."""
LONGEST = 2_000_000
"""Bytes of a normalizer's JSON."""
_BEGINS = re.compile(rb'"normalizer"\s*:\s*')
_DISGUISED = re.compile(rb"\\u00[67]")
"""A letter of ASCII written by its number, which the name of a key could be."""


def grows(data: bytes) -> float | None:
    """How many times as long a ``tokenizer.json`` may make a text; ``None`` where only all of its JSON shows it.

    Raises a `ValueError` for a normalizer that is too long.
    """
    if _DISGUISED.search(data):
        return None
    most = 1.0
    for found in _BEGINS.finditer(data):
        text = data[found.end() : found.end() + LONGEST].decode("utf-8", "replace")
        try:
            value, _ = json.JSONDecoder().raw_decode(text)
            most = max(most, growth(value))
        except (ValueError, RecursionError):
            if len(text) >= LONGEST // 4:
                raise ValueError(f"its normalizer has more than {LONGEST:,} bytes") from None
    return most  # what else cannot be read is a token of that name, or damage that the parser finds


def growth(part: Any) -> float:
    """How many times as long a normalizer may make a text."""
    if not isinstance(part, Mapping):
        return 1.0
    match part.get("type"):
        case "Sequence":
            inner = part.get("normalizers")
            factors = map(growth, inner) if isinstance(inner, list) else ()
            return min(math.prod(factors), 1e300)
        case "Replace":
            return _of_replace(part.get("pattern"), len(str(part.get("content", ""))))
        case "Prepend":
            return 1.0 + len(str(part.get("prepend", "")))
        case "Precompiled":
            return _of_map(str(part.get("precompiled_charsmap", "")))
    return 1.0


def _of_replace(pattern: Any, content: int) -> float:
    given = pattern.get("String") if isinstance(pattern, Mapping) else None
    if isinstance(given, str) and given:
        return max(1.0, content / len(given))
    return max(UNKNOWN, 1.0 + content) if content > 1 else UNKNOWN


def _of_map(written: str) -> float:
    """Of a map of characters, as SentencePiece compiles it: after a table stand the texts, each ended by a 0."""
    try:
        data = base64.b64decode(written, validate=False)
    except (ValueError, binascii.Error):
        return 1.0
    texts = data[4 + int.from_bytes(data[:4], "little") :]
    return float(max(map(len, texts.split(b"\0")), default=1))
