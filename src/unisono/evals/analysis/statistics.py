"""Statistics of systems that answered the same questions: pure functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unisono.fusion.resampling import LEVEL, Interval

BINS = 15
SEED = 0
"""Fixed seed of the bootstrap in reports: the same answers give the same intervals."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of similar confidence."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Calibration:
    ece: float
    """Expected calibration error over bins of equal width, from 0 to 1."""
    adaptive_ece: float
    """The same over bins of equally many answers."""
    bins: tuple[Bin, ...]
    """Non-empty bins of equal width: the points of a reliability diagram."""


def wilson(mean: float, count: int, level: float = LEVEL) -> Interval:
    """Wilson's score interval of a share (JASA 22, 1927).

    For grades between 0 and 1 it is conservative: no values with the same mean vary more than zeros and ones.
    """
    z = NormalDist().inv_cdf(0.5 + level / 2)
    shrunk = 1 + z * z / count
    centre = (mean + z * z / (2 * count)) / shrunk
    reach = z * math.sqrt(mean * (1 - mean) / count + z * z / (4 * count * count)) / shrunk
    # At 0 and 1 the ends are exactly those; rounding must not move them past the mean.
    return Interval(min(mean, max(0.0, centre - reach)), max(mean, min(1.0, centre + reach)))


def mcnemar(better: int, worse: int) -> float:
    """McNemar's test, exact and two-sided (Psychometrika 12, 1947).

    This is the sign test on the questions that only one system gets right. Integers keep it exact at any count.
    """
    discordant = better + worse
    tail, choices = 0, 1  # choices: of so many of the discordant questions
    for count in range(min(better, worse) + 1):
        tail += choices
        choices = choices * (discordant - count) // (count + 1)
    return min(1.0, tail / (1 << max(0, discordant - 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the given order: Holm's step-down method (Scand. J. Statist. 6, 1979)."""
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def calibration(confidences: ArrayLike, correct: ArrayLike, bins: int = BINS) -> Calibration:
    """Calibration of confidences and grades, both from 0 to 1.

    Bins of equal width, each open below and closed above, and the error follow Guo et al. (ICML 2017, section 2); bins
    of equally many answers follow Nixon et al. (CVPR Workshops 2019, section 3.3).
    """
    confidence_N, correct_N = np.asarray(confidences, np.float64), np.asarray(correct, np.float64)
    place_N = np.clip(np.ceil(confidence_N * bins).astype(np.int64) - 1, 0, bins - 1)
    groups = [np.flatnonzero(place_N == place) for place in range(bins)]
    order_N = np.argsort(confidence_N, kind="stable")
    equal_mass = np.array_split(order_N, min(bins, len(order_N)))
    return Calibration(
        _error(groups, confidence_N, correct_N),
        _error(equal_mass, confidence_N, correct_N),
        tuple(
            Bin(
                place / bins,
                (place + 1) / bins,
                len(group),
                float(confidence_N[group].mean()),
                float(correct_N[group].mean()),
            )
            for place, group in enumerate(groups)
            if len(group)
        ),
    )


def _error(
    groups: Sequence[NDArray[np.int64]], confidence_N: NDArray[np.float64], correct_N: NDArray[np.float64]
) -> float:
    """Σ over groups of their share times |accuracy - confidence|."""
    gaps = [abs(float((correct_N[group] - confidence_N[group]).sum())) for group in groups]
    return sum(gaps) / len(confidence_N)


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the Pareto-optimal ``(cost, gain)`` points, cheapest first; equal points are all included."""
    best = -math.inf
    front: list[int] = []
    for place in sorted(range(len(points)), key=lambda place: (points[place][0], -points[place][1], place)):
        equal = bool(front) and points[place] == points[front[-1]]
        if points[place][1] > best or equal:
            front.append(place)
            best = points[place][1]
    return front
