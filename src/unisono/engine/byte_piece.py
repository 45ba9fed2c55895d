"""A piece of a text in bytes while it is written: what is told of it when it is whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from unisono.engine.byte_cursor import Following
from unisono.step_records import GateReading

Cuts = Mapping[str, Sequence[tuple[Following, float]]]
"""By member, what it would have written at the beginning of a piece."""


class ByteChoice(NamedTuple):
    """What was written: a piece, or a mark or END by its place among the classes."""

    following: Following
    walked: int
    """How many of its bytes were chosen one by one; 0 where the cuts agreed."""
    p: float
    """Its combined probability; of a cut that agreed, of two classes: it, or anything else."""
    p_by_member: Mapping[str, float]
    """By member that was asked."""
    cuts: Cuts
    """In a trace only."""
    winners: tuple[str, ...]
    """The members that would have written each of its bytes, had they been alone; in a trace only."""
    gate: GateReading | None


class PieceInMaking:
    """The bytes of a piece, how likely they are, and who would have written them."""

    def __init__(self, cuts: Cuts) -> None:
        self.data = bytearray()
        self.walked = 0
        self._p = 1.0
        self._p_by_member: dict[str, float] = {}
        self._winners: set[str] | None = None
        self._cuts = cuts

    def count(self, p: float, p_by_member: Mapping[str, float], winners: Iterable[str]) -> None:
        """Count a byte or a cut in: its probabilities, and the members that would have written it."""
        self._p *= p
        self._p_by_member = {name: its * self._p_by_member.get(name, 1.0) for name, its in p_by_member.items()}
        self._winners = set(winners) if self._winners is None else self._winners & set(winners)

    def choice(self, gate: GateReading | None, place: int | None = None) -> ByteChoice:
        """What was written: the bytes, or the mark or END at a place among the classes."""
        return ByteChoice(
            bytes(self.data) if place is None else place,
            self.walked,
            self._p,
            self._p_by_member,
            self._cuts,
            tuple(name for name in self._p_by_member if name in (self._winners or ())),
            gate,
        )
