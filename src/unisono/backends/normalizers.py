"""How much longer a tokenizer may make a text: what a model's author writes there runs before any bound.

Known normalizers replace a space by ``▁``, or characters by their composed forms; known post-processors add a token or
two at the ends of a text.
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
MOST_ADDED = 1_000
"""Tokens that a post-processor adds to a text."""
_BEGINS = re.compile(rb'"(normalizer|post_processor)"\s*:\s*')
_DISGUISED = re.compile(rb"\\u00[67]")
"""A letter of ASCII written by its number, which the name of a key could be."""


def grows(data: bytes) -> float | None:
    """How many times as long a ``tokenizer.json`` may make a text; ``None`` where only all of its JSON shows it.

    Raises a `ValueError` for a part that is too long, or damaged in a way over which the library ends the process.
    """
    if _DISGUISED.search(data):
        return None
    most = 1.0
    for found in _BEGINS.finditer(data):
        text, part = data[found.end() : found.end() + LONGEST].decode("utf-8", "replace"), found[1].decode()
        try:
            value, _ = json.JSONDecoder().raw_decode(text)
        except (ValueError, RecursionError):
            if len(text) >= LONGEST // 4:
                raise ValueError(f"its {part} has more than {LONGEST:,} bytes") from None
            continue
        try:
            most = max(most, growth_of({part: value}))
        except RecursionError:
            raise ValueError(f"its {part} is nested too deeply") from None
    return most  # what else cannot be read is a token of that name, or damage that the parser finds


def growth_of(content: Mapping[str, Any]) -> float:
    """How many times as long a parsed ``tokenizer.json`` may make a text. Raises a `ValueError`, too."""
    if (count := _added(content.get("post_processor"))) > MOST_ADDED:
        raise ValueError(f"its post_processor adds {count:,} tokens to a text")
    return _growth(content.get("normalizer"))


def _added(part: Any) -> int:
    """How many tokens a post-processor adds to a text, or to two."""
    if not isinstance(part, Mapping):
        return 0
    if isinstance(inner := part.get("processors"), list):
        return sum(map(_added, inner))
    special = part.get("special_tokens")
    lengths: dict[Any, int] = {}
    for name, token in special.items() if isinstance(special, Mapping) else ():
        ids = token.get("ids") if isinstance(token, Mapping) else None
        lengths[name] = len(ids) if isinstance(ids, list) else 0
    count = 0
    for template in (part.get("single"), part.get("pair")):
        if isinstance(template, str):  # names, each perhaps with the number of a type behind a colon
            count += sum(lengths.get(name) or lengths.get(name.rpartition(":")[0], 0) for name in template.split())
        for piece in template if isinstance(template, list) else ():
            token = piece.get("SpecialToken") if isinstance(piece, Mapping) else None
            name = token.get("id") if isinstance(token, Mapping) else None
            count += lengths.get(name, 0) if isinstance(name, str) else 0
    return count


def _growth(part: Any) -> float:
    """How many times as long a normalizer may make a text."""
    if not isinstance(part, Mapping):
        return 1.0
    match part.get("type"):
        case "Sequence":
            inner = part.get("normalizers")
            factors = map(_growth, inner) if isinstance(inner, list) else ()
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
    size = int.from_bytes(data[:4], "little")
    if len(data) < 4 + size or size % 4:
        raise ValueError(f"its normalizer has a table of {size:,} bytes in {len(data):,}")
    texts = data[4 + size :]
    try:
        texts.decode()
    except UnicodeDecodeError:
        raise ValueError("its normalizer has texts that are not UTF-8") from None
    return float(max(map(len, texts.split(b"\0")), default=1))
