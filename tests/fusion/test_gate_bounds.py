"""A gate's score of every whole distribution lies between the bounds that what is told of it gives."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from support.told import MAPS, compositions, dense, has_kept, plan, told
from unisono.fusion.bounds import kinds_of
from unisono.fusion.gate_bounds import GATE_BOUNDS
from unisono.fusion.gate_scores import GATE_KINDS


@pytest.mark.parametrize("columns", MAPS)
@pytest.mark.parametrize("kind", GATE_BOUNDS)
def test_scores_lie_within_their_bounds(kind: str, columns: tuple[int, ...]) -> None:
    kinds, settled = kinds_of([plan(columns).ids_U]), []
    for masses, k in itertools.product(compositions(7, 4), range(1, 5)):
        if not has_kept(masses, columns):
            continue
        [score] = GATE_KINDS[kind].score(dense(masses, columns)[None], [0])
        bounds = GATE_BOUNDS[kind](told(masses, columns, k), kinds)
        assert bounds.least - 1e-6 <= score <= bounds.most + 1e-6
        assert k < 4 or bounds.least == bounds.most
        for threshold in (0.0, 0.25, 0.6, 0.95, 1.0):
            if bounds.settles(threshold) and abs(score - threshold) > 1e-6:
                assert GATE_KINDS[kind].opens(bounds.least, threshold) == GATE_KINDS[kind].opens(score, threshold)
                settled.append(k < 4)
    assert np.count_nonzero(settled) > 100


def test_what_is_told_of_a_flat_distribution_settles_no_gate() -> None:
    """Two ids of one column have the most, and one of them is told: the other may have as much, or nothing."""
    kinds, masses = kinds_of([plan(MAPS[1]).ids_U]), (3, 3, 1, 1)
    row = told(masses, MAPS[1], 1)
    assert not GATE_BOUNDS["confidence"](row, kinds).settles(0.5)
    assert not GATE_BOUNDS["margin"](row, kinds).settles(0.1)
    assert GATE_BOUNDS["confidence"](told(masses, MAPS[1], 2), kinds).settles(0.5)
