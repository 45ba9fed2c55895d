"""Slots of models with recurrent states: the same waist as `RowBackend`, with states kept at seams."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from unisono.backends.base import Array, BackendFacts, Feed, Slot
from unisono.backends.feed_checks import check_feeds, check_ids, check_rewind
from unisono.backends.seams import INSIDE, LONG, Memory
from unisono.backends.transformers.backend import Part, RowBackend
from unisono.backends.transformers.key_value_cache import RowPool
from unisono.backends.transformers.state_layer import LayerState, SlotState, StateLayer
from unisono.backends.transformers.torch_runtime import RowForward


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a model's code does right, as found by `state_probe`."""

    blocks: bool = False
    """Several tokens after others are read in one pass. Some models would forget their state."""
    together: bool = False
    """Slots of equal lengths share a pass."""
    uneven: bool = False
    """Slots of unequal lengths do, too."""


class StateBackend(RowBackend):
    """Rows of the pool hold what was read up to a slot's seam. A rewind moves the seam back."""

    def __init__(
        self,
        facts: BackendFacts,
        pool: RowPool,
        forward: RowForward,
        layers: Sequence[StateLayer],
        abilities: Abilities,
    ) -> None:
        super().__init__(facts, pool, forward)
        self._layers = layers
        self._abilities = abilities
        self._memories: dict[Slot, Memory[SlotState]] = {}
        self._states: list[SlotState] = []
        """By feed, the state that the next pass starts from."""
        self._left: list[dict[int, SlotState]] = []
        """By feed, the states that passes have left, by their length."""
        self._noted: list[set[int]] = []

    def open(self, copy_of: Slot | None = None, *, adapter: str | None = None) -> Slot:
        slot = super().open(copy_of, adapter=adapter)
        empty = tuple(LayerState() for _ in self._layers)
        self._memories[slot] = Memory(empty) if copy_of is None else self._memories[copy_of].copy()
        return slot

    def close(self, slot: Slot) -> None:
        super().close(slot)
        del self._memories[slot]

    def rewind(self, slot: Slot, length: int) -> None:
        memory = self._memory(slot)
        check_rewind(slot, len(memory.ids), length)
        memory.rewind(length)
        self._pool.lengths[self._row(slot)] = memory.seam

    def advance(self, feeds: Sequence[Feed]) -> Array:
        """Read each feed after the ids that its slot holds behind its seam."""
        self._loaded()
        check_feeds(feeds, lambda slot: len(self._memory(slot).ids), self.facts)
        check_ids(feeds, self.facts.rows)
        memories = [self._memory(feed.slot) for feed in feeds]
        whole = [
            replace(feed, ids=[*memory.ids[memory.seam :], *feed.ids])
            for feed, memory in zip(feeds, memories, strict=True)
        ]
        self._states, self._left = [memory.state for memory in memories], [{} for _ in feeds]
        try:
            logits_NV = super().advance(whole)
            for feed, memory, states in zip(feeds, memories, self._left, strict=True):
                memory.read(list(feed.ids), states)
        finally:
            self._states, self._left = [], []
        return logits_NV

    def by_itself(self, blocks: Sequence[Sequence[int]]) -> Array:
        """The last distributions of blocks of one text, as the model's own cache has them."""
        return self._loaded().by_itself(blocks)

    def unload(self) -> None:
        super().unload()
        self._memories.clear()

    def _memory(self, slot: Slot) -> Memory[SlotState]:
        self._row(slot)
        return self._memories[slot]

    def _passes(self, forward: RowForward, feeds: Sequence[Feed], rows: Sequence[int]) -> list[list[Part]]:
        """Rounds of passes, each over feeds of equal length: what pads a row would change its state."""
        parts = [self._parts(i, feed) for i, feed in enumerate(feeds)]
        self._noted = [_noted(own) for own in parts]
        passes: list[list[Part]] = []
        for turn in range(max(map(len, parts), default=0)):
            alike: dict[tuple[int, ...], list[Part]] = {}
            for part in (own[turn] for own in parts if turn < len(own)):
                start = self._pool.lengths[rows[part.feed]] + part.start
                begun = min(start, 1) if self._abilities.uneven else start
                alike.setdefault((part.length, begun, 0 if self._abilities.together else part.feed), []).append(part)
            passes += alike.values()
        return passes

    def _parts(self, number: int, feed: Feed) -> list[Part]:
        """Cut a feed where a state is to be kept, and into its tokens where the model reads no blocks."""
        memory, size = self._memories[feed.slot], len(feed.ids)
        again = len(memory.ids) - memory.seam
        cuts = {0, size, *([again] if again > LONG else [])}
        if not self._abilities.blocks:
            block = again if again > LONG else size  # a fresh slot's first ids are a block for every model
            cuts.update(range(0 if memory.seam else block, size))
        ends = sorted(cuts)
        return [
            Part(number, start, stop, max(0, min(stop, size) - max(start, size - feed.wanted)))
            for start, stop in itertools.pairwise(ends)
        ]

    def _run(self, forward: RowForward, parts: Sequence[Part], feeds: Sequence[Feed], rows: Sequence[int]) -> Any:
        with forward.inference():
            for place, layer in enumerate(self._layers):
                layer.load([self._states[part.feed][place] for part in parts])
            logits_BTV = super()._run(forward, parts, feeds, rows)
            taken = zip(*(layer.taken(len(parts)) for layer in self._layers), strict=True)
            for part, state in zip(parts, taken, strict=True):
                self._states[part.feed] = state
                if part.stop in self._noted[part.feed]:
                    self._left[part.feed][self._pool.lengths[rows[part.feed]] + part.stop] = state
        return logits_BTV


def _noted(parts: Sequence[Part]) -> set[int]:
    """The ends of parts whose states are worth a seam: the last few, and those of long blocks."""
    return {part.stop for part in parts[-1 - INSIDE :]} | {part.stop for part in parts if part.length > LONG}
