"""Checks what a backend is asked for: its feeds, their ids, the length of a rewind."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from unisono.backends.base import BackendFacts, Feed, Slot, Truncation


def check_feeds(feeds: Sequence[Feed], length_of: Callable[[Slot], int], facts: BackendFacts) -> list[int]:
    """Return the length of each feed's slot. Raises `ValueError` for invalid feeds; ids are not checked."""
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
    """Raise `ValueError` for an id outside 0 to ``rows - 1``."""
    for feed in feeds:
        for odd in (min(feed.ids), max(feed.ids)):
            if not 0 <= odd < rows:
                raise ValueError(f"slot {feed.slot} is fed the id {odd}, which is not among the model's 0 … {rows - 1}")


def check_top(feeds: Sequence[Feed], rows: int, truncated: Truncation) -> None:
    """Raise `ValueError` for a feed that asks a truncated backend for more than it tells."""
    for feed in feeds:
        if not 0 <= feed.top <= truncated.most:
            raise ValueError(f"slot {feed.slot}: {feed.top} likeliest ids are asked for, of {truncated.most} at most")
        if len(feed.also) > truncated.also:
            raise ValueError(f"slot {feed.slot}: {len(feed.also)} ids are asked for, of {truncated.also} at most")
        if len(set(feed.also)) < len(feed.also) or any(not 0 <= token < rows for token in feed.also):
            raise ValueError(f"slot {feed.slot}: the ids asked for are not different ones among 0 … {rows - 1}")


def check_rewind(slot: Slot, held: int, length: int) -> None:
    """Raise `ValueError` unless a slot of ``held`` tokens can be rewound to ``length``."""
    if not 0 <= length <= held:
        raise ValueError(f"slot {slot} holds {held} tokens and cannot be rewound to {length}")
