"""What is told of a mean without folding is what folding tells."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.fold_cases import logits_and_maps
from unisono.fusion import unfolded
from unisono.fusion.fold import Scratch, fold, plan_fold, softmax
from unisono.fusion.gate_scores import entropy
from unisono.fusion.rules import mean
from unisono.fusion.sampling import greedy
from unisono.fusion.trace_measures import variation
from unisono.fusion.unfolded import WITHIN, Unfolded, plan_joint

SIZE = 40  # columns, the last of which is END


def made(
    seed: int, voters: int, sharpness: float, temperature: float = 1.0
) -> tuple[Unfolded, list[np.ndarray], np.ndarray]:
    """A mean that is not folded, and the voters' and the combined distributions that folding makes."""
    draw = np.random.default_rng(seed)
    weights = draw.dirichlet([2] * voters).tolist()
    p_K, p_BU_K = [], []
    for _ in range(voters):
        count = int(draw.integers(20, 60))
        columns_V = draw.integers(-1, SIZE - 1, count).astype(np.int32)  # some twice, some dropped
        columns_V[draw.integers(0, count, 2)] = SIZE - 1
        plan = plan_fold(columns_V, SIZE, temperature=temperature)
        logits_BV = (draw.normal(size=(2, count)) * sharpness).astype(np.float32)
        p_BU_K.append(fold(logits_BV, plan))
        p_K.append(softmax(logits_BV, plan, Scratch()))
    return Unfolded(p_K, weights, plan_joint([p.plan for p in p_K])), p_BU_K, mean(p_BU_K, weights)


@pytest.mark.parametrize("voters", [1, 2, 3])
@pytest.mark.parametrize("sharpness", [0.0, 1.0, 8.0])
@pytest.mark.parametrize("seed", range(20))
def test_masses_are_those_of_folding_and_sums_are_to_rounding(seed: int, voters: int, sharpness: float) -> None:
    found, p_BU_K, q_BU = made(seed, voters, sharpness, temperature=1.0 if seed % 2 else 0.7)
    every = np.arange(SIZE)
    for row in range(2):
        rows = [p_BU[row] for p_BU in p_BU_K]
        assert np.array_equal(found.mean(row, every), q_BU[row])
        for k, p_U in enumerate(rows):
            assert np.array_equal(found.p_K[k].of(row, every), p_U)
            heavy = found.heavy(row, 0.05, 1)
            assert heavy is not None
            assert heavy.bound <= 0.05
            best = int(np.argmax(q_BU[row]))
            assert heavy.likeliest(1) == ((best, float(q_BU[row][best])),)
            assert heavy.masses_of(best) == [float(p_U[best]) for p_U in rows]
            for count in (1, 5):
                order = np.argsort(-p_U, kind="stable")[:count].tolist()
                wanted = [column for place, column in enumerate(order) if not place or p_U[column] >= 0.05]
                assert heavy.top(k, count, 0.05) == tuple((column, float(p_U[column])) for column in wanted)
        order = np.argsort(-q_BU[row], kind="stable")[:10].tolist()
        heavy = found.heavy(row, 1e-3, 10)
        assert heavy is None or heavy.likeliest(10) == tuple((column, float(q_BU[row][column])) for column in order)
        assert heavy is not None or np.sort(q_BU[row])[-10] < 1e-9
        nats, apart = found.spread(row, within=0)
        assert nats == pytest.approx(entropy(q_BU[row : row + 1], ())[0], abs=2e-5)
        assert apart == pytest.approx(variation(rows), abs=2e-6)


@given(st.lists(logits_and_maps(), min_size=1, max_size=3), st.sampled_from([(0.2, 0.5, 0.3), (1 / 3, 1 / 3, 1 / 3)]))
def test_the_shorter_way_to_the_most_likely_piece_is_the_long_one_to_the_bit(
    cases: list[tuple[np.ndarray, np.ndarray, int]], shares: tuple[float, ...]
) -> None:
    rows, size = min(len(logits) for logits, _, _ in cases), max(size for _, _, size in cases)
    plans = [plan_fold(np.where(column_V == width - 1, size - 1, column_V), size) for _, column_V, width in cases]
    logits_K = [np.round(logits[:rows]) for logits, _, _ in cases]  # rounded: many are equal
    weights = shares[: len(cases)]
    q_BU = mean([fold(logits, plan) for logits, plan in zip(logits_K, plans, strict=True)], weights)
    p_K = [softmax(logits, plan, Scratch()) for logits, plan in zip(logits_K, plans, strict=True)]
    assert [Unfolded(p_K, weights, plan_joint(plans)).likeliest(row) for row in range(rows)] == greedy(q_BU)
    for p, plan, logits in zip(p_K, plans, logits_K, strict=True):
        own = [[p.at(row, column) for column in range(size)] for row in range(rows)]
        np.testing.assert_array_equal(own, fold(logits, plan))


def test_the_shorter_way_is_not_taken_where_distributions_are_flat_or_no_numbers() -> None:
    plan = plan_fold(np.arange(500, dtype=np.int32), 500)
    for logits in (np.zeros((1, 500), np.float32), np.full((1, 500), np.nan, np.float32)):
        assert Unfolded([softmax(logits, plan, Scratch())], [1.0], plan_joint([plan])).likeliest(0) is None


@pytest.mark.parametrize("weight", [1e-40, 1e-200])
def test_a_member_of_almost_no_weight_decides_nothing(weight: float) -> None:
    plan = plan_fold(np.arange(3, dtype=np.int32), 3)
    p_K = [softmax(np.array([logits], np.float32), plan, Scratch()) for logits in ([9, 0, 0], [0, 0, 1])]
    assert Unfolded(p_K, [weight, 1.0], plan_joint([plan] * 2)).likeliest(0) == 2


@pytest.mark.parametrize("sharpness", [1.0, 3.0, 9.0])
def test_spread_leaves_out_what_moves_it_by_less_than_is_said(sharpness: float) -> None:
    """Of long rows, which share most of their columns, as those of two models do."""
    draw = np.random.default_rng(int(sharpness))
    size = 30_000
    plans = [plan_fold(draw.permutation(size)[:count].astype(np.int32), size) for count in (20_000, 30_000, 9_000)]
    common_U = draw.normal(size=size) * sharpness
    logits_K = [
        (common_U[plan.column_V] + draw.normal(size=len(plan.column_V)))[None].astype(np.float32) for plan in plans
    ]
    p_K = [softmax(logits_BV, plan, Scratch()) for logits_BV, plan in zip(logits_K, plans, strict=True)]
    weights = [0.5, 0.3, 0.2]
    found = Unfolded(p_K, weights, plan_joint(plans))
    rows = [fold(logits_BV, plan)[0] for logits_BV, plan in zip(logits_K, plans, strict=True)]
    wanted = entropy(mean([p_U[None] for p_U in rows], weights), ())[0], variation(rows)
    assert found.spread(0, within=0) == pytest.approx(wanted, abs=5e-5)
    nats, apart = found.spread(0)
    assert apart - wanted[1] == pytest.approx(WITHIN / 2, abs=WITHIN / 2 + 1e-5)  # what is left out parts them
    assert nats == pytest.approx(wanted[0], abs=WITHIN * (1 - np.log(WITHIN)))


def test_flat_distributions_are_left_to_folding(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _, _ = made(1, 2, 0.0)
    monkeypatch.setattr(unfolded, "MANY", 3)
    assert found.heavy(0, 1e-3, 10) is None


def test_ids_that_are_dropped_may_have_no_logit() -> None:
    columns_V = np.array([0, 1, -1, SIZE - 1], np.int32)
    plan = plan_fold(columns_V, SIZE)
    logits_BV = np.array([[1.0, 2.0, -np.inf, 0.5]], np.float32)
    found = Unfolded([softmax(logits_BV, plan, Scratch())], [1.0], plan_joint([plan]))
    assert found.spread(0, within=0)[0] == pytest.approx(entropy(fold(logits_BV, plan), ())[0], abs=1e-6)
