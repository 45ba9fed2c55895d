"""Bounds on what a chat template may do: a template is a program that came with a model.

Jinja's sandbox keeps a template from what is outside of it, and not from working without an end or from making a text
of gigabytes. Here every turn of a loop and every call looks at the clock, and no single value gets too large
(`template_sizes`), so that what happens between two looks is short.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from jinja2 import nodes, pass_context
from jinja2.filters import make_attrgetter
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from unisono.chat.template_sizes import (
    Exceeded,
    bounded_list,
    check_call,
    check_entries,
    check_filter,
    check_format,
    check_operator,
    check_size,
    check_value,
    forget,
    joined,
    note_sum,
    summed,
    written,
)

SECONDS = 2.0
"""Processor time of one rendering."""
PROBED = 100_000, 1_000_000
"""Characters that a template may write for one short conversation of ours, and for all of them; tokenizers read that in
a second or two."""
OFTEN = 16  # steps between two looks at the clock
LONG = 0.02
"""Seconds of such steps after which the clock is looked at after every step."""
A_STEP = 10_000
"""Characters that count as a step."""
_TOO_LONG = "it works for more than {:g} s"
GROWING: dict[type, tuple[str, ...]] = {list: ("append", "insert", "pop"), dict: ("setdefault", "update", "pop")}
"""Methods by which a template may change what it made itself, an entry at a time or by as many as it holds already.
Jinja's immutable sandbox knows none; newer templates append (Kimi K2)."""
_TICKED, _JOINED, _BUILT = "ticked by unisono", "joined by unisono", "built by unisono"
"""Filters whose names no template can write: one looks at the clock, one joins texts, one looks at lists."""


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


class _Clock(threading.local):
    steps = 0
    often = OFTEN
    looked = 0.0
    """When the clock was looked at last."""
    end: float | None = None
    """When a rendering has to be over; ``None`` before the first."""


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with bounds on time and size."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    may_change = False
    """Whether a template may use `GROWING`: what it is given has to be a copy then."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._clock = _Clock()
        self.finalize = self._output
        del self.globals["lipsum"]  # works as long as it is told to
        self.filters |= {"join": self._join, "sum": self._sum, "list": self._list}

    def begin(self, seconds: float | None = None) -> None:
        """Give a rendering in this thread its time, by default `SECONDS`."""
        now = time.thread_time()
        self._clock.end = now + (SECONDS if seconds is None else seconds)
        self._clock.looked, self._clock.steps, self._clock.often = now, 0, OFTEN
        forget()

    def bound(self, name: str, function: Callable[..., Any]) -> None:
        """Add a filter."""
        self.filters[name] = self._bounded(name, function)

    def bound_all(self) -> None:
        """Bound Jinja's own filters."""
        for name, function in list(self.filters.items()):
            self.bound(name, function)
        self.filters |= {_TICKED: self._tick, _BUILT: self._built}
        self.filters[_JOINED] = lambda *texts: joined(texts, "", self._step)

    def concat(self, seq: Iterable[str]) -> str:
        """What Jinja joins outputs with."""
        parts, size = [], 0
        for part in seq:
            self._step(len(part))
            parts.append(part)
            size += len(part)
            check_size(size)
        return "".join(parts)

    def call(__self, __context: Context, __obj: Any, *args: Any, **keywords: Any) -> Any:  # noqa: N805
        __self._step()
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str) and __obj.__name__ == "join" and len(args) == 1:
            return owner.join(_joinable(bounded_list(args[0], __self._step), owner))
        check_call(__obj, [*args, *keywords.values()])
        found = super().call(__context, __obj, *args, **keywords)
        if isinstance(owner, list | dict):  # it may have changed, and with it what it is in
            forget()
            check_entries(len(owner))
        check_value(found)
        return found

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may look an attribute up."""
        changes = self.may_change and attr in GROWING.get(type(obj), ())
        return changes or super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        self._step()
        check_operator(operator, left, right)
        found = super().call_binop(context, operator, left, right)
        if operator == "+":
            note_sum(found, left, right)
        return found

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        found = super().wrap_str_format(value)
        if found is None:
            return None

        def bounded(*args: Any, **keywords: Any) -> str:
            check_format(value.__self__, [*args, *keywords.values()])
            return found(*args, **keywords)

        return bounded

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            tick = _ticked(nodes.Const("", lineno=loop.lineno))
            loop.body.insert(0, nodes.ExprStmt(tick, lineno=loop.lineno))
            if loop.test is not None:
                loop.test = _ticked(loop.test)
        return _watched(tree)

    @pass_context
    def _tick(self, context: Context, value: Any) -> Any:
        """Look at the clock; with a context, so that Jinja does not work it out while it compiles."""
        self._step()
        return value

    def _built(self, value: Any) -> Any:
        """Look at a list, a tuple or a mapping that a template writes: each may hold another one many times."""
        self._step()
        check_value(value)
        return value

    def _output(self, value: Any) -> Any:
        """Look at a value before it becomes text."""
        if not isinstance(value, str):
            check_size(written(value))
        return value

    def _join(self, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
        parts = value if attribute is None else map(make_attrgetter(self, attribute), value)
        return joined(parts, str(d), self._step)

    def _sum(self, iterable: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
        parts = iterable if attribute is None else map(make_attrgetter(self, attribute), iterable)
        return summed(bounded_list(parts, self._step), start)

    def _list(self, value: Iterable[Any]) -> list[Any]:
        return bounded_list(value, self._step)

    def _step(self, size: int = 0) -> None:
        """Count what is done; of what takes long, each step looks at the clock."""
        clock = self._clock
        steps = clock.steps = clock.steps + 1 + size // A_STEP
        if steps >= clock.often:
            now = time.thread_time()
            clock.steps, clock.often = 0, 1 if now - clock.looked > LONG else OFTEN
            clock.looked = now
            if clock.end is not None and now > clock.end:
                raise OutOfTime(_TOO_LONG.format(SECONDS))

    def _bounded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)  # with the marks by which Jinja knows what to pass
        def bounded(*args: Any, **keywords: Any) -> Any:
            if self._clock.end is None:
                raise Exceeded("a filter is applied while the template is compiled")  # Jinja leaves it for later
            self._step()
            check_filter(name, [*args[_passed(function) :], *keywords.values()])
            found = function(*args, **keywords)
            check_value(found)
            return found

        return bounded


def _joinable(parts: list[Any], between: str) -> list[Any]:
    check_size(sum(len(part) for part in parts if isinstance(part, str)) + len(parts) * len(between))
    return parts


def _passed(function: Callable[..., Any]) -> int:
    """How many values Jinja gives a filter before those of the template."""
    return int(getattr(function, "jinja_pass_arg", None) is not None)


def _ticked(node: nodes.Node) -> nodes.Filter:
    return nodes.Filter(cast(nodes.Expr, node), _TICKED, [], [], None, None, lineno=node.lineno)


def _watched(tree: nodes.Template) -> nodes.Template:
    """The same with every ``a ~ b`` joined by a filter that sees how long it gets, and lists seen by another."""

    def changed(value: Any) -> Any:
        if isinstance(value, nodes.Concat):
            first, *rest = map(changed, value.nodes)
            return nodes.Filter(first, _JOINED, rest, [], None, None, lineno=value.lineno)
        if isinstance(value, nodes.Node):
            for key, inner in value.iter_fields():
                setattr(value, key, changed(inner))
            if isinstance(value, nodes.List | nodes.Dict) or (isinstance(value, nodes.Tuple) and value.ctx == "load"):
                return nodes.Filter(value, _BUILT, [], [], None, None, lineno=value.lineno)
        return [changed(inner) for inner in value] if isinstance(value, list) else value

    changed(tree)
    return tree
