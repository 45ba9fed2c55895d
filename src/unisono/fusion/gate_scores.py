"""Gate scores: what a gate measures of the lead's distribution, and which scores open it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from array_api_compat import array_namespace

from unisono.fusion.fold import Array

Score = Callable[[Array, Sequence[int]], list[float]]
"""``(p_BU of the lead, the position of each row's next piece) -> score_B``."""


@dataclass(frozen=True, slots=True)
class GateKind:
    """A way to decide: a score, and which scores open the gate."""

    score: Score
    opens: Callable[[float, float], bool]
    """``(score, parameter)``: whether the others are asked."""
    parameter: str
    """Which key of the spec gives the parameter: ``threshold`` or ``n``."""
    low: float
    high: float
    meaning: str


def confidence(p_BU: Array, positions: Sequence[int]) -> list[float]:
    """The largest mass, from 0 to 1 (GaC with a threshold, arXiv 2406.12585, section 3.4)."""
    return [float(mass) for mass in array_namespace(p_BU).max(p_BU, axis=1)]


def margin(p_BU: Array, positions: Sequence[int]) -> list[float]:
    """The largest mass less the second largest, from 0 to 1 (margin sampling: Scheffer et al., IDA 2001)."""
    xp = array_namespace(p_BU)
    scores = []
    for p_U, top in zip(p_BU, xp.argmax(p_BU, axis=1), strict=True):
        sides = [float(xp.max(side)) for side in (p_U[: int(top)], p_U[int(top) + 1 :]) if side.shape[0]]
        scores.append(float(p_U[int(top)]) - max(sides, default=0.0))
    return scores


def entropy(p_BU: Array, positions: Sequence[int]) -> list[float]:
    """The entropy ``-Σ p log p``, in nats (entropy sampling: Settles, 2009, section 3.1)."""
    xp = array_namespace(p_BU)
    tiny = 1e-30  # 0 log 0 is 0
    # Row by row: temporary arrays of a whole batch would cost more in page faults than the logarithms do.
    totals = [float(xp.sum(p_U * xp.log(p_U + tiny))) for p_U in p_BU]
    return [max(0.0, -total) for total in totals]  # a mass that rounding left above 1 has none


def position(p_BU: Array, positions: Sequence[int]) -> list[float]:
    """How many pieces the text has already; the distribution is not looked at."""
    return [float(place) for place in positions]


def nothing(p_BU: Array, positions: Sequence[int]) -> list[float]:
    return [0.0] * len(positions)


GATE_KINDS: dict[str, GateKind] = {
    "always": GateKind(nothing, lambda score, _: True, "", 0, 0, "at every step"),
    "confidence": GateKind(
        confidence, operator.le, "threshold", 0, 1, "where the lead's largest mass is at most the threshold"
    ),
    "margin": GateKind(
        margin, operator.le, "threshold", 0, 1, "where the lead's two largest masses differ by the threshold at most"
    ),
    "entropy": GateKind(
        entropy, operator.ge, "threshold", 0, 20, "where the lead's entropy is at least the threshold, in nats"
    ),
    "every": GateKind(position, lambda place, n: place % n == 0, "n", 1, 2**31, "at the first of every n pieces"),
    "first": GateKind(position, operator.lt, "n", 0, 2**31, "at the first n pieces"),
    "certain": GateKind(nothing, lambda score, _: True, "", 0, 0, "until those that are left cannot change the choice"),
}
"""By the name that a spec's ``gate`` uses."""
