"""What truncated members do not tell is filled up: rows are whole, and off by no more than the unseen mass."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from support.told import MAPS, compositions, dense, has_kept, plan, told
from unisono.fusion.bounds import Whole
from unisono.fusion.completion import complete, unseen_share

WAYS = [*compositions(5, 4)][::5]


def distance(p_U: np.ndarray, r_U: np.ndarray) -> float:
    """Total variation."""
    return float(np.abs(p_U - r_U).sum() / 2)


@pytest.mark.parametrize("columns", MAPS)
def test_a_row_is_off_by_its_unseen_share_at_most(columns: tuple[int, ...]) -> None:
    other, exact = Whole(np.array([0.1, 0.2, 0.3, 0.4, 0.0])), 0
    for masses, k, voters in itertools.product(compositions(7, 4), range(1, 5), (1, 2)):
        if has_kept(masses, columns):
            row, p_U = told(masses, columns, k), dense(masses, columns)
            found_U = complete([row, other][:voters], [0.5, 0.5][:voters])[0]
            assert found_U.dtype == np.float32
            assert found_U.sum() == pytest.approx(1, abs=1e-6)
            assert not found_U[plan(columns).ids_U == 0].any()
            assert distance(found_U, p_U) <= unseen_share(row) + 1e-6
            exact += k == 4 and distance(found_U, p_U) < 1e-6
    assert exact > 50


@pytest.mark.parametrize(("left", "right"), [(0, 1), (1, 2), (3, 4)])
def test_the_mean_is_off_by_the_mean_of_unseen_shares_at_most(left: int, right: int) -> None:
    columns_K, weights = (MAPS[left], MAPS[right]), (0.7, 0.3)
    for *masses_K, k in itertools.product(WAYS, WAYS, range(1, 4)):
        pairs = list(zip(masses_K, columns_K, strict=True))
        if all(has_kept(*pair) for pair in pairs):
            rows = [told(*pair, k) for pair in pairs]
            found_K = complete(rows, weights)
            q_U = sum(weight * p_U for weight, p_U in zip(weights, found_K, strict=True))
            true_U = sum(weight * dense(*pair) for weight, pair in zip(weights, pairs, strict=True))
            bound = sum(weight * unseen_share(row) for weight, row in zip(weights, rows, strict=True))
            assert distance(q_U, true_U) <= bound + 1e-6


def test_what_is_not_told_takes_the_others_shape_where_the_member_has_ids() -> None:
    """The member has no id of column 3, and column 0 is told."""
    row = told((5, 3, 1, 1), MAPS[0], 1)
    found_U, other_U = complete([row, Whole(np.array([0.5, 0.2, 0.1, 0.1, 0.1]))], [0.5, 0.5])
    assert found_U == pytest.approx([0.5, 0.25, 0.125, 0, 0.125], abs=1e-6)
    assert other_U == pytest.approx([0.5, 0.2, 0.1, 0.1, 0.1])
    [alone_U] = complete([row], [1.0])
    assert alone_U == pytest.approx([1, 0, 0, 0, 0])
