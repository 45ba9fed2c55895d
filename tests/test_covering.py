"""Combinations that stand for a product hold every choice, and every meeting of as many as they are asked for."""

from __future__ import annotations

import itertools

import pytest

from support.covering import covering

AXES = (range(9), "ab", (1, 3, 8), ("off", "a", "b", "ngram", "auto"), range(3))


@pytest.mark.parametrize("together", [2, 3])
def test_any_choices_of_so_many_axes_meet_in_fewer_combinations(together: int) -> None:
    rows = covering(*AXES, together=together, whole=False)
    for some in itertools.combinations(range(len(AXES)), together):
        met = {tuple(row[axis] for axis in some) for row in rows}
        assert met == set(itertools.product(*(AXES[axis] for axis in some)))
    assert len(rows) < {2: 60, 3: 200}[together]
    assert rows == covering(*AXES, together=together, whole=False)


def test_the_whole_product_is_tried_where_that_is_wanted_or_asked_for_by_as_many_axes() -> None:
    product = list(itertools.product(*AXES))
    assert covering(*AXES, whole=True) == product
    assert covering(*AXES[:2], together=2, whole=False) == list(itertools.product(*AXES[:2]))
