"""Every outcome of random choices with its exact probability: enumeration in place of lucky seeds.

The engine takes all its randomness from `RandomNumbers`, some numbers for each place of a text and purpose, and asks
of each only whether it is below a share. Here a number is not drawn but stands for an interval, at first all of 0 to
1. Where a share lies within it, the run goes on with the part below and the other part waits for a run of its
own. So every run is one box of numbers all of which write the same text, the boxes of all runs fill the cube, and the
probability of a text is the volume of its boxes, whatever the order in which numbers are looked at, and however often
one is looked at again.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Hashable
from typing import NamedTuple, TypeVar

import pytest

from unisono.engine import byte_walk, reference, voting
from unisono.fusion.sampling import Purpose, RandomNumbers

GRAIN = 1e-12
"""Edges nearer to one another than this are one: float64 cannot tell what lies between."""


class Number(NamedTuple):
    """Stands for a uniform number of one place in one text."""

    seed: int
    position: int
    purpose: Purpose
    again: int
    index: int


Box = dict[Number, tuple[float, float]]
Outcome = TypeVar("Outcome", bound=Hashable)


class Enumeration(dict[Outcome, float]):
    """What can come out, and how likely that is."""

    def __init__(self, run: Callable[[], Outcome]) -> None:
        """Run again and again, until all numbers have been tried.

        Args:
            run: something that takes numbers from the engine's `RandomNumbers`, and returns what came out.
        """
        super().__init__()
        self.runs = 0
        found: defaultdict[Outcome, list[float]] = defaultdict(list)
        self._waiting: list[Box] = [{}]
        with pytest.MonkeyPatch.context() as patch:
            for module in (voting, reference, byte_walk):
                patch.setattr(module, "RandomNumbers", functools.partial(_Enumerated, self._below))
            while self._waiting:
                self._box = self._waiting.pop()
                self.runs += 1
                found[run()].append(math.prod(high - low for low, high in self._box.values()))
        self.update((outcome, math.fsum(volumes)) for outcome, volumes in found.items())
        assert math.fsum(self.values()) == pytest.approx(1, abs=1e-9), "the boxes fill the cube"

    def _below(self, number: Number, share: float) -> bool:
        """Whether a number is below a share, in the part of its interval that this run is about."""
        low, high = self._box.get(number, (0.0, 1.0))
        if low + GRAIN < share < high - GRAIN:
            self._waiting.append({**self._box, number: (share, high)})
            high = share
        self._box[number] = low, high
        return (low + high) / 2 < share


class _Enumerated(RandomNumbers):
    """The numbers of a place, none of which is drawn."""

    def __init__(
        self, answer: Callable[[Number, float], bool], seed: int, position: int, purpose: Purpose, again: int = 0
    ) -> None:
        self._answer = answer
        self._place = seed, position, purpose, again
        self._asked = 0

    def below(self, part: float, whole: float) -> bool:
        self._asked += 1
        return self._answer(Number(*self._place, self._asked), float(part) / float(whole) if whole > 0 else 0.0)
