"""What a fit makes small: pure functions of how likely pieces of answers are, with their derivatives.

Axes: N pieces, A answers, Q questions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FLATTEST, SHARPEST = 1e-3, 10.0
"""Between these a scale of log-likelihoods is looked for."""
HALVINGS = 40  # of that range, by its logarithm


@dataclass(frozen=True, slots=True, eq=False)
class Likelihood:
    """Nats a byte of the right answers."""

    share_N: Floats
    """What a piece counts; sums to the pieces a byte."""

    def __call__(self, logp_N: Floats) -> tuple[float, Floats]:
        """The loss, and its derivatives by the logarithms of the pieces' probabilities."""
        return -float(self.share_N @ logp_N), -self.share_N


@dataclass(frozen=True, slots=True, eq=False)
class Choices:
    """Nats a question of choosing its right answer: the conditional log-likelihood of a softmax over its answers.

    An answer scores the sum of its pieces' log-probabilities, times a scale that is the best for all questions (as a
    temperature calibrates a classifier: Guo et al., arXiv 1706.04599). So what is fitted is how well answers are told
    apart, and not how large their scores are.
    """

    first_A: Ints
    """The first piece of each answer; every answer has one or more, and they follow one another."""
    first_Q: Ints
    """The first answer of each question, which is its right one."""
    share_Q: Floats
    """What a question counts; sums to 1."""

    def __call__(self, logp_N: Floats) -> tuple[float, Floats]:
        """The loss, and its derivatives by the logarithms of the pieces' probabilities."""
        score_A = np.add.reduceat(logp_N, self.first_A)
        scale = self._best_scale(score_A)
        loss_Q, p_A = self._at(scale, score_A)
        count_Q, count_A = _counts(self.first_Q, len(score_A)), _counts(self.first_A, len(logp_N))
        by_score_A = np.repeat(self.share_Q, count_Q) * p_A
        by_score_A[self.first_Q] -= self.share_Q
        return float(self.share_Q @ loss_Q), np.repeat(scale * by_score_A, count_A)

    def _at(self, scale: float, score_A: Floats) -> tuple[Floats, Floats]:
        """The loss of each question, and the probability of each answer among those of its question."""
        scaled_A, counts = scale * score_A, _counts(self.first_Q, len(score_A))
        above_A = scaled_A - np.repeat(np.maximum.reduceat(scaled_A, self.first_Q), counts)
        total_Q = np.add.reduceat(np.exp(above_A), self.first_Q)
        return np.log(total_Q) - above_A[self.first_Q], np.exp(above_A) / np.repeat(total_Q, counts)

    def _best_scale(self, score_A: Floats) -> float:
        """Where the loss, which is convex in the scale, is least."""
        low, high = np.log(FLATTEST), np.log(SHARPEST)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            _, p_A = self._at(float(np.exp(middle)), score_A)
            slope_Q = np.add.reduceat(p_A * score_A, self.first_Q) - score_A[self.first_Q]
            low, high = (low, middle) if self.share_Q @ slope_Q > 0 else (middle, high)
        return float(np.exp((low + high) / 2))


Objective = Likelihood | Choices


def _counts(first: Ints, total: int) -> Ints:
    """How many each group has, by where groups begin."""
    return np.diff(first, append=total)
