"""What every backend checks before it computes: the rules for feeds and for rewinding of `unisono.backends.base`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from unisono.backends.base import BackendFacts, Feed, Slot


def check_feeds(feeds: Sequence[Feed], length_of: Callable[[Slot], int], facts: BackendFacts) -> list[int]:
    """Return how many tokens each feed's slot holds; ``length_of`` refuses a slot that is not open.

    Raises `ValueError` for a feed that breaks the rules. Ids are left to `check_ids`, or to a faster check.
    """
    lengths = [length_of(feed.slot) for feed in feeds]
    if len({feed.slot for feed in feeds}) < len(feeds):
        raise ValueError("a slot is fed twice in one call")
    for feed, length in zip(feeds, lengths, strict=True):
        size = len(feed.ids)
        if not size:
            raise ValueError(f"slot {feed.slot} is fed nothing")
        if not 0 <= feed.wanted <= size:
            raise ValueError(f"{feed.wanted} distributions are wanted of {size} tokens")
        if length + size > facts.context:
            raise ValueError(
                f"slot {feed.slot} holds {length} tokens; {size} more exceed its context of {facts.context}"
            )
    return lengths


def check_ids(feeds: Sequence[Feed], rows: int) -> None:
    """Raise `ValueError` when an id is not among a model's ``rows``."""
    for feed in feeds:
        for odd in (min(feed.ids), max(feed.ids)):
            if not 0 <= odd < rows:
                raise ValueError(f"slot {feed.slot} is fed the id {odd}, which is not among the model's 0 … {rows - 1}")


def check_rewind(slot: Slot, held: int, length: int) -> None:
    """Raise `ValueError` when a slot that holds ``held`` tokens cannot be rewound to ``length``."""
    if not 0 <= length <= held:
        raise ValueError(f"slot {slot} holds {held} tokens and cannot be rewound to {length}")
