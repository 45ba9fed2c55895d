"""The likeliest ids of rows of logits are those of the plain way: all of them sorted, in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unisono.backends.top_logprobs import TopLogprobs
from unisono.backends.truncated import _CLASSES, top_logprobs


def hold(told: TopLogprobs, row: int, logits_V: np.ndarray, top: int, also: tuple[int, ...]) -> None:
    """Hold a row to the plain way, in which of equal ids the lowest are told."""
    logits_V = logits_V.astype(np.float64)
    p_V = np.exp(logits_V - logits_V.max())
    p_V /= p_V.sum()
    order = np.argsort(-logits_V, kind="stable").tolist()
    ids = [*order[:top], *sorted(set(also) - set(order[:top]))]
    mine = dict(zip(told.ids_NK[row].tolist(), told.logp_NK[row].tolist(), strict=True))
    assert mine.keys() - {-1} == set(ids)
    assert np.allclose([mine[token] for token in ids], np.log(p_V[ids]), rtol=1e-6, atol=2e-6)
    unseen, kth = float(np.delete(p_V, ids).sum()), float(p_V[order[top - 1]])
    assert float(told.unseen_N[row]) == pytest.approx(unseen, rel=2e-6, abs=1e-30)
    assert float(told.kth_N[row]) == pytest.approx(kth, rel=2e-6, abs=1e-30)
    in_order = told.logp_NK[row][told.ids_NK[row] >= 0]
    assert (np.diff(in_order) <= 0).all()


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    width=st.sampled_from([1, 7, _CLASSES, _CLASSES + 1, 2 * _CLASSES, 3 * _CLASSES + 17]),
    values=st.sampled_from([2, 5, 1000, None]),
    shift=st.sampled_from([0, -60, 75, 300, -1e4]),
    data=st.data(),
)
def test_the_likeliest_are_those_of_the_plain_way(
    seed: int, width: int, values: int | None, shift: float, data: st.DataObject
) -> None:
    random = np.random.default_rng(seed)
    logits_NV = (3 * random.standard_normal((2, width))).astype(np.float32)
    if values is not None:  # many are equal
        logits_NV = np.round(logits_NV * values / 10) / np.float32(values / 10)
    logits_NV += np.float32(shift)
    asked = []
    for _ in range(2):
        top = data.draw(st.integers(1, min(width, 12)) | st.integers(1, width))
        also = tuple(data.draw(st.lists(st.integers(0, width - 1), max_size=3, unique=True)))
        asked.append((top, also))
    told = top_logprobs(logits_NV, asked)
    for row, (top, also) in enumerate(asked):
        hold(told, row, logits_NV[row], top, also)


def test_ids_that_cannot_be_are_told_last_and_have_no_mass() -> None:
    logits_V = np.full(2 * _CLASSES, -np.inf, np.float32)
    logits_V[[3, 700, 1500]] = 1, 2, 3
    told = top_logprobs(logits_V[None], [(5, ())])
    assert told.ids_NK[0][:3].tolist() == [1500, 700, 3]
    assert told.kth_N[0] == 0
    assert np.exp(told.logp_NK[0]).sum() == pytest.approx(1, abs=1e-6)


def test_a_large_row_sums_to_one_within_rounding() -> None:
    logits_V = (3 * np.random.default_rng(1).standard_normal(262_144)).astype(np.float32)
    told = top_logprobs(logits_V[None], [(20, ())])
    hold(told, 0, logits_V, 20, ())
    assert float(np.exp(told.logp_NK[0].astype(np.float64)).sum() + told.unseen_N[0]) == pytest.approx(1, abs=1e-6)
