"""How sure a mean of paired differences is, from the differences themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

LEVEL = 0.95
RESAMPLES = 10_000

_AT_ONCE = 1_000_000
"""Numbers that a bootstrap holds in memory at a time."""


@dataclass(frozen=True, slots=True)
class Interval:
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def paired_bootstrap(differences: ArrayLike, seed: int, resamples: int = RESAMPLES, level: float = LEVEL) -> Interval:
    """The interval of the mean of paired differences, one per question.

    The percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3) over
    questions; pairs stay together (Koehn, EMNLP 2004). The counts of each distinct difference among n questions drawn
    with replacement are one multinomial draw.
    """
    values, counts = np.unique(np.asarray(differences, np.float64), return_counts=True)
    questions = counts.sum()
    generator = np.random.default_rng(seed)
    at_once = max(1, _AT_ONCE // len(values))
    means = np.concatenate(
        [
            generator.multinomial(questions, counts / questions, size=min(at_once, resamples - start)) @ values
            for start in range(0, resamples, at_once)
        ]
    )
    low, high = np.quantile(means / questions, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))
