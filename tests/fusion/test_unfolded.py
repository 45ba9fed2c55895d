"""What is told of a mean without folding is what folding tells."""

from __future__ import annotations

import numpy as np
import pytest

from unisono.fusion import unfolded
from unisono.fusion.fold import Scratch, fold, plan_fold, softmax
from unisono.fusion.gate_scores import entropy
from unisono.fusion.rules import mean
from unisono.fusion.trace_measures import variation
from unisono.fusion.unfolded import Unfolded, plan_joint

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
            assert np.array_equal(found.voter(k, row, every), p_U)
            heavy = found.heavy(row, 0.05, 7)
            assert heavy is not None
            assert heavy.at(7) == (float(q_BU[row][7]), [float(p_U[7]) for p_U in rows])
            for count in (1, 5):
                order = np.argsort(-p_U, kind="stable")[:count].tolist()
                wanted = [column for place, column in enumerate(order) if not place or p_U[column] >= 0.05]
                assert heavy.top(k, count) == tuple((column, float(p_U[column])) for column in wanted)
        order = np.argsort(-q_BU[row], kind="stable")[:10].tolist()
        likeliest = found.likeliest(row, 10, found.heavy(row, 1e-3, 7))
        assert likeliest is None or likeliest == tuple((column, float(q_BU[row][column])) for column in order)
        assert likeliest is not None or np.sort(q_BU[row])[-10] < 1e-9
        nats, apart = found.spread(row)
        assert nats == pytest.approx(entropy(q_BU[row : row + 1], ())[0], abs=2e-5)
        assert apart == pytest.approx(variation(rows), abs=2e-6)


def test_flat_distributions_are_left_to_folding(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _, _ = made(1, 2, 0.0)
    monkeypatch.setattr(unfolded, "MANY", 3)
    assert found.heavy(0, 1e-3, 7) is None


def test_ids_that_are_dropped_may_have_no_logit() -> None:
    columns_V = np.array([0, 1, -1, SIZE - 1], np.int32)
    plan = plan_fold(columns_V, SIZE)
    logits_BV = np.array([[1.0, 2.0, -np.inf, 0.5]], np.float32)
    found = Unfolded([softmax(logits_BV, plan, Scratch())], [1.0], plan_joint([plan]))
    assert found.spread(0)[0] == pytest.approx(entropy(fold(logits_BV, plan), ())[0], abs=1e-6)
