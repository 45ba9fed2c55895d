"""What ended texts have read is kept while nobody needs their slots: a prompt that begins alike goes on from there.

A chat sends all its turns again with each question, and many requests begin with the same system prompt. A
`PrefixCache` stands between the engine and a backend, and is a backend itself: a slot that is closed stays open
below, with the ids that it holds, until its place is needed. What a slot holds the store knows from what it has
seen go in, so that nothing rests on what others remember.

Nothing of it changes what is written: a slot rewound to a common prefix is, by the waist's contract, as good as
one that has read that prefix.

Where a backend computes slots that follow one another faster (`BackendFacts.neighbours`), those in use are kept
together: what is kept in between moves away.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from unisono.backends.base import Array, Backend, Feed, Slot


class PrefixCache:
    """A backend that remembers. It is one for all members that share the model."""

    def __init__(self, backend: Backend, *, shortest: int = 16) -> None:
        """Wrap a backend that nobody uses yet.

        Args:
            backend: whose slots are kept.
            shortest: a common beginning of fewer ids is read anew: copying a slot costs something too.
        """
        self.facts = backend.facts
        self.reused = 0
        """Ids that did not have to be read, so far."""
        self._backend = backend
        self._shortest = shortest
        self._open: dict[Slot, list[int]] = {}
        """What each slot in use holds."""
        self._kept: dict[Slot, list[int]] = {}
        """What each closed slot still holds, the one that was least recently used first."""
        self._spoiled: set[Slot] = set()
        """Slots in which a pass has failed. They are not kept, whatever they hold."""

    @property
    def kept(self) -> int:
        """How many ids are held for nobody in particular."""
        return sum(len(held) for held in self._kept.values())

    def open(self, copy_of: Slot | None = None) -> Slot:
        """Take a slot; what is kept gives way. See `unisono.backends.base.Backend`."""
        held = [] if copy_of is None else list(self._held(copy_of))
        slot = self._take(copy_of, held)
        if copy_of in self._spoiled:
            self._spoiled.add(slot)
        return slot

    def resume(self, ids: Sequence[int]) -> tuple[Slot, int]:
        """Take a slot that holds as many of a prompt's ids as any does, the last never among them.

        A kept slot is taken over where that loses nothing, or where all slots are taken and the one to be given up for
        a copy would lose more; otherwise it is copied, and so is a slot that somebody uses.

        Returns:
            The slot, and how many ids it holds.
        """
        ids = list(ids)
        known = {**self._open, **self._kept}
        lengths = {slot: common(ids, held) for slot, held in known.items() if slot not in self._spoiled}
        # of slots that share as much, rather one that can be taken over, and that holds little beside
        source = max(lengths, key=lambda slot: (lengths[slot], slot in self._kept, -len(known[slot])), default=None)
        if source is None or min(lengths[source], len(ids) - 1) < max(1, self._shortest):
            return self.open(), 0
        length, held = min(lengths[source], len(ids) - 1), known[source]
        if source in self._kept and self._is_to_be_taken_over(source, lost=len(held) - lengths[source]):
            slot = source
            self._open[slot] = self._kept.pop(source)
        else:
            if source in self._kept:
                self._kept[source] = self._kept.pop(source)  # now the most recently used
            slot = self._take(source, list(held))
        try:
            self.rewind(slot, length)
        except BaseException:
            self.discard(slot)
            raise
        self.reused += length
        return slot, length

    def advance(self, feeds: Sequence[Feed]) -> Array:
        """Read every feed in one batched forward pass. See `unisono.backends.base.Backend`."""
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
        """Forget all but the first ``length`` tokens of a slot. See `unisono.backends.base.Backend`."""
        held = self._held(slot)
        self._backend.rewind(slot, length)
        del held[length:]

    def close(self, slot: Slot) -> None:
        """Give a slot back; what it holds is kept, if it is worth it and no other slot holds as much."""
        held = self._held(slot)
        if slot in self._spoiled or len(held) < max(1, self._shortest) or self._is_known(held):
            self.discard(slot)
            return
        del self._open[slot]
        for other, ids in list(self._kept.items()):
            if held[: len(ids)] == ids:
                self._give_up(other)
        self._kept[slot] = held

    def discard(self, slot: Slot) -> None:
        """Give a slot back whose content nobody will want. Raises `ValueError` when it is not open."""
        self._held(slot)
        del self._open[slot]
        self._spoiled.discard(slot)
        self._backend.close(slot)

    def limit(self, ids: int) -> None:
        """Give up what was least recently used until no more than this many ids are kept."""
        while self.kept > max(0, ids):
            self._give_up(next(iter(self._kept)))

    def unload(self) -> None:
        """Free the model. Idempotent."""
        self._kept.clear()
        self._backend.unload()

    @property
    def _is_full(self) -> bool:
        return len(self._open) + len(self._kept) >= self.facts.slots

    def _is_to_be_taken_over(self, source: Slot, lost: int) -> bool:
        """Whether a kept slot is better used itself than copied, if this many of its ids are then lost."""
        if self._is_full and self._kept.keys() == {source}:
            return True
        loses_least = not lost or (self._is_full and lost <= len(next(iter(self._kept.values()))))
        return loses_least and self._is_near(source)

    def _take(self, copy_of: Slot | None, held: list[int]) -> Slot:
        """Open a slot below, in place of the one that was least recently used where there is none left."""
        if self._is_full and self._kept:
            self._give_up(next(iter(self._kept)))
        if self.facts.neighbours and not self._is_full:
            copy_of = self._make_way(copy_of)
        slot = self._backend.open(copy_of)
        self._open[slot] = held
        return slot

    def _make_way(self, copy_of: Slot | None) -> Slot | None:
        """Move a kept slot out of the row of those in use; return where what is to be copied is then."""
        place = self._nearest
        if place not in self._kept:
            return copy_of
        moved = self._backend.open(place)
        self._kept = {moved if slot == place else slot: held for slot, held in self._kept.items()}
        self._backend.close(place)
        return moved if copy_of == place else copy_of

    @property
    def _nearest(self) -> Slot:
        """The lowest slot that nobody uses: those in use then follow one another."""
        return next(slot for slot in map(Slot, itertools.count()) if slot not in self._open)

    def _is_near(self, slot: Slot) -> bool:
        """Whether a slot may be used where it is."""
        return not self.facts.neighbours or not self._open or slot == self._nearest

    def _give_up(self, slot: Slot) -> None:
        del self._kept[slot]
        self._backend.close(slot)

    def _is_known(self, held: list[int]) -> bool:
        return any(ids[: len(held)] == held for ids in self._kept.values())

    def _held(self, slot: Slot) -> list[int]:
        """What a slot in use holds. Raises `ValueError` when it is not open, for all that is still open below."""
        if slot not in self._open:
            raise ValueError(f"slot {slot} is not open")
        return self._open[slot]


def common(left: Sequence[int], right: Sequence[int]) -> int:
    """How many ids two sequences begin with alike."""
    low, high = 0, min(len(left), len(right))
    while low < high:  # comparing slices is quicker than comparing ids
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
