"""How sure a mean of paired differences is, from the differences themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
    return _interval(_means(differences, np.random.default_rng(seed), resamples), level)


def stratified_bootstrap(
    groups: Sequence[ArrayLike], seed: int, resamples: int = RESAMPLES, level: float = LEVEL
) -> Interval:
    """The interval of the mean of groups' means of paired differences: each group is drawn from by itself."""
    generator = np.random.default_rng(seed)
    means_GR = np.stack([_means(differences, generator, resamples) for differences in groups])
    return _interval(means_GR.mean(axis=0), level)


def _means(differences: ArrayLike, generator: np.random.Generator, resamples: int) -> NDArray[np.float64]:
    """The means of questions that are drawn with replacement, as many as there are, one a resample."""
    values, counts = np.unique(np.asarray(differences, np.float64), return_counts=True)
    questions = counts.sum()
    at_once = max(1, _AT_ONCE // len(values))
    sums = [
        generator.multinomial(questions, counts / questions, size=min(at_once, resamples - start)) @ values
        for start in range(0, resamples, at_once)
    ]
    return np.asarray(np.concatenate(sums) / questions)


def _interval(means_R: NDArray[np.float64], level: float) -> Interval:
    low, high = np.quantile(means_R, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))
