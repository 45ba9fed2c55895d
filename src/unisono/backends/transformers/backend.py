"""Slots over a row cache: the waist of the transformers backend, apart from the forward pass itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from unisono.backends.base import Array, BackendFacts, Feed, Slot, check_feeds, check_ids, check_rewind
from unisono.backends.transformers.key_value_cache import Pass, RowPool, plan_passes
from unisono.backends.transformers.torch_runtime import RowForward

PADDING_SLACK = 16
"""Padded tokens that cost less than a pass of their own, which reads all the weights once more."""
LONGEST = 16
"""Ids of a feed that may be read in two passes; a prompt is read in one."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one pass reads of a feed."""

    feed: int
    """Its place among the feeds."""
    start: int
    """The first of its ids that is read."""
    stop: int
    """The first that is not."""
    wanted: int
    """How many of the last of them give their distribution."""

    @property
    def length(self) -> int:
        """How many ids are read."""
        return self.stop - self.start


class RowBackend:
    """A loaded model, see `unisono.backends.base.Backend`."""

    def __init__(self, facts: BackendFacts, pool: RowPool, forward: RowForward) -> None:
        self.facts = facts
        self._pool = pool
        self._forward: RowForward | None = forward
        self._slots: list[Slot] = []
        """By row."""
        self._opened = 0

    def open(self, copy_of: Slot | None = None) -> Slot:
        forward = self._loaded()
        source = None if copy_of is None else self._row(copy_of)
        if len(self._slots) >= self.facts.slots:
            raise RuntimeError(f"all {self.facts.slots} slots are open")
        with forward.inference():
            self._pool.add(source)
        self._slots.append(Slot(self._opened))
        self._opened += 1
        return self._slots[-1]

    def close(self, slot: Slot) -> None:
        row = self._row(slot)
        with self._loaded().inference():
            self._pool.drop(row)
        self._slots[row] = self._slots[-1]
        self._slots.pop()

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
        outputs: list[Any] = [None] * len(feeds)
        for parts in self._passes(forward, feeds, rows):
            self._run(forward, sorted(parts, key=lambda part: rows[part.feed]), feeds, rows, outputs)
        for row, feed in zip(rows, feeds, strict=True):
            self._pool.lengths[row] += len(feed.ids)
        return forward.finish([output for output in outputs if output is not None])

    def unload(self) -> None:
        if self._forward is not None:
            self._forward.unload()
        self._forward = None
        self._slots.clear()

    def _gather(self, feeds: Sequence[Feed]) -> None:
        """Let the rows that are fed follow one another: with gaps, a pass copies what all of them hold."""
        fed = {self._row(feed.slot) for feed in feeds}
        if not fed or max(fed) - min(fed) + 1 == len(fed):
            return
        windows = [range(first, first + len(fed)) for first in range(len(self._slots) - len(fed) + 1)]
        window = max(windows, key=lambda rows: len(fed.intersection(rows)))
        for gap, row in zip(sorted(set(window) - fed), sorted(fed.difference(window)), strict=True):
            self._pool.swap(gap, row)
            self._slots[gap], self._slots[row] = self._slots[row], self._slots[gap]

    def _passes(self, forward: RowForward, feeds: Sequence[Feed], rows: Sequence[int]) -> list[list[Part]]:
        """Group what is fed by pass: feeds of similar length, or of the same where the model takes no others."""
        lengths = [len(feed.ids) for feed in feeds]
        whole = [Part(i, 0, length, feed.wanted) for i, (feed, length) in enumerate(zip(feeds, lengths, strict=True))]
        if len(feeds) <= 1:
            return [whole] if feeds else []
        if forward.ragged:
            return _side_by_side([[whole[i] for i in group] for group in plan_passes(lengths, PADDING_SLACK)], rows)
        alike: dict[tuple[int, int], list[Part]] = {}
        for part, row in zip(whole, rows, strict=True):
            alike.setdefault((self._pool.lengths[row], part.length), []).append(part)
        return list(alike.values())

    def _run(
        self, forward: RowForward, parts: Sequence[Part], feeds: Sequence[Feed], rows: Sequence[int], outputs: list[Any]
    ) -> None:
        """Run one pass; ``parts`` are in the order of their rows."""
        step = Pass(
            rows=tuple(rows[part.feed] for part in parts),
            starts=tuple(self._pool.lengths[rows[part.feed]] + part.start for part in parts),
            lengths=tuple(part.length for part in parts),
        )
        ids = [list(feeds[part.feed].ids[part.start : part.stop]) for part in parts]
        # A padded query reads a token of its own feed: what it computes is finite and not used.
        ids = [own[:1] * (step.width - len(own)) + own for own in ids]
        keep = max(part.wanted for part in parts)
        self._pool.begin(step)
        logits = forward(step, ids, max(keep, 1))
        if keep == 0:
            return
        if [part.feed for part in parts] == list(range(len(feeds))) and all(part.wanted == keep for part in parts):
            outputs[0] = logits.reshape(-1, logits.shape[-1])
            return
        for place, part in enumerate(parts):
            if part.wanted:
                outputs[part.feed] = logits[place, keep - part.wanted :]

    def _row(self, slot: Slot) -> int:
        try:
            return self._slots.index(slot)
        except ValueError:
            raise ValueError(f"slot {slot} is not open") from None

    def _loaded(self) -> RowForward:
        if self._forward is None:
            raise RuntimeError("the model has been unloaded")
        return self._forward


def _side_by_side(passes: list[list[Part]], rows: Sequence[int]) -> list[list[Part]]:
    """Let longer feeds read their first ids with the shortest ones, where all these rows then follow one another.

    Rows with gaps between them have their keys and values copied for a pass. As many ids are read in as many passes.
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
