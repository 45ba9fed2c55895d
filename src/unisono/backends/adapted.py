"""A model's backend as the members of one adapter see it: every slot that they open has the adapter (docs/adr/0029)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from unisono.backends.base import Array, Backend, Feed, Slot
from unisono.backends.prefix_cache import PrefixCache
from unisono.backends.top_logprobs import TopLogprobs


class Adapting(Backend, Protocol):
    """A backend whose slots can have an adapter, by the name that its `LoadRequest` has for it."""

    def open(self, copy_of: Slot | None = None, *, adapter: str | None = None) -> Slot:
        """Open a slot; the adapter of a copy is that of its source."""
        ...


class Adapted:
    """A view of a backend. Slots and passes are those of the backend behind it, and so is its memory."""

    def __init__(self, behind: Adapting, adapter: str) -> None:
        self.behind = behind
        self.facts = behind.facts
        self.adapter = adapter

    def open(self, copy_of: Slot | None = None) -> Slot:
        return self.behind.open(adapter=self.adapter) if copy_of is None else self.behind.open(copy_of)

    def resume(self, ids: Sequence[int]) -> tuple[Slot, int]:
        """As `PrefixCache.resume`, among slots of this adapter."""
        assert isinstance(self.behind, PrefixCache)
        return self.behind.resume(ids, adapter=self.adapter)

    def advance(self, feeds: Sequence[Feed]) -> Array | TopLogprobs:
        """One pass, also over slots of other members of the model."""
        return self.behind.advance(feeds)

    def rewind(self, slot: Slot, length: int) -> None:
        self.behind.rewind(slot, length)

    def close(self, slot: Slot) -> None:
        self.behind.close(slot)

    def discard(self, slot: Slot) -> None:
        assert isinstance(self.behind, PrefixCache)
        self.behind.discard(slot)

    def limit(self, ids: int) -> None:
        assert isinstance(self.behind, PrefixCache)
        self.behind.limit(ids)

    def unload(self) -> None:
        self.behind.unload()
