"""Every outcome of random choices with its exact probability: enumeration in place of lucky seeds.

The engine takes all its randomness from `uniform`, a number for each place of a text and purpose, and
looks at these numbers only in `inverse_transform` and `accepts`, both of which are constant between
finitely many edges. Here a number is not drawn but stands for an interval, at first all of 0 to 1. Where
an edge lies within it, the run goes on with the part before the first edge and the other parts wait for
runs of their own. So every run is one box of numbers all of which write the same text, the boxes of all
runs fill the cube, and the probability of a text is the volume of its boxes, whatever the order in which
numbers are looked at, and however often one is looked at again.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pytest

from unisono.engine import reference, sampler, step_state
from unisono.fusion import sampling as sample
from unisono.fusion.sampling import Purpose

GRAIN = 1e-12
"""Edges nearer to one another than this are one: float64 cannot tell what lies between."""


class Number(NamedTuple):
    """Stands for the uniform number of one place in one text."""

    seed: int
    position: int
    purpose: Purpose


Box = dict[Number, tuple[float, float]]
Outcome = TypeVar("Outcome", bound=Hashable)


class Enumeration(dict[Outcome, float]):
    """What can come out, and how likely that is."""

    def __init__(self, run: Callable[[], Outcome]) -> None:
        """Run again and again, until all numbers have been tried.

        Args:
            run: something that takes numbers from the engine's `uniform`, and returns what came out.
        """
        super().__init__()
        self.runs = 0
        found: defaultdict[Outcome, list[float]] = defaultdict(list)
        self._waiting: list[Box] = [{}]
        with pytest.MonkeyPatch.context() as patch:
            for module in (step_state, reference):
                patch.setattr(module, "uniform", Number)
            for module in (step_state, sampler, reference):
                patch.setattr(module, "inverse_transform", self._inverse_transform)
            for module in (sampler, reference):
                patch.setattr(module, "accepts", self._accepts)
            while self._waiting:
                self._box = self._waiting.pop()
                self.runs += 1
                found[run()].append(math.prod(high - low for low, high in self._box.values()))
        self.update((outcome, math.fsum(volumes)) for outcome, volumes in found.items())
        assert math.fsum(self.values()) == pytest.approx(1, abs=1e-9), "the boxes fill the cube"

    def _inverse_transform(self, q_BU: Any, numbers: Sequence[Number]) -> list[int]:
        columns = []
        for q_U, number in zip(q_BU, numbers, strict=True):
            reached = np.cumsum(np.asarray(q_U, np.float64))
            draw = lambda value, q_U=q_U: sample.inverse_transform(q_U[None], [value])[0]  # noqa: E731
            columns.append(self._look(number, reached / reached[-1], draw))
        return columns

    def _accepts(self, p_U: Any, q_U: Any, column: int, number: Number) -> bool:
        edge = float(q_U[column]) / float(p_U[column])
        return self._look(number, [edge], lambda value: sample.accepts(p_U, q_U, column, value))

    def _look(self, number: Number, edges: Any, outcome: Callable[[float], Any]) -> Any:
        """What a number makes of the real function, in the part of its interval before the first edge."""
        low, high = self._box.get(number, (0.0, 1.0))
        cuts = [low]
        for edge in np.asarray(edges, np.float64).tolist():
            if cuts[-1] + GRAIN < edge < high - GRAIN:
                cuts.append(edge)
        parts = list(zip(cuts, [*cuts[1:], high], strict=True))
        self._waiting += [{**self._box, number: part} for part in parts[1:]]
        self._box[number] = low, high = parts[0]
        margin = (high - low) / 1000
        first, last = outcome(low + margin), outcome(high - margin)
        assert first == last, f"{number} gives {first} and {last} between {low} and {high}"
        return first
