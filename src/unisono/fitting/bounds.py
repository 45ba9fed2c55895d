"""Parameters at the ends of what a fit tries: answers ask for more than that, or are too few to settle them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from unisono.fusion.fitting import NODES, Shape

COOLEST, HOTTEST = 0.01, 100.0
"""What a member's temperature may be."""
LEAST = 0.001
"""The least weight that is written: a member of less would be no member, and could not lead."""
LEAST_PRIOR = 1e-6
"""The least that a calibration divides by."""
NEAR = 1e-3
"""How near to an end, relative to it, a temperature is at it: the search ends where a step gains next to nothing."""


@dataclass(frozen=True, slots=True)
class AtBound:
    """A parameter that was fitted to the lowest or highest value that a fit tries, so that its place is not known."""

    member: str
    parameter: str
    """``weight``, ``temperature``, or ``calibrate`` with the answer in quotes."""
    value: float
    """What is written into the ensemble file."""
    bound: Literal["lowest", "highest"]


def bounded_temperature(before: float, factor: float) -> float:
    """What a member's temperature becomes, by what it was and what was fitted."""
    return min(HOTTEST, max(COOLEST, round(before * factor, 4)))


def at_bounds(
    names: Sequence[str], shape: Shape, temperatures: Sequence[float], priors: Mapping[str, Mapping[str, float]]
) -> tuple[AtBound, ...]:
    """What of a fit is at a bound.

    Args:
        names: the members.
        shape: what was fitted; its temperatures multiply those that members had.
        temperatures: what is written, by member.
        priors: what members are calibrated by, where that was measured.
    """
    return tuple(_found(names, shape, temperatures, priors))


def _found(
    names: Sequence[str], shape: Shape, temperatures: Sequence[float], priors: Mapping[str, Mapping[str, float]]
) -> Iterator[AtBound]:
    coolest, hottest = 1 / NODES[-1], 1 / NODES[0]
    for place, name in enumerate(names):
        if shape.weight_K[place] <= LEAST:
            yield AtBound(name, "weight", LEAST, "lowest")
        factor, written = shape.temperature_K[place], temperatures[place]
        if factor >= hottest * (1 - NEAR) or (factor > 1 and written == HOTTEST):
            yield AtBound(name, "temperature", written, "highest")
        elif factor <= coolest * (1 + NEAR) or (factor < 1 and written == COOLEST):
            yield AtBound(name, "temperature", written, "lowest")
        for answer, prior in priors.get(name, {}).items():
            if prior <= LEAST_PRIOR:
                yield AtBound(name, f"calibrate {answer!r}", prior, "lowest")
