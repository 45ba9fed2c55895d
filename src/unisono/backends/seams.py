"""What a slot of a recurrent model keeps: the ids that it holds, and its states at some of their lengths.

A state cannot be cut back. A *seam* is a length at which a slot's state is kept. A rewind goes back to the last seam
before it, and the ids between that and the new length are read again with whatever is read next. See docs/adr/0015.
"""

from __future__ import annotations

from typing import Generic, TypeVar

State = TypeVar("State")

LONG = 16
"""Ids beyond which reading again gets a pass and a seam of its own, and the end of a block is a landmark."""
LANDMARKS = 2
"""How many ends of long blocks are kept: of prompts, and of what they have in common with earlier ones."""
INSIDE = 8
"""How many states inside the last block are kept, where a model is read token by token and they cost no pass."""
SEAMS = 2 + LANDMARKS
"""The most states that a slot keeps between two blocks."""


class Memory(Generic[State]):
    """The ids and states of one slot."""

    def __init__(self, empty: State) -> None:
        self.ids: list[int] = []
        self._states: dict[int, State] = {0: empty}
        self._landmarks: list[int] = []
        """Lengths, least recently read first."""

    def copy(self) -> Memory[State]:
        twin = Memory(self._states[0])
        twin.ids, twin._states, twin._landmarks = list(self.ids), dict(self._states), list(self._landmarks)
        return twin

    @property
    def seam(self) -> int:
        """The last length, within the ids, whose state is kept."""
        return max(self._states)

    @property
    def state(self) -> State:
        """The state at the seam."""
        return self._states[self.seam]

    @property
    def kept(self) -> int:
        """How many states are kept, the empty one aside."""
        return len(self._states) - 1

    def rewind(self, length: int) -> None:
        del self.ids[length:]
        self._states = {seam: state for seam, state in self._states.items() if seam <= length}
        self._landmarks = [seam for seam in self._landmarks if seam <= length]

    def read(self, ids: list[int], states: dict[int, State]) -> None:
        """Add ids, and the states that reading from the seam on has left, by length; drop those that are old."""
        start, before = self.seam, len(self.ids)
        self.ids += ids
        ends = sorted(states)
        long = [end for end, last in zip(ends, [start, *ends], strict=False) if end - last > LONG]
        self._landmarks = [*(seam for seam in self._landmarks if seam not in long), *long][-LANDMARKS:]
        inside = [end for end in ends if end >= before][-1 - INSIDE :]
        kept = {0, *self._landmarks, *inside, *([] if before in ends else [start])}
        self._states = {seam: state for seam, state in {**self._states, **states}.items() if seam in kept}
