"""Bounds on what a chat template may do: a template is a program that came with a model.

Jinja's sandbox keeps a template from what is outside of it, and not from working without an end or from making a text
of gigabytes. Here every turn of a loop and every call looks at the clock, and no single value gets longer than
`LONGEST`, so that what happens between two looks is short.
"""

from __future__ import annotations

import contextlib
import functools
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

LONGEST = 16_000_000
"""Characters of a text, or entries of a list, that a template makes; a prompt of a million tokens has a quarter."""
SECONDS = 2.0
"""Processor time of one rendering."""
PROBED = 100_000, 1_000_000
"""Characters that a template may write for one short conversation of ours, and for all of them; tokenizers read that in
a second or two."""
OFTEN = 16  # steps between two looks at the clock
WIDEST = 6
"""Digits of a width in a format."""
MOST_BITS = 10_000
"""Of a whole number."""
_TOO_LONG = "it works for more than {:g} s"
GROWING: dict[type, tuple[str, ...]] = {list: ("append", "insert", "pop"), dict: ("setdefault", "update", "pop")}
"""Methods by which a template may change what it made itself, an entry at a time or by as many as it holds already.
Jinja's immutable sandbox knows none; newer templates append (Kimi K2)."""
_TICKED, _JOINED = "ticked by unisono", "joined by unisono"
"""Filters whose names no template can write: one looks at the clock, one joins texts."""


class Exceeded(SecurityError):
    """A template worked for too long, or made too large a value."""


class OutOfTime(Exceeded):
    """A template worked for too long."""


class Probing:
    """What a template has cost that is asked, by short conversations of ours, what it does."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        """What it wrote, by what it was given."""
        self._spent = 0.0
        self._written = 0

    @property
    def seconds(self) -> float:
        """How long it may still work. Raises `OutOfTime` where that is over."""
        if (left := SECONDS - self._spent) <= 0:
            raise OutOfTime(_TOO_LONG.format(SECONDS))
        return left

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        began = time.thread_time()
        try:
            yield
        finally:
            self._spent += time.thread_time() - began

    def count(self, text: str) -> None:
        """Count what was written. Raises `Exceeded` where it is too much."""
        self._written += len(text)
        for size, most, words in zip((len(text), self._written), PROBED, ("a conversation", "a few"), strict=True):
            if size > most:
                raise Exceeded(f"it writes {size:,} characters, more than {most:,}, for {words} of a few words")


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with bounds on time and size."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    may_change = False
    """Whether a template may use `GROWING`: what it is given has to be a copy then."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._clock = threading.local()
        del self.globals["lipsum"]  # works as long as it is told to
        self.filters[_TICKED] = self._tick
        self.filters[_JOINED] = lambda *texts: self.concat(map(str, texts))

    def begin(self, seconds: float | None = None) -> None:
        """Give a rendering in this thread its time, by default `SECONDS`."""
        self._clock.end = time.thread_time() + (SECONDS if seconds is None else seconds)
        self._clock.steps = 0

    def bound(self, name: str, function: Callable[..., Any]) -> None:
        """Add a filter."""
        self.filters[name] = self._bounded(name, function)

    def bound_all(self) -> None:
        """Bound Jinja's own filters."""
        for name, function in list(self.filters.items()):
            if name not in (_TICKED, _JOINED):
                self.bound(name, function)

    def concat(self, seq: Iterable[str]) -> str:
        """What Jinja joins outputs with."""
        parts, size = [], 0
        for part in seq:
            self._step()
            parts.append(part)
            size += len(part)
            _check_size(size)
        return "".join(parts)

    def call(__self, __context: Context, __obj: Any, *args: Any, **keywords: Any) -> Any:  # noqa: N805
        __self._step()
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            _check_method(__obj.__name__, owner, (*args, *keywords.values()))
        found = super().call(__context, __obj, *args, **keywords)
        _check_value(found)
        return found

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may look an attribute up."""
        changes = self.may_change and attr in GROWING.get(type(obj), ())
        return changes or super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        self._step()
        _check_operator(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        found = super().wrap_str_format(value)
        if found is None:
            return None

        def bounded(*args: Any, **keywords: Any) -> str:
            _check_format(value.__self__, [*args, *keywords.values()])
            return found(*args, **keywords)

        return bounded

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            tick = _ticked(nodes.Const("", lineno=loop.lineno))
            loop.body.insert(0, nodes.Output([tick], lineno=loop.lineno))
            if loop.test is not None:
                loop.test = _ticked(loop.test)
        return _without_concat(tree)

    @pass_context
    def _tick(self, context: Context, value: Any) -> Any:
        """Look at the clock; with a context, so that Jinja does not work it out while it compiles."""
        self._step()
        return value

    def _step(self) -> None:
        clock = self._clock
        steps = clock.steps = getattr(clock, "steps", 0) + 1
        if steps >= OFTEN:
            clock.steps = 0
            if time.thread_time() > getattr(clock, "end", float("inf")):
                raise OutOfTime(_TOO_LONG.format(SECONDS))

    def _bounded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)  # with the marks by which Jinja knows what to pass
        def bounded(*args: Any, **keywords: Any) -> Any:
            self._step()
            values = [*args, *keywords.values()]
            texts = [value for value in values if isinstance(value, str)]
            if texts or name in ("tojson", "join", "batch", "slice"):
                _check_method(name, texts[0] if texts else "", values)
            found = function(*args, **keywords)
            _check_value(found)
            return found

        return bounded


def _ticked(node: nodes.Node) -> nodes.Filter:
    return nodes.Filter(cast(nodes.Expr, node), _TICKED, [], [], None, None, lineno=node.lineno)


def _without_concat(tree: nodes.Template) -> nodes.Template:
    """The same with every ``a ~ b`` joined by a filter, which sees how long it gets."""

    def changed(value: Any) -> Any:
        if isinstance(value, nodes.Concat):
            first, *rest = map(changed, value.nodes)
            return nodes.Filter(first, _JOINED, rest, [], None, None, lineno=value.lineno)
        if isinstance(value, nodes.Node):
            for key, inner in value.iter_fields():
                setattr(value, key, changed(inner))
        return [changed(inner) for inner in value] if isinstance(value, list) else value

    changed(tree)
    return tree


def _check_method(name: str, text: str, values: Iterable[Any]) -> None:
    """Refuse a call that would make a text much longer than what it is given."""
    values = list(values)
    if name == "replace":
        old, new = (*(value for value in values if isinstance(value, str) and value is not text), "", "")[:2]
        _check_size(len(text) + (len(text) // max(1, len(old)) + 1) * len(new))
    elif name == "join":
        for items in [value for value in values if isinstance(value, list | tuple | range)]:
            _check_size(sum(len(item) for item in items if isinstance(item, str)) + len(items) * (len(text) + 1))
    elif name in ("format", "format_map"):
        _check_format(text, values)
    elif name in ("center", "ljust", "rjust", "zfill", "expandtabs", "indent", "wordwrap", "tojson", "batch", "slice"):
        widths = [value for value in values if isinstance(value, int)]
        paddings = [len(value) for value in values if isinstance(value, str) and value is not text]
        _check_size((len(text) + 1) * max([1, *widths, *paddings]))


def _check_operator(operator: str, left: Any, right: Any) -> None:
    if operator == "%" and isinstance(left, str):
        _check_format(left, right if isinstance(right, tuple | list) else (right,))
    elif operator == "+":
        _check_size(_size(left) + _size(right))
    elif operator == "*":
        for items, count in ((left, right), (right, left)):
            if isinstance(count, int):
                _check_size(_size(items) * max(0, count))
        if isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() + right.bit_length())
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() * max(0, right))


def _check_format(text: str, values: Iterable[Any]) -> None:
    asked = any(isinstance(value, int) and abs(value) >= 10**WIDEST for value in values)
    nested = "*" in text or re.search(r"\{[^{}]*\{", text) is not None  # a width that is given as a value
    if re.search(rf"[0-9]{{{WIDEST + 1},}}", text) or (asked and nested):
        raise Exceeded(f"it formats a value with a width of more than {WIDEST} digits")


def _check_value(value: Any) -> None:
    _check_size(_size(value))
    if isinstance(value, int):
        _check_bits(value.bit_length())


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple | dict) else 0


def _check_size(size: int) -> None:
    if size > LONGEST:
        raise Exceeded(f"it makes a value of more than {LONGEST:,} characters or entries")


def _check_bits(bits: int) -> None:
    if bits > MOST_BITS:
        raise Exceeded("it makes a number of more than 3,000 digits")
