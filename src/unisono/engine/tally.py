"""What a text has taken so far, in counts."""

from __future__ import annotations

from collections import Counter
from typing import Self

from unisono.records import Usage


class Tally:
    """The counts of one text. The steps raise them, and `Generation.usage` reports them."""

    def __init__(self, begun: int, prompt_tokens: dict[str, int]) -> None:
        """``begun`` is the number of pieces that the text was given to begin with."""
        self.begun = begun
        self.prompt_tokens = prompt_tokens
        self.pieces = 0
        """How many it has, those counted that it was given to begin with."""
        self.counts: Counter[int] = Counter()  # of each column
        self.ensembled = 0  # pieces at which all members were asked
        self.blocks = 0
        self.drafted = 0
        self.accepted = 0
        self.reasoned = 0  # pieces of reasoning
        self.degraded: Counter[str] = Counter()  # by member, choices that were made without it
        self.unasked: Counter[str] = Counter()  # by member, choices that were certain without it
        self.parted: int | None = None  # pieces at which the members' cuts part, of a text in bytes
        self.uncertain: int | None = None  # choices without a certificate, where any member is truncated

    @property
    def written(self) -> int:
        """How many pieces follow those that it was given to begin with."""
        return self.pieces - self.begun

    @property
    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens,
            pieces=self.written,
            ensembled=self.ensembled,
            blocks=self.blocks,
            drafted=self.drafted,
            accepted=self.accepted,
            reasoning=self.reasoned,
            uncertain=self.uncertain,
            degraded=dict(self.degraded) or None,
            unasked=dict(self.unasked) or None,
            parted=self.parted,
        )

    def _count_apart_from(self, other: Self) -> None:
        """Go on counting in counters of its own, from where another one is."""
        self.counts = other.counts.copy()
        self.degraded, self.unasked = other.degraded.copy(), other.unasked.copy()
