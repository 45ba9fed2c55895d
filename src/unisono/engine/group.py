"""The sequences of one request: the first reads the prompt, the others are copies of it."""

from __future__ import annotations

from collections.abc import Sequence

from unisono.engine.member import Member
from unisono.engine.sequence import SEEDS, TextSequence, copy_sequence


class SequenceGroup:
    """The sequences of one request: the first reads the prompt, the others are copies of it with further seeds."""

    def __init__(self, first: TextSequence, n: int, slots_of_each: int = 1) -> None:
        """Of ``n`` sequences each may take so many slots of each member."""
        self.n = n
        self._slots_of_each = slots_of_each
        self.sequences = [first]
        """Those that were asked for, in the order of their seeds; more come once the prompt has been read."""
        self.awaited: set[str] = set()
        """The members that have to read on in it (`Prefill`) before steps advance it."""
        self._open = [first]

    @property
    def open(self) -> list[TextSequence]:
        """The sequences that members read and that hold slots."""
        return self._open

    @property
    def slots(self) -> int:
        """How many slots it may still take of each member."""
        return (len(self._open) + self.n - len(self.sequences)) * self._slots_of_each

    @property
    def is_finished(self) -> bool:
        return len(self.sequences) == self.n and all(sequence.finish is not None for sequence in self.sequences)

    def fork(self, members: Sequence[Member]) -> None:
        """Add the sequences that are missing, as copies of the first, whose prompt has been read. They have slots."""
        first = self.sequences[0]
        while len(self.sequences) < self.n:
            twin = copy_sequence(first, members, (first.seed + len(self.sequences)) % SEEDS)
            self.sequences.append(twin)
            self._open.append(twin)

    def take_ended(self) -> list[TextSequence]:
        """Return the sequences that have ended and still have slots; they no longer count as open."""
        ended = [sequence for sequence in self._open if sequence.finish is not None]
        self._open = [sequence for sequence in self._open if sequence.finish is None]
        return ended
