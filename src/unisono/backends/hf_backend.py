"""Slots over a row cache: the waist of the transformers backend, apart from the forward pass itself."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from unisono.backends.base import Array, BackendFacts, Feed, Slot
from unisono.backends.hf_cache import Pass, RowPool, plan_passes

PADDING_SLACK = 16
"""Padded tokens that cost less than a pass of their own, which reads all the weights once more."""


class Forward(Protocol):
    """One forward pass of a model over the rows that its pool is set to."""

    ragged: bool
    """Whether rows of unequal length can share a pass."""

    def __call__(self, step: Pass, ids_BT: list[list[int]], keep: int) -> Any:
        """Return the logits ``[B, keep, V]`` of the last ``keep`` queries."""
        ...

    def finish(self, parts: Sequence[Any]) -> Array:
        """Join logits ``[n, V]`` into one float32 array."""
        ...

    def inference(self) -> AbstractContextManager[Any]:
        """Within it, the cache's tensors may be written. Raises `DeviceError` where memory does not suffice."""
        ...

    def unload(self) -> None:
        """Free the model."""
        ...


class RowBackend:
    """A loaded model, see `unisono.backends.base.Backend`."""

    def __init__(self, facts: BackendFacts, pool: RowPool, forward: Forward) -> None:
        self.facts = facts
        self._pool = pool
        self._forward: Forward | None = forward
        self._rows: dict[Slot, int] = {}
        self._slots: list[Slot] = []
        self._opened = 0

    def open(self, copy_of: Slot | None = None) -> Slot:
        forward = self._loaded()
        source = None if copy_of is None else self._row(copy_of)
        if len(self._slots) >= self.facts.slots:
            raise RuntimeError(f"all {self.facts.slots} slots are open")
        with forward.inference():
            row = self._pool.add(source)
        slot = Slot(self._opened)
        self._opened += 1
        self._rows[slot] = row
        self._slots.append(slot)
        return slot

    def close(self, slot: Slot) -> None:
        row = self._row(slot)
        with self._loaded().inference():
            moved = self._slots[self._pool.drop(row)]
        self._slots[row] = moved
        self._slots.pop()
        self._rows[moved] = row
        del self._rows[slot]

    def rewind(self, slot: Slot, length: int) -> None:
        row = self._row(slot)
        if not 0 <= length <= self._pool.lengths[row]:
            raise ValueError(f"slot {slot} holds {self._pool.lengths[row]} tokens and cannot be rewound to {length}")
        self._pool.lengths[row] = length

    def advance(self, feeds: Sequence[Feed]) -> Array:
        forward = self._loaded()
        self._check(feeds)
        rows = [self._rows[feed.slot] for feed in feeds]
        outputs: list[Any] = [None] * len(feeds)
        for group in self._groups(forward, feeds, rows):
            self._run(forward, sorted(group, key=rows.__getitem__), feeds, rows, outputs)
        for row, feed in zip(rows, feeds, strict=True):
            self._pool.lengths[row] += len(feed.ids)
        return forward.finish([output for output in outputs if output is not None])

    def unload(self) -> None:
        if self._forward is not None:
            self._forward.unload()
        self._forward = None
        self._rows.clear()
        self._slots.clear()

    def _groups(self, forward: Forward, feeds: Sequence[Feed], rows: Sequence[int]) -> list[list[int]]:
        lengths = [len(feed.ids) for feed in feeds]
        if len(feeds) <= 1:
            return [list(range(len(feeds)))] if feeds else []
        if forward.ragged:
            return plan_passes(lengths, PADDING_SLACK)
        alike: dict[tuple[int, int], list[int]] = {}
        for i, row in enumerate(rows):
            alike.setdefault((self._pool.lengths[row], lengths[i]), []).append(i)
        return list(alike.values())

    def _run(
        self, forward: Forward, group: Sequence[int], feeds: Sequence[Feed], rows: Sequence[int], outputs: list[Any]
    ) -> None:
        """Run one pass; ``group`` is in the order of its rows."""
        step = Pass(
            rows=tuple(rows[i] for i in group),
            starts=tuple(self._pool.lengths[rows[i]] for i in group),
            lengths=tuple(len(feeds[i].ids) for i in group),
        )
        # A padded query reads a token of its own feed: what it computes is finite and not used.
        ids = [[feeds[i].ids[0]] * (step.width - len(feeds[i].ids)) + list(feeds[i].ids) for i in group]
        keep = max(feeds[i].wanted for i in group)
        self._pool.begin(step)
        logits = forward(step, ids, max(keep, 1))
        if keep == 0:
            return
        if list(group) == list(range(len(feeds))) and all(feed.wanted == keep for feed in feeds):
            outputs[0] = logits.reshape(-1, logits.shape[-1])
            return
        for place, i in enumerate(group):
            if feeds[i].wanted:
                outputs[i] = logits[place, keep - feeds[i].wanted :]

    def _check(self, feeds: Sequence[Feed]) -> None:
        if len({feed.slot for feed in feeds}) != len(feeds):
            raise ValueError("a slot is fed twice in one call")
        for feed in feeds:
            length = self._pool.lengths[self._row(feed.slot)]
            if not feed.ids:
                raise ValueError(f"slot {feed.slot} is fed no ids")
            if not 0 <= feed.wanted <= len(feed.ids):
                raise ValueError(f"{feed.wanted} distributions are wanted of {len(feed.ids)} ids")
            if min(feed.ids) < 0 or max(feed.ids) >= self.facts.rows:
                odd = min(feed.ids) if min(feed.ids) < 0 else max(feed.ids)
                raise ValueError(f"id {odd} is not one of the model's {self.facts.rows}")
            if length + len(feed.ids) > self.facts.context:
                room = self.facts.context - length
                raise ValueError(f"slot {feed.slot} is fed {len(feed.ids)} ids and has room for {room}")

    def _row(self, slot: Slot) -> int:
        if slot not in self._rows:
            raise ValueError(f"slot {slot} is not open")
        return self._rows[slot]

    def _loaded(self) -> Forward:
        if self._forward is None:
            raise RuntimeError("the model has been unloaded")
        return self._forward
