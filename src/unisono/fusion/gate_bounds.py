"""Between which bounds a gate's score of a truncated distribution lies.

So does the score of every whole distribution that agrees with what was told. `unisono.fusion.gate_scores` has the
scores themselves.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from unisono.fusion.bounds import CLOSER, NOTHING, Kinds, column_bounds
from unisono.fusion.fold_top import FoldedTop


class ScoreBounds(NamedTuple):
    least: float
    most: float
    is_exact: bool = False

    def settles(self, threshold: float) -> bool:
        """Whether all scores between the two are on one side of a threshold, or all is told."""
        return (
            self.is_exact
            or self.most <= threshold * (1 - CLOSER)
            or self.least > threshold * (1 + CLOSER)
            or threshold >= 1
        )


def confidence(told: FoldedTop, kinds: Kinds) -> ScoreBounds:
    """The largest mass: at least that of the largest told, and at most the largest that any may have."""
    _, [low_N], [high_N] = column_bounds([told], kinds)
    if told.unseen == 0:
        return _known(float(low_N.max(initial=0.0)) / max(told.most, NOTHING))
    return _bounded(low_N.max(initial=0.0) / told.most, high_N.max(initial=0.0) / max(told.least, NOTHING))


def margin(told: FoldedTop, kinds: Kinds) -> ScoreBounds:
    """The largest mass less the second largest.

    It is the least difference of the largest told to any other, if none of these may be larger; and no more than the
    largest difference of any to the largest told among the others. Differences are scaled by the end that is worse.
    """
    few, [low_N], [high_N] = column_bounds([told], kinds)
    low_N, high_N = low_N[np.argsort(-low_N)], high_N[np.argsort(-low_N)]
    if told.unseen == 0:
        return _known(float(low_N[0] - (low_N[1] if len(low_N) > 1 else 0)) / max(told.most, NOTHING))
    second = low_N[1] if len(few) > 1 else 0.0
    first = low_N[0] if len(few) else 0.0
    least = (first - high_N[1:].max(initial=0.0)) / told.most
    most = max(high_N[0] - second, (high_N[1:] - first).max(initial=0.0)) / max(told.least, NOTHING)
    return _bounded(least, most)


GATE_BOUNDS = {"confidence": confidence, "margin": margin}
"""By the name of a gate that looks at the lead's distribution; others have no sound bounds, or look at none."""


def _known(score: float) -> ScoreBounds:
    return ScoreBounds(score, score, True)


def _bounded(least: float, most: float) -> ScoreBounds:
    return ScoreBounds(max(0.0, float(least)), min(1.0, float(most)))
