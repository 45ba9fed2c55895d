"""How large the values may be that a chat template makes, and what its functions may be given.

A value counts as written out: a list that holds one long text a thousand times takes no memory by itself, and
gigabytes as text, as JSON, or where it is compared with another.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jinja2 import Undefined
from jinja2.exceptions import SecurityError
from jinja2.utils import Namespace

LONGEST = 16_000_000
"""Characters of a value, written out, that a template makes; a prompt of a million tokens has a quarter."""
ENTRIES = 2_000_000
"""Of a list."""
SEARCHED = 1_000_000_000
"""Comparisons of characters by a search from the end, which may look at all of both texts for each place."""
DEEPEST = 300
"""Lists and mappings inside one another; of a request they have 200."""
WIDEST = 6
"""Digits of a width in a format."""
MOST_BITS = 10_000
"""Of a whole number."""
SLOW = dict.fromkeys(("wordwrap", "urlize", "striptags", "pprint"), 100_000)
"""Filters that take long for a character, and how many they may be given."""
_OF_MAPPINGS: tuple[type, ...] = type({}.keys()), type({}.values()), type({}.items())
CONTAINERS = (list, tuple, dict, set, frozenset, *_OF_MAPPINGS, Namespace)
CHANGES = -1
"""In place of an `id`: whether a namespace is in a value, which a template may change."""
OF_TEXTS = frozenset(
    (
        *("capitalize", "center", "e", "escape", "forceescape", "format", "indent"),
        *("lower", "pprint", "replace", "safe", "string", "striptags", "title"),
        *("tojson", "trim", "truncate", "upper", "urlencode", "urlize", "wordcount"),
        *("wordwrap", "xmlattr"),
    )
)
"""Filters that write what they are given."""
OF_ENTRIES = frozenset(
    (
        *("batch", "groupby", "list", "map", "max", "min", "reject"),
        *("rejectattr", "select", "selectattr", "slice", "sort", "sum", "unique"),
    )
)
"""Filters that take a text character by character."""
WIDENING = ("center", "ljust", "rjust", "zfill", "expandtabs", "indent", "wordwrap", "batch", "slice")
FROM_THE_END = ("rfind", "rindex", "rsplit", "rpartition")
SPLITTING = ("split", "rsplit", "splitlines")
OF_NUMBERS = ("bit_length", "bit_count", "is_integer")
"""What may be called of a number: others make bytes."""


class Exceeded(SecurityError):
    """A template worked for too long, or made too large a value."""


class _Recent(threading.local):
    """What values took that were looked at lately: a template that makes a list longer and longer looks at each."""

    def __init__(self) -> None:
        self.sizes: OrderedDict[int, tuple[Any, int]] = OrderedDict()
        """By `id`, with the value itself, so that no other one gets it."""

    def keep(self, value: Any, size: int) -> int:
        self.sizes[id(value)] = value, size
        if len(self.sizes) > 64:
            self.sizes.popitem(last=False)
        return size


_recent = _Recent()


def forget() -> None:
    """Let go of the values that this thread has looked at."""
    _recent.sizes.clear()


def note_sum(found: Any, left: Any, right: Any) -> None:
    """Remember what a list takes that was made of two others, whose sizes are known."""
    if isinstance(found, list | tuple):
        sizes = [_recent.sizes.get(id(each)) for each in (left, right)]
        if all(sizes):
            _recent.keep(found, sum(size for _, size in filter(None, sizes)))


def written(value: Any) -> int:
    """About how many characters a value has as text. Raises `Exceeded` where they are too many, or too deep."""
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, CONTAINERS):
        return _of_one(value)
    if (recent := _recent.sizes.get(id(value))) is not None:
        return recent[1]
    known: dict[int, int] = {}
    size = _written(value, known, 0)
    return size if CHANGES in known else _recent.keep(value, size)


def _written(value: Any, known: dict[int, int], depth: int) -> int:
    """``known`` has what parts of the value take that were seen before, by their `id`; 0 of those around this one."""
    if (size := known.get(id(value))) is not None:
        return size
    if depth > DEEPEST:
        raise Exceeded(f"it puts more than {DEEPEST} lists or mappings into one another")
    known[id(value)], size, inside = 0, 2, value
    if isinstance(value, Namespace):
        known[CHANGES], inside = 1, object.__getattribute__(value, "_Namespace__attrs")
    for part in itertools.chain(inside, inside.values()) if isinstance(inside, dict) else inside:
        size += 4 + (_written(part, known, depth + 1) if isinstance(part, CONTAINERS) else _of_one(part))
        check_size(size)
    known[id(value)] = size
    return size


def _of_one(value: Any) -> int:
    if isinstance(value, str | bytes | bytearray):
        return len(value)
    if isinstance(value, int):
        return value.bit_length() // 3
    return 20 if value is None or isinstance(value, float) else len(repr(value))


def check_size(size: int) -> None:
    if size > LONGEST:
        raise Exceeded(f"it makes a value of more than {LONGEST:,} characters")


def check_entries(count: int) -> None:
    if count > ENTRIES:
        raise Exceeded(f"it makes a list of more than {ENTRIES:,} entries")


def check_value(value: Any) -> None:
    """Refuse what a template made, and holds by now."""
    if isinstance(value, int):
        check_bits(value.bit_length())
    if isinstance(value, list | tuple | dict):
        check_entries(len(value))
    if isinstance(value, str | bytes):
        check_size(len(value))
    elif isinstance(value, CONTAINERS):
        check_size(written(value))


def check_bits(bits: int) -> None:
    if bits > MOST_BITS:
        raise Exceeded("it makes a number of more than 3,000 digits")


def check_call(function: Any, values: Sequence[Any]) -> None:
    """Refuse a call of a method that would make much more than what it is given, or take long for it."""
    owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
    if isinstance(owner, str):
        check_method(name, owner, values)
    elif isinstance(owner, bytes | bytearray | memoryview) and name != "decode":
        raise Exceeded("it calls a method of bytes")
    elif isinstance(owner, int | float) and name not in OF_NUMBERS:
        raise Exceeded(f"it calls {name!r} of a number")


def check_filter(name: str, values: Sequence[Any]) -> None:
    """The same of a filter, whose first value is what it is applied to."""
    first = values[0] if values else ""
    if name in OF_ENTRIES and isinstance(first, str):
        check_entries(len(first))
    if name in OF_TEXTS:
        size = written(first)
        if size > SLOW.get(name, size):
            raise Exceeded(f"{name} is given {size:,} characters, and at most {SLOW[name]:,}")
    if name == "tojson":
        _check_json(first, values[1:])
    else:
        check_method(name, first if isinstance(first, str) else "", values)


def check_method(name: str, text: str, values: Iterable[Any]) -> None:
    """Refuse a method of a text, or a filter of that name, that would make a value much longer than its own."""
    values = list(values)
    texts = [value for value in values if isinstance(value, str) and value is not text]
    if name == "replace":
        old, new = (*texts, "", "")[:2]
        check_size(len(text) + (len(text) // max(1, len(old)) + 1) * len(new))
    elif name in ("format", "format_map"):
        check_format(text, values)
    elif name == "translate":
        tables = (value for value in values if isinstance(value, Mapping))
        check_size(len(text) * max([1, *(written(each) for table in tables for each in table.values())]))
    elif name in WIDENING:
        widths = [value for value in values if isinstance(value, int)]
        check_size((len(text) + 1) * max([1, *widths, *map(len, texts)]))
    if name in FROM_THE_END and len(text) * max(map(len, texts), default=1) > SEARCHED:
        raise Exceeded(f"{name} would look for a long text in a long one")
    if name in SPLITTING:
        apart = texts[0] if texts and name != "splitlines" else ""
        check_entries(text.count(apart) if apart else len(text) // 2)


def _check_json(value: Any, options: Iterable[Any]) -> None:
    """What is written around each value is given as an option: an indentation, separators."""
    widest = 0
    for each in options:
        if isinstance(each, list | tuple):
            widest = max([widest, *map(written, each)])
        elif isinstance(each, str):
            widest = max(widest, len(each))
        elif isinstance(each, int) and not isinstance(each, bool):
            widest = max(widest, each)
        elif each is not None and not isinstance(each, bool | Undefined):
            raise Exceeded(f"it writes JSON with a {type(each).__name__} as an option")
    check_size(written(value) * (1 if widest <= WIDEST else widest))


def check_operator(operator: str, left: Any, right: Any) -> None:
    if isinstance(left, bytes | bytearray) or isinstance(right, bytes | bytearray):
        raise Exceeded("it computes with bytes")
    if operator == "%" and isinstance(left, str):
        check_format(left, right if isinstance(right, tuple | list) else (right,))
    elif operator == "+" and _is_row(left) and _is_row(right):
        _check_row(left, right, 1, written(left) + written(right))
    elif operator == "*":
        for items, count in ((left, right), (right, left)):
            if isinstance(count, int) and _is_row(items):
                _check_row(items, (), max(0, count), written(items) * max(0, count))
        if isinstance(left, int) and isinstance(right, int):
            check_bits(left.bit_length() + right.bit_length())
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        check_bits(left.bit_length() * max(0, right))


def _is_row(value: Any) -> bool:
    return isinstance(value, str | list | tuple)


def _check_row(first: Any, second: Any, times: int, size: int) -> None:
    if not isinstance(first, str):
        check_entries((len(first) + len(second)) * times)
    check_size(size)


def check_format(text: str, values: Iterable[Any]) -> None:
    """Refuse a format with wide fields, or with so many of them that long values fill all the memory."""
    values = [*values]
    asked = any(isinstance(value, int) and abs(value) >= 10**WIDEST for value in values)
    nested = "*" in text or re.search(r"\{[^{}]*\{", text) is not None  # a width that is given as a value
    widths = re.findall(r"[0-9]+", text)
    if any(len(width) > WIDEST for width in widths) or (asked and nested):
        raise Exceeded(f"it formats a value with a width of more than {WIDEST} digits")
    fields = text.count("%") + text.count("{")
    given = [abs(value) for value in values if isinstance(value, int)] if nested else []
    check_size(len(text) + fields * max([0, *map(written, values), *map(int, widths), *given]))


def check_pattern(pattern: str) -> None:
    """Refuse a pattern of a time that is long, or has wide fields."""
    if len(pattern) > 1_000 or re.search(r"%[^%a-zA-Z]*[0-9]{4}", pattern):
        raise Exceeded("it writes the time with a pattern that is long, or has wide fields")


def joined(parts: Iterable[Any], between: str, step: Callable[[int], None]) -> str:
    """``between.join`` of values as texts, of a bounded size; ``step`` is told how much each has."""
    texts, size = [], 0
    for part in parts:
        check_size(size + written(part))
        texts.append(str(part))
        size += len(texts[-1]) + len(between)
        step(len(texts[-1]))
        check_size(size)
    return between.join(texts)


def summed(parts: Sequence[Any], start: Any) -> Any:
    """`sum`, where lists do not get too long; each is copied for the next one."""
    if not isinstance(start, int | float):
        lengths = sum(len(part) for part in parts if isinstance(part, list | tuple))
        check_entries(lengths * max(1, len(parts) // 100))
    return sum(parts, start)


def bounded_list(values: Iterable[Any], step: Callable[[int], None]) -> list[Any]:
    """The entries of what a filter goes through, which may be lazy."""
    found = []
    for value in values:
        found.append(value)
        step(0)
        if len(found) > ENTRIES:
            check_entries(len(found))
    return found
