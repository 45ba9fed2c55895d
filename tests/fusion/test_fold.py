"""Folding and combining: mass is kept, and the fast layout equals adding id by id."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from support.fold_cases import logits_and_maps
from unisono.fusion.fold import LONG_ROW, Scratch, bring, fold, plan_fold, softmax
from unisono.fusion.rules import mean
from unisono.fusion.sampling import greedy


def plain_fold(logits_BV: np.ndarray, column_V: np.ndarray, size: int) -> np.ndarray:
    p_BU = np.zeros((len(logits_BV), size))
    for row, logits_V in enumerate(logits_BV.astype(np.float64)):
        kept = [token for token, column in enumerate(column_V) if column >= 0]
        masses = np.exp(logits_V[kept] - logits_V[kept].max())
        for token, mass in zip(kept, masses / masses.sum(), strict=True):
            p_BU[row, column_V[token]] += mass
    return p_BU


@given(logits_and_maps())
def test_folding_equals_adding_id_by_id(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    logits_BV, column_V, size = case
    np.testing.assert_allclose(
        fold(logits_BV, plan_fold(column_V, size)), plain_fold(logits_BV, column_V, size), atol=1e-6
    )


@given(logits_and_maps())
def test_folded_distributions_sum_to_one_and_logits_are_left_alone(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    logits_BV, column_V, size = case
    before = logits_BV.copy()
    np.testing.assert_allclose(fold(logits_BV, plan_fold(column_V, size)).sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(logits_BV, before)


def test_a_dropped_id_however_likely_takes_no_mass_from_the_others() -> None:
    logits = np.array([[1.0, 300.0, 2.0]], np.float32)
    p = fold(logits, plan_fold(np.array([0, -1, 1], np.int32), 2))
    np.testing.assert_allclose(p, [[1 / (1 + np.e), np.e / (1 + np.e)]], rtol=1e-6)


def test_minus_infinity_is_no_mass() -> None:
    p = fold(np.array([[0.0, -np.inf]], np.float32), plan_fold(np.array([0, 1], np.int32), 2))
    np.testing.assert_array_equal(p, [[1, 0]])


def test_an_accelerators_path_gives_what_the_hosts_gives() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(7)
    logits_BV = rng.standard_normal((3, 50)).astype(np.float32)
    column_V = rng.integers(-1, 30, 50).astype(np.int32)
    plan = plan_fold(column_V, 30)
    tensor = torch.from_numpy(logits_BV.copy())
    on_device = fold(tensor, plan.to_device_of(tensor))
    assert isinstance(on_device, torch.Tensor)
    np.testing.assert_allclose(on_device.numpy(), fold(logits_BV, plan), atol=1e-6)
    combined = mean([bring(fold(logits_BV, plan), on_device), on_device], [0.5, 0.5])
    assert greedy(combined) == greedy(fold(logits_BV, plan))
    np.testing.assert_allclose(bring(on_device, logits_BV), fold(logits_BV, plan), atol=1e-6)


@given(
    arrays.arrays(np.float32, (3, 2, 6), elements=st.floats(0.0625, 1, width=32)),
    st.permutations([0, 1, 2]),
    st.lists(st.floats(0.1, 1), min_size=3, max_size=3),
)
def test_the_mean_keeps_mass_and_ignores_the_order_of_members(
    raw: np.ndarray, order: list[int], weights: list[float]
) -> None:
    p = [part / part.sum(axis=1, keepdims=True) for part in raw]
    w = [weight / sum(weights) for weight in weights]
    q = mean(p, w)
    np.testing.assert_allclose(q.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(q, mean([p[i] for i in order], [w[i] for i in order]), atol=1e-6)


def test_the_mean_does_not_change_what_it_was_given() -> None:
    p = [np.full((1, 4), 0.25, np.float32) for _ in range(2)]
    mean(p, [0.5, 0.5])
    assert (p[0] == 0.25).all()


def test_greedy_takes_the_lowest_column_on_a_tie() -> None:
    assert greedy(np.array([[0.2, 0.4, 0.4], [0.5, 0.5, 0.0]], np.float32)) == [1, 0]


def test_long_rows_fold_as_short_ones_do() -> None:
    rng = np.random.default_rng(2)
    width = LONG_ROW + 100
    plan = plan_fold(rng.permutation(width).astype(np.int32), width)
    logits = rng.normal(0, 4, (3, width)).astype(np.float32)
    np.testing.assert_array_equal(fold(logits, plan), np.concatenate([fold(row[None], plan) for row in logits]))


@pytest.mark.parametrize(("offset", "temperature"), [(0.0, 1.0), (1e3, 1.0), (-1e3, 1.0), (1e5, 1.0), (0.0, 0.7)])
def test_entropy_does_not_change_with_the_offset_of_logits(offset: float, temperature: float) -> None:
    logits_BV = (np.random.default_rng(3).integers(-64, 64, (2, 50_000)) / 8 + offset).astype(np.float32)
    plan = plan_fold(np.arange(50_000, dtype=np.int32), 50_000, temperature=temperature)
    found = softmax(logits_BV, plan, Scratch())
    for row, logits_V in enumerate(logits_BV.astype(np.float64) / temperature):
        p_V = np.exp(logits_V - logits_V.max())
        p_V /= p_V.sum()
        assert found.nats(row, int(logits_V.argmax())) == pytest.approx(np.dot(p_V, np.log(p_V)), abs=3e-5)


def test_a_scratch_serves_plans_of_several_widths() -> None:
    scratch = Scratch()
    wide, narrow = plan_fold(np.arange(6, dtype=np.int32), 9), plan_fold(np.zeros(6, np.int32), 2)
    logits = np.arange(6, dtype=np.float32)[None]
    for plan in (wide, narrow, wide):
        np.testing.assert_array_equal(fold(logits, plan, scratch), fold(logits, plan))
        scratch.reset()
