"""Strategies that damage something sound: JSON, bytes and texts; and values that programs do not expect."""

from __future__ import annotations

import copy
import itertools
import json
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

Draw = st.DrawFn
NUMBERS: tuple[float, ...] = (
    *(0, 1, -1, 2, 7, 127, 128, 255, 256, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53 + 1),
    *(2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**31), -(2**63), 10**9, 10**30, 10**400),
    *(0.5, -0.0, 1e-300, 1e308, -1e308, float("inf"), float("-inf"), float("nan")),
)
TEXTS = (
    *("", " ", "\n", "\0", "\x1b[2J", "\ud800", "\U0010ffff", "e\u0301", "日本", "\u202e", "</s>", "<s>", "<think>"),
    *("../../etc/passwd", "/dev/zero", "a/b", "~", "null", "true", "-1", "1e9", "%s%n", "{{", "{% for", "__class__"),
    *("a" * 300, "a" * 70_000, "\u00e9" * 20_000, "</s>" * 2_000, '"\\', "0" * 5_000),
)
LARGEST = 300_000
"""Bytes or characters; the rest of what becomes longer is cut off."""


@cache
def words(name: str) -> tuple[str, ...]:
    """Those under a heading of ``words.txt``."""
    _, _, after = Path(__file__).with_name("words.txt").read_text("utf-8").partition(f"[{name}]\n")
    lines = itertools.takewhile(bool, after.splitlines())
    return tuple(line.translate(str.maketrans("␊␍␉␀␠", "\n\r\t\0 ")) for line in lines)


def nested(depth: int, kind: str) -> Any:
    """Lists or objects inside one another."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind == "list" else {kind: value}
    return value


SIMPLE = st.one_of(st.sampled_from(NUMBERS), st.sampled_from(TEXTS), st.sampled_from([None, True, False]))
_VALUES = st.one_of(
    SIMPLE,
    st.integers(-10, 300),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from([[], {}, [[]], {"": None}, [None], [1] * 2_000, {"a": {"a": {"a": "a"}}}]),
    st.lists(SIMPLE, max_size=4),
    st.dictionaries(st.sampled_from(("a", "type", "content", "name", "")), SIMPLE, max_size=3),
    st.builds(nested, st.sampled_from((3, 60, 150)), st.sampled_from(("list", "type", "items", "a"))),
)
VALUES = _VALUES.map(copy.deepcopy)  # changed in their places later on


def as_json(value: Any) -> bytes:
    """JSON in ASCII, with the numbers that JSON does not have."""
    return json.dumps(value).encode()


def as_bytes(text: str) -> bytes:
    """A text in UTF-8, though it may have what UTF-8 has not."""
    return text.encode("utf-8", "surrogatepass")


@st.composite
def mutated_json(draw: Draw, whole: Any, keys: Sequence[str] = (), most: int = 3) -> Any:
    """A copy of a value with some places in it changed; ``keys`` may be given to objects."""
    whole = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, most))):
        _edit(draw, whole, keys)
    return whole


def _edit(draw: Draw, whole: Any, keys: Sequence[str]) -> None:
    holder: Any = whole
    while True:
        places = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not places:
            return
        place = draw(st.sampled_from(places))
        inner = holder[place]
        if not isinstance(inner, dict | list) or not inner or draw(st.booleans()):
            break
        holder = inner
    kind = draw(st.sampled_from(("value", "nudge", "drop", "add", "repeat", "other", "rename")))
    if kind == "nudge" and isinstance(inner, int | float):
        holder[place] = draw(st.sampled_from((inner + 1, inner - 1, inner * 2, -inner, inner * 1_000, inner // 2)))
    elif kind == "drop":
        del holder[place]
    elif kind == "repeat":
        most = LARGEST // len(json.dumps(inner)) + 1
        holder[place] = [inner] * min(most, draw(st.sampled_from((1, 2, 50, 3_000))))
    elif kind == "other":
        holder[place] = copy.deepcopy(holder[draw(st.sampled_from(places))])
    elif kind in ("add", "rename") and isinstance(holder, dict):
        added = draw(st.sampled_from((*keys, *TEXTS)) if keys else st.sampled_from(TEXTS))
        holder[added] = holder.pop(place) if kind == "rename" else draw(VALUES)
    else:
        holder[place] = draw(VALUES)


@st.composite
def mutated_bytes(draw: Draw, data: bytes, head: int = LARGEST, most: int = 4) -> bytes:
    """Some bytes with a few places changed, all in the first ``head`` of them."""
    for _ in range(draw(st.integers(1, most))):
        place = draw(st.integers(0, max(0, min(len(data), head) - 1)))
        length = draw(st.sampled_from((1, 2, 4, 8, 64, 1_000)))
        before, span, after = data[:place], data[place : place + length], data[place + length :]
        match draw(st.sampled_from(("number", "flip", "drop", "repeat", "insert", "deep", "cut"))):
            case "number":
                layout = draw(st.sampled_from(("<B", "<H", "<I", "<Q")))
                number = int(draw(st.sampled_from([each for each in NUMBERS if each == each and abs(each) < 1e30])))
                packed = struct.pack(layout, number % 256 ** struct.calcsize(layout))
                data = before + packed + data[place + len(packed) :]
            case "flip":
                data = before + bytes(each ^ (1 << draw(st.integers(0, 7))) for each in span[:1]) + data[place + 1 :]
            case "drop":
                data = before + after
            case "repeat":
                data = before + span * draw(st.sampled_from((2, 3, 50, 300))) + after
            case "insert":
                data = before + draw(st.binary(min_size=1, max_size=16)) + span + after
            case "deep":
                data = before + draw(st.sampled_from((b"[", b'{"a":', b"(", b"- "))) * 30_000 + span + after
            case "cut":
                data = before
    return data[:LARGEST]


@st.composite
def mutated_text(draw: Draw, text: str, known: Sequence[str], most: int = 4) -> str:
    """A text with spans dropped or repeated, and words put in."""
    for _ in range(draw(st.integers(1, most))):
        place = draw(st.integers(0, len(text)))
        length = draw(st.sampled_from((1, 3, 10, 40)))
        before, span, after = text[:place], text[place : place + length], text[place + length :]
        word = draw(st.sampled_from(tuple(known)) | st.sampled_from(TEXTS))
        match draw(st.sampled_from(("put", "replace", "drop", "repeat", "many", "cut"))):
            case "put":
                text = before + word + span + after
            case "replace":
                text = before + word + after
            case "drop":
                text = before + after
            case "repeat":
                text = before + span * draw(st.sampled_from((2, 3, 30, 1_000))) + after
            case "many":
                text = before + (word * draw(st.sampled_from((2, 10, 1_000, 20_000))))[:LARGEST] + span + after
            case "cut":
                text = before
    return text[:LARGEST]
