"""Reuses the contents of closed slots for prompts with the same prefix.

A chat resends all its turns with each question, and many requests share a system prompt. A `PrefixCache` wraps a
backend and is one itself: a closed slot stays open in the wrapped backend until its place is needed. The cache tracks
ids itself, so it never depends on callers' records.

The output does not change: a slot rewound to a prefix equals one that has read only that prefix. When
`BackendFacts.neighbours` is set, slots in use stay contiguous and kept slots move out of the way.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from unisono.backends.base import Array, Backend, Feed, Slot, common
from unisono.backends.top_logprobs import TopLogprobs


class PrefixCache:
    """A backend that reuses prefixes. All members of one model share it."""

    def __init__(self, backend: Backend, *, shortest: int = 16) -> None:
        """Wrap an unused backend. Prefixes shorter than ``shortest`` ids are recomputed: a copy has a cost."""
        self.facts = backend.facts
        self.reused = 0
        self._backend = backend
        self._shortest = shortest
        self._open: dict[Slot, list[int]] = {}
        self._kept: dict[Slot, list[int]] = {}
        """Contents of closed slots, least recently used first."""
        self._adapters: dict[Slot, str | None] = {}
        """That of each slot, in use or kept: what one has read is nothing to another."""
        self._spoiled: set[Slot] = set()
        """Slots in which a pass failed. They are never kept."""

    @property
    def kept(self) -> int:
        return sum(len(held) for held in self._kept.values())

    def open(self, copy_of: Slot | None = None, *, adapter: str | None = None) -> Slot:
        """Open a slot, evicting a kept one if necessary. ``adapter``: see `unisono.backends.adapted`."""
        held = [] if copy_of is None else list(self._held(copy_of))
        slot = self._take(copy_of, held, adapter if copy_of is None else self._adapters[copy_of])
        if copy_of in self._spoiled:
            self._spoiled.add(slot)
        return slot

    def resume(self, ids: Sequence[int], *, adapter: str | None = None) -> tuple[Slot, int]:
        """Open the slot with the longest prefix of all ids but the last; return it and the prefix length.

        A kept slot is reused in place if that loses nothing, or if all slots are taken and evicting another for a copy
        would lose more. Otherwise it is copied, as is a slot in use.
        """
        ids = list(ids)
        known = {slot: held for slot, held in {**self._open, **self._kept}.items() if self._adapters[slot] == adapter}
        lengths = {slot: common(ids, held) for slot, held in known.items() if slot not in self._spoiled}
        # among equal prefixes, prefer a kept slot, then the one with the fewest other ids
        source = max(lengths, key=lambda slot: (lengths[slot], slot in self._kept, -len(known[slot])), default=None)
        if source is None or min(lengths[source], len(ids) - 1) < max(1, self._shortest):
            return self.open(adapter=adapter), 0
        length, held = min(lengths[source], len(ids) - 1), known[source]
        if source in self._kept and self._is_to_be_taken_over(source, lost=len(held) - lengths[source]):
            slot = source
            self._open[slot] = self._kept.pop(source)
        else:
            if source in self._kept:
                self._kept[source] = self._kept.pop(source)  # now the most recently used
            slot = self._take(source, list(held), adapter)
        try:
            self.rewind(slot, length)
        except BaseException:
            self.discard(slot)
            raise
        self.reused += length
        return slot, length

    def advance(self, feeds: Sequence[Feed]) -> Array | TopLogprobs:
        for feed in feeds:
            self._held(feed.slot)
        try:
            logits_NV = self._backend.advance(feeds)
        except ValueError:  # refused: nothing was read
            raise
        except BaseException:
            self._spoiled.update(feed.slot for feed in feeds)
            raise
        for feed in feeds:
            self._open[feed.slot].extend(feed.ids)
        return logits_NV

    def rewind(self, slot: Slot, length: int) -> None:
        held = self._held(slot)
        self._backend.rewind(slot, length)
        del held[length:]

    def close(self, slot: Slot) -> None:
        """Close a slot. Its contents are kept if they are long enough and no other slot holds them."""
        held = self._held(slot)
        if slot in self._spoiled or len(held) < max(1, self._shortest) or self._is_known(slot, held):
            self.discard(slot)
            return
        del self._open[slot]
        for other, ids in list(self._kept.items()):
            if self._adapters[other] == self._adapters[slot] and held[: len(ids)] == ids:
                self._give_up(other)
        self._kept[slot] = held

    def discard(self, slot: Slot) -> None:
        """Close a slot without keeping its contents. Raises `ValueError` when it is not open."""
        self._held(slot)
        del self._open[slot], self._adapters[slot]
        self._spoiled.discard(slot)
        self._backend.close(slot)

    def limit(self, ids: int) -> None:
        while self.kept > max(0, ids):
            self._give_up(next(iter(self._kept)))

    def unload(self) -> None:
        self._kept.clear()
        self._backend.unload()

    @property
    def _is_full(self) -> bool:
        return len(self._open) + len(self._kept) >= self.facts.slots

    def _is_to_be_taken_over(self, source: Slot, lost: int) -> bool:
        """Whether to reuse a kept slot in place, at the price of this many of its ids, rather than copy it."""
        if self._is_full and self._kept.keys() == {source}:
            return True
        loses_least = not lost or (self._is_full and lost <= len(next(iter(self._kept.values()))))
        return loses_least and self._is_near(source)

    def _take(self, copy_of: Slot | None, held: list[int], adapter: str | None) -> Slot:
        """Open a slot in the wrapped backend, evicting the least recently used one when none is free."""
        if self._is_full and self._kept:
            self._give_up(next(iter(self._kept)))
        if self.facts.neighbours and not self._is_full:
            copy_of = self._make_way(copy_of)
        if adapter is None or copy_of is not None:
            slot = self._backend.open(copy_of)
        else:
            slot = self._backend.open(adapter=adapter)  # type: ignore[call-arg]  # an `Adapting` one, as it has some
        self._open[slot], self._adapters[slot] = held, adapter
        return slot

    def _make_way(self, copy_of: Slot | None) -> Slot | None:
        """Move a kept slot out of the contiguous range; return the new location of ``copy_of``."""
        place = self._nearest
        if place not in self._kept:
            return copy_of
        moved = self._backend.open(place)
        self._adapters[moved] = self._adapters.pop(place)
        self._kept = {moved if slot == place else slot: held for slot, held in self._kept.items()}
        self._backend.close(place)
        return moved if copy_of == place else copy_of

    @property
    def _nearest(self) -> Slot:
        """The lowest slot not in use, which keeps those in use contiguous."""
        return next(slot for slot in map(Slot, itertools.count()) if slot not in self._open)

    def _is_near(self, slot: Slot) -> bool:
        return not self.facts.neighbours or not self._open or slot == self._nearest

    def _give_up(self, slot: Slot) -> None:
        del self._kept[slot], self._adapters[slot]
        self._backend.close(slot)

    def _is_known(self, slot: Slot, held: list[int]) -> bool:
        its = self._adapters[slot]
        return any(ids[: len(held)] == held for other, ids in self._kept.items() if self._adapters[other] == its)

    def _held(self, slot: Slot) -> list[int]:
        """The ids in a slot in use. Raises `ValueError` for a closed slot, even if it is kept."""
        if slot not in self._open:
            raise ValueError(f"slot {slot} is not open")
        return self._open[slot]
