"""Slot management of the transformers backend; `torch_runtime` has the forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from unisono.backends.base import Array, BackendFacts, Feed, Slot
from unisono.backends.feed_checks import check_feeds, check_ids, check_rewind
from unisono.backends.transformers.adapters import Adapters
from unisono.backends.transformers.key_value_cache import Pass, RowPool, plan_passes
from unisono.backends.transformers.torch_runtime import RowForward

PADDING_SLACK = 16
"""Padded tokens that cost less than another pass, which reads all the weights again."""
PADDING_SHARE = 0.25
"""Of the tokens of a large pass: so much padding costs less than several passes, whose matrices are small."""
LONGEST = 16
"""Feeds of up to this many ids may be split over two passes. Longer prompts never are."""


@dataclass(frozen=True, slots=True)
class Part:
    """The part of a feed that one pass reads: ids ``start`` to ``stop``."""

    feed: int
    start: int
    stop: int
    wanted: int
    """Return logits for this many last positions."""

    @property
    def length(self) -> int:
        return self.stop - self.start


class RowBackend:
    def __init__(self, facts: BackendFacts, pool: RowPool, forward: RowForward) -> None:
        self.facts = facts
        self.adapters: Adapters | None = None
        """What slots may be opened with."""
        self._adapter_of: dict[Slot, str | None] = {}
        self._pool = pool
        self._forward: RowForward | None = forward
        self._slots: list[Slot] = []
        self._opened = 0

    def open(self, copy_of: Slot | None = None, *, adapter: str | None = None) -> Slot:
        forward = self._loaded()
        source = None if copy_of is None else self._row(copy_of)
        if len(self._slots) >= self.facts.slots:
            raise RuntimeError(f"all {self.facts.slots} slots are open")
        with forward.inference():
            self._pool.add(source)
        self._slots.append(slot := Slot(self._opened))
        self._adapter_of[slot] = adapter if copy_of is None else self._adapter_of[copy_of]
        self._opened += 1
        return slot

    def close(self, slot: Slot) -> None:
        row = self._row(slot)
        with self._loaded().inference():
            self._pool.drop(row)
        self._slots[row] = self._slots[-1]
        self._slots.pop()
        del self._adapter_of[slot]

    def rewind(self, slot: Slot, length: int) -> None:
        row = self._row(slot)
        check_rewind(slot, self._pool.lengths[row], length)
        self._pool.lengths[row] = length

    def advance(self, feeds: Sequence[Feed]) -> Array:
        forward = self._loaded()
        check_feeds(feeds, lambda slot: self._pool.lengths[self._row(slot)], self.facts)
        check_ids(feeds, self.facts.rows)
        with forward.inference():
            self._gather(feeds)
        rows = [self._row(feed.slot) for feed in feeds]
        passes = self._passes(forward, feeds, rows)
        if self.adapters is not None and not self.adapters.mixed:
            passes = [own for parts in passes for own in self._by_adapter(parts, feeds)]
        outputs: list[list[Any]] = [[] for _ in feeds]
        for parts in passes:
            ordered = sorted(parts, key=lambda part: rows[part.feed])
            logits_BTV = self._run(forward, ordered, feeds, rows)
            place_rows(logits_BTV, ordered, outputs, whole=len(passes) == 1)
        for row, feed in zip(rows, feeds, strict=True):
            self._pool.lengths[row] += len(feed.ids)
        return forward.finish([output for own in outputs for output in own])

    def unload(self) -> None:
        if self._forward is not None:
            self._forward.unload()
        self._forward = self.adapters = None
        self._slots.clear()
        self._adapter_of.clear()

    def _gather(self, feeds: Sequence[Feed]) -> None:
        """Make the fed rows contiguous: a pass over rows with gaps copies their keys and values."""
        fed = {self._row(feed.slot) for feed in feeds}
        if not fed or max(fed) - min(fed) + 1 == len(fed):
            return
        windows = [range(first, first + len(fed)) for first in range(len(self._slots) - len(fed) + 1)]
        window = max(windows, key=lambda rows: len(fed.intersection(rows)))
        for gap, row in zip(sorted(set(window) - fed), sorted(fed.difference(window)), strict=True):
            self._pool.swap(gap, row)
            self._slots[gap], self._slots[row] = self._slots[row], self._slots[gap]

    def _passes(self, forward: RowForward, feeds: Sequence[Feed], rows: Sequence[int]) -> list[list[Part]]:
        """Group feeds into passes by similar length, or by equal length if the model requires it."""
        lengths = [len(feed.ids) for feed in feeds]
        whole = [Part(i, 0, length, feed.wanted) for i, (feed, length) in enumerate(zip(feeds, lengths, strict=True))]
        if len(feeds) <= 1:
            return [whole] if feeds else []
        if forward.ragged:
            return _side_by_side(
                [[whole[i] for i in group] for group in plan_passes(lengths, PADDING_SLACK, PADDING_SHARE)], rows
            )
        alike: dict[tuple[int, int], list[Part]] = {}
        for part, row in zip(whole, rows, strict=True):
            alike.setdefault((self._pool.lengths[row], part.length), []).append(part)
        return list(alike.values())

    def _by_adapter(self, parts: Sequence[Part], feeds: Sequence[Feed]) -> list[list[Part]]:
        """A pass for each adapter, where the model's layers do not see whole rows."""
        apart: dict[str | None, list[Part]] = {}
        for part in parts:
            apart.setdefault(self._adapter_of[feeds[part.feed].slot], []).append(part)
        return list(apart.values())

    def with_adapters(self, adapters: Adapters, who: str) -> None:
        """Let slots have adapters, after a pass that tries them. Raises a `ModelUnsupported`."""
        self.adapters = adapters
        width = min(3, self.facts.context)

        def run(names: Sequence[str | None]) -> int:
            slots = [self.open(adapter=name) for name in names]
            try:
                self.advance([Feed(slot, range(width)) for slot in slots])
            finally:
                for slot in slots:
                    self.close(slot)
            return width

        adapters.try_out(run, self.facts.slots, who)

    def _run(self, forward: RowForward, parts: Sequence[Part], feeds: Sequence[Feed], rows: Sequence[int]) -> Any:
        """Run a pass; return ``[B, T, V]`` of the last positions, T the most that any part wants."""
        step = Pass(
            rows=tuple(rows[part.feed] for part in parts),
            starts=tuple(self._pool.lengths[rows[part.feed]] + part.start for part in parts),
            lengths=tuple(part.length for part in parts),
        )
        ids = [list(feeds[part.feed].ids[part.start : part.stop]) for part in parts]
        # A padded query reads a token of its own feed: what it computes is finite and not used.
        ids = [own[:1] * (step.width - len(own)) + own for own in ids]
        self._pool.begin(step)
        if self.adapters is not None:
            self.adapters.begin([self._adapter_of[feeds[part.feed].slot] for part in parts], step.width)
        return forward(step, ids, max(1, *(part.wanted for part in parts)))

    def _row(self, slot: Slot) -> int:
        try:
            return self._slots.index(slot)
        except ValueError:
            raise ValueError(f"slot {slot} is not open") from None

    def _loaded(self) -> RowForward:
        if self._forward is None:
            raise RuntimeError("the model has been unloaded")
        return self._forward


def place_rows(logits_BTV: Any, parts: Sequence[Part], outputs: list[list[Any]], *, whole: bool) -> None:
    """Add what a pass gives to the outputs of its feeds; where it is the ``whole``, and all want alike, at once."""
    keep = logits_BTV.shape[1]
    alike = [part.feed for part in parts] == list(range(len(outputs))) and all(part.wanted == keep for part in parts)
    if whole and alike:
        outputs[0].append(logits_BTV.reshape(-1, logits_BTV.shape[-1]))
        return
    for place, part in enumerate(parts):
        if part.wanted:
            outputs[part.feed].append(logits_BTV[place, keep - part.wanted :])


def _side_by_side(passes: list[list[Part]], rows: Sequence[int]) -> list[list[Part]]:
    """Let longer feeds read their first ids with the shortest feeds, if that makes the rows contiguous.

    A pass over rows with gaps copies their keys and values. The numbers of ids and passes stay the same.
    """
    *longer, shortest = passes
    width = max(part.length for part in shortest)
    early = [
        part for parts in longer for part in parts if width <= part.length - part.wanted and part.length <= LONGEST
    ]
    if not early or _follow(shortest, rows) or not _follow([*shortest, *early], rows):
        return passes
    heads = [replace(part, stop=width, wanted=0) for part in early]
    late = {part.feed: replace(part, start=width) for part in early}
    return [[*shortest, *heads], *([late.get(part.feed, part) for part in parts] for parts in longer)]


def _follow(parts: Sequence[Part], rows: Sequence[int]) -> bool:
    own = [rows[part.feed] for part in parts]
    return max(own) - min(own) + 1 == len(own)
