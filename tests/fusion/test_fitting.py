"""Fitted weights and temperatures: against searches over grids, and on data whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from unisono.engine.observation import _likely
from unisono.fusion.calibration import Calibration
from unisono.fusion.fitting import (
    DRAWN,
    NODES,
    NONE,
    Curves,
    Likely,
    Observed,
    at_node,
    draw_columns,
    fit_geometric,
    fit_mean,
    log_product,
    weights_by_em,
)
from unisono.fusion.rules import geometric

pytest.importorskip("scipy.optimize")
Floats = NDArray[np.float64]


def softmax(logits: Floats) -> Floats:
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(p / p.sum(axis=-1, keepdims=True))


def observed(logits_NKU: Floats, column_N: NDArray[np.int64]) -> Observed:
    """What is kept of whole distributions, all columns being likely ones."""
    rows = np.arange(len(column_N))
    logp_NKT = np.stack([np.log(softmax(logits_NKU * node))[rows, :, column_N] for node in NODES], axis=2)
    p_NKU = softmax(logits_NKU)
    logz_NKT = np.stack([np.log((p_NKU**node).sum(axis=2)) for node in NODES], axis=2)
    order = np.stack([[c, *(u for u in range(logits_NKU.shape[2]) if u != c)] for c in column_N])
    logp_NKC = np.take_along_axis(np.log(p_NKU), order[:, None, :], axis=2).astype(np.float32)
    share_N = np.full(len(column_N), 1 / len(column_N))
    return Observed(
        logp_NKT, logz_NKT, share_N, Likely(logp_NKC, np.zeros((len(column_N), logp_NKC.shape[2]), np.float32))
    )


def drawn(seed: int, weight_K: Floats, temperature_K: Floats, count: int = 4000) -> Observed:
    """Pieces drawn from a mixture of members with temperatures: the truth that is to be found."""
    generator = np.random.default_rng(seed)
    logits_NKU = 3 * generator.standard_normal((count, len(weight_K), 12))
    q_NU = np.einsum("nku,k->nu", softmax(logits_NKU / temperature_K[None, :, None]), weight_K)
    column_N = np.array([generator.choice(12, p=q_U / q_U.sum()) for q_U in q_NU])
    return observed(logits_NKU, column_N)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31))
def test_em_finds_weights_that_no_others_beat(seed: int) -> None:
    generator = np.random.default_rng(seed)
    p_NK = generator.random((30, 2)) ** 4
    share_N = generator.random(30)
    weight_K = weights_by_em(p_NK, share_N)
    assert weight_K.sum() == pytest.approx(1)
    best = max(float(share_N @ np.log(p_NK @ [w, 1 - w])) for w in np.linspace(1e-9, 1 - 1e-9, 2001))
    assert float(share_N @ np.log(p_NK @ weight_K)) >= best - 1e-4 * share_N.sum()


def test_a_piece_that_nobody_gives_mass_says_nothing() -> None:
    p_NK = np.array([[0.5, 0.1], [0.2, 0.4], [0.0, 0.0]])
    assert weights_by_em(p_NK, np.ones(3)).tolist() == weights_by_em(p_NK[:2], np.ones(2)).tolist()
    with pytest.raises(ValueError, match="no member gives any piece mass"):
        weights_by_em(np.zeros((3, 2)), np.ones(3))


def test_weights_and_temperatures_that_drew_pieces_are_found_again() -> None:
    seen = drawn(1, np.array([0.7, 0.3]), np.array([2.0, 0.6]))
    shape = fit_mean(seen, temperatures=True)
    np.testing.assert_allclose(shape.weight_K, [0.7, 0.3], atol=0.05)
    np.testing.assert_allclose(shape.temperature_K, [2.0, 0.6], rtol=0.15)
    alone = fit_mean(seen, temperatures=False)
    assert alone.temperature_K.tolist() == [1, 1]


def test_between_the_nodes_curves_are_what_is_computed_there() -> None:
    generator = np.random.default_rng(3)
    logits_NKU, column_N = 4 * generator.standard_normal((50, 2, 30)), generator.integers(0, 30, 50)
    curves = Curves(observed(logits_NKU, column_N))
    for temperature in (0.3, 0.61, 1.0, 1.3, 3.7):
        exact = np.log(softmax(logits_NKU / temperature))[np.arange(50), :, column_N]
        np.testing.assert_allclose(curves.logp(np.full(2, temperature)), exact, atol=0.05)
    exact = at_node(observed(logits_NKU, column_N), 1.0)
    np.testing.assert_allclose(curves.logp(np.ones(2)), exact, atol=1e-9)


def test_the_geometric_fit_is_no_worse_than_any_of_a_grid_by_the_rule_itself() -> None:
    generator = np.random.default_rng(5)
    logits_NKU = 2 * generator.standard_normal((300, 2, 9))
    truth = softmax(0.8 * logits_NKU[:, 0] + 0.2 * logits_NKU[:, 1])
    column_N = np.array([generator.choice(9, p=q_U) for q_U in truth])
    shape = fit_geometric(observed(logits_NKU, column_N), temperatures=False)
    p_NKU = softmax(logits_NKU)

    def likelihood(weight: float) -> float:
        q_NU = geometric([p_NKU[:, 0].copy(), p_NKU[:, 1].copy()], [weight, 1 - weight])
        return float(np.log(q_NU[np.arange(300), column_N]).mean())

    best = max(likelihood(weight) for weight in np.linspace(0, 1, 101))
    assert likelihood(float(shape.weight_K[0])) == pytest.approx(best, abs=1e-3)


def test_pieces_that_a_member_lacks_leave_the_fit_finite() -> None:
    seen = drawn(2, np.array([0.5, 0.5]), np.ones(2), count=200)
    logp_NKT = seen.logp_NKT.copy()
    logp_NKT[::3, 0] = NONE
    shape = fit_mean(Observed(logp_NKT, seen.logz_NKT, seen.share_N), temperatures=True)
    assert np.isfinite(shape.weight_K).all()
    assert np.isfinite(shape.temperature_K).all()
    assert shape.weight_K[1] > 0.5


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
@pytest.mark.parametrize("alike", [True, False])
def test_the_normaliser_of_a_product_is_that_of_the_rule_over_a_long_tail(*, alike: bool, temperature: float) -> None:
    generator = np.random.default_rng(7)
    count, width = 20, 20_000
    shared_NU = generator.standard_normal((count, width))
    own_NKU = generator.standard_normal((count, 2, width))
    logits_NKU = 1.5 * (shared_NU[:, None] + 0.2 * own_NKU if alike else own_NKU)
    logits_NKU[:, :, :5] += 6
    p_NKU, column_N = softmax(logits_NKU), generator.integers(0, 5, count)
    kept = [
        _likely([p_U.astype(np.float32) for p_U in p_KU], c, generator) for p_KU, c in zip(p_NKU, column_N, strict=True)
    ]
    widest = max(len(logw_C) for _, logw_C, _ in kept)
    logp_NKC, logw_NC = np.full((count, 2, widest), NONE), np.full((count, widest), -np.inf)
    for row, (logp_KC, logw_C, _) in enumerate(kept):
        logp_NKC[row, :, : len(logw_C)], logw_NC[row, : len(logw_C)] = logp_KC, logw_C
    logz_NKT = np.stack([np.log((p_NKU**node).sum(axis=2)) for node in NODES], axis=2)
    curves = Curves(Observed(logz_NKT, logz_NKT, np.ones(count)))
    weight_K, temperature_K = np.array([0.6, 0.4]), np.full(2, temperature)
    found_N = log_product(Likely(logp_NKC, logw_NC), curves, weight_K, temperature_K)
    own = softmax(logits_NKU / temperature)
    exact_N = np.log(geometric([own[:, 0].copy(), own[:, 1].copy()], [0.6, 0.4])[np.arange(count), column_N])
    np.testing.assert_allclose(found_N, exact_N, atol=0.15)
    assert found_N.mean() == pytest.approx(exact_N.mean(), abs=0.03)


@pytest.mark.parametrize("temperatures", [(1.0, 1.0), (0.6, 2.5)])
def test_a_product_of_calibrated_members_is_that_of_the_rule_at_any_temperature(
    temperatures: tuple[float, ...],
) -> None:
    generator = np.random.default_rng(3)
    count, width = 30, 200
    logits_NKU = 2 * generator.standard_normal((count, 2, width))
    calibrations = [Calibration((150, 3, 7), (0.7, 0.1, 0.05)), None]
    p_NKU, column_N = softmax(logits_NKU), generator.choice([3, 7, 150, 20], count)
    kept = [_likely(list(p_KU), c, generator, calibrations) for p_KU, c in zip(p_NKU, column_N, strict=True)]
    assert all(len(logw_C) == width and not logw_C.any() for _, logw_C, _ in kept)
    logp_NKC, logw_NC = (np.stack([each[place] for each in kept]) for place in (0, 1))
    likely = Likely(logp_NKC, logw_NC, np.stack([each for _, _, each in kept if each is not None]))
    temperature_K, weights = np.array(temperatures), [0.6, 0.4]
    # Splines are exact at their nodes alone: this curve goes through the temperatures that are asked for.
    logz_NK = np.log((p_NKU ** (1 / temperature_K)[:, None]).sum(axis=2))
    curves = Curves(Observed(*2 * [np.repeat(logz_NK[:, :, None], len(NODES), axis=2)], np.ones(count)))
    own = [softmax(logits_NKU[:, place] / temperature_K[place]) for place in (0, 1)]
    calibrated = [each(p_NU, range(count)) if each else p_NU for each, p_NU in zip(calibrations, own, strict=True)]
    exact_N = np.log(geometric([p_NU.copy() for p_NU in calibrated], weights)[np.arange(count), column_N])
    found_N = log_product(likely, curves, np.array(weights), temperature_K)
    np.testing.assert_allclose(found_N, exact_N, atol=2e-5)


def test_drawn_columns_stand_for_all() -> None:
    generator = np.random.default_rng(1)
    p_U = generator.random(5_000) ** 8
    p_U[::2] = 0
    columns, logw_N = draw_columns(p_U, generator)
    assert len(columns) <= DRAWN
    assert (p_U[columns] > 0).all()
    assert (np.exp(logw_N) * p_U[columns]).sum() == pytest.approx(p_U.sum(), rel=0.1)
    few, logw_N = draw_columns(p_U[:300], generator)
    assert (few.tolist(), logw_N.tolist()) == (np.flatnonzero(p_U[:300]).tolist(), [0] * 150)
