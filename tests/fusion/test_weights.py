"""Weight schemes: each against its definition, and what all of them promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from unisono.fusion.weights import (
    LEAST_ENTROPY,
    WEIGHT_SCHEMES,
    agreement,
    consistency,
    entropy,
    fixed,
    perplexity,
    scaled,
)

MOVING = [name for name in WEIGHT_SCHEMES if name != "fixed"]


def rows(*masses: list[float]) -> np.ndarray:
    return np.array(masses, np.float32)


def plain_entropy(masses: list[float]) -> float:
    return -sum(mass * math.log(mass) for mass in masses if mass)


@st.composite
def voters(draw: st.DrawFn) -> tuple[list[float], list[np.ndarray], list[list[float]]]:
    """Base weights, distributions and losses."""
    count, texts, size = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 14))
    masses = st.just(0.0) | st.floats(0.0625, 1, width=32)
    raw = draw(arrays.arrays(np.float32, (count, texts, size), elements=masses))
    raw[..., draw(st.integers(0, size - 1))] += np.float32(0.125)  # no row is empty
    base = draw(st.lists(st.floats(0.1, 1), min_size=count, max_size=count))
    losses = draw(arrays.arrays(np.float64, (count, texts), elements=st.floats(0, 20)))
    return scaled(base), list(raw / raw.sum(axis=-1, keepdims=True)), losses.tolist()


def test_fixed_weights_are_the_base() -> None:
    assert fixed([0.25, 0.75], [rows([1.0]), rows([1.0])]) == [0.25, 0.75]


def test_entropy_by_hand() -> None:
    # Entropies log 2 and log 4 in the first row: twice as sure. In the second both are certain.
    first, second = rows([0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]), rows([0.25] * 4, [0.0, 1.0, 0.0, 0.0])
    np.testing.assert_allclose(entropy([0.5, 0.5], [first, second]), [[2 / 3, 1 / 2], [1 / 3, 1 / 2]], rtol=1e-5)
    # Base 1 : 3 turns 2 : 1 into 2 : 3.
    np.testing.assert_allclose(entropy([0.25, 0.75], [first, second]), [[2 / 5, 1 / 4], [3 / 5, 3 / 4]], rtol=1e-5)


def test_a_certain_member_counts_as_one_of_the_least_entropy() -> None:
    sure, unsure = entropy([0.5, 0.5], [rows([1.0, 0.0]), rows([0.5, 0.5])])
    assert sure[0] / unsure[0] == pytest.approx(math.log(2) / LEAST_ENTROPY, rel=1e-5)


def test_agreement_by_hand() -> None:
    # The mean is (0.5, 0.5); the disparities are 0.25, and 1 leaves nothing.
    s_K = agreement([0.5, 0.5], [rows([0.75, 0.25]), rows([0.25, 0.75])])
    expected = (math.exp(-0.5) - math.exp(-2)) / (1 - math.exp(-2))
    np.testing.assert_allclose(s_K, [[[expected] * 2]] * 2, rtol=1e-5)
    np.testing.assert_allclose(agreement([1.0, 0.0], [rows([1.0]), rows([0.0])]), [[[1.0]], [[0.0]]], atol=1e-6)


def test_consistency_by_hand() -> None:
    p_K = [[0.5, 0.5, 0.0], [0.5, 0.25, 0.25], [0.25, 0.25, 0.5]]
    mean = [sum(column) / 3 for column in zip(*p_K, strict=True)]
    scores = []
    for p in p_K:
        kernel = [math.exp(-2 * abs(own - all_)) for own, all_ in zip(p, mean, strict=True)]
        agreed = sum((value - math.exp(-2)) / (1 - math.exp(-2)) for value in kernel)
        scores.append(agreed / plain_entropy(p))
    expected = [score / sum(scores) for score in scores]
    weights = consistency([1 / 3] * 3, [rows(p) for p in p_K])
    np.testing.assert_allclose(np.array(weights)[:, 0], expected, rtol=1e-5)
    assert expected[0] > expected[1] > expected[2]  # the surest, then of two that are as sure the one that agrees


def test_consistency_looks_at_ten_pieces_of_each_member() -> None:
    long = rows([0.05] * 10 + [0.04] * 10 + [0.1 / 80] * 80)
    short = rows([0.1] * 10 + [0.0] * 90)
    np.testing.assert_allclose(consistency([0.5, 0.5], [long, short]), [[0.5], [0.5]], rtol=1e-5)


def test_perplexity_by_hand() -> None:
    p_BU_K = [rows([1.0], [1.0])] * 2
    # exp(-1) : exp(-2) and exp(-3) : exp(-3); then with base 1 : 3, and with half the difference.
    e = math.e
    losses = [[1.0, 3.0], [2.0, 3.0]]
    np.testing.assert_allclose(
        perplexity([0.5, 0.5], p_BU_K, losses), [[e / (1 + e), 1 / 2], [1 / (1 + e), 1 / 2]], rtol=1e-6
    )
    np.testing.assert_allclose(
        perplexity([0.25, 0.75], p_BU_K, losses), [[e / (3 + e), 1 / 4], [3 / (3 + e), 3 / 4]], rtol=1e-6
    )
    half = math.sqrt(e)
    np.testing.assert_allclose(perplexity([0.5, 0.5], p_BU_K, losses, 2)[0], [half / (1 + half), 1 / 2], rtol=1e-6)


def test_losses_far_apart_are_no_trouble() -> None:
    p_BU_K = [rows([1.0])] * 3
    np.testing.assert_allclose(
        perplexity([0.0, 0.5, 0.5], p_BU_K, [[0.0], [9000.0], [9001.0]]),
        [[0.0], [math.e / (1 + math.e)], [1 / (1 + math.e)]],
        rtol=1e-6,
    )


def test_every_member_needs_a_loss() -> None:
    with pytest.raises(ValueError, match="0 members have a loss, but 2 vote"):
        perplexity([0.5, 0.5], [rows([1.0])] * 2)


def test_scaling_divides_by_what_the_experts_sum_to() -> None:
    assert scaled([1.0, 3.0]) == [0.25, 0.75]
    assert scaled([1.5, -0.5, 0.0]) == pytest.approx([1, -1 / 3, 0])


@given(voters())
def test_weights_are_none_below_0_and_sum_to_one_in_each_row(
    case: tuple[list[float], list[np.ndarray], list[list[float]]],
) -> None:
    before = [p_BU.copy() for p_BU in case[1]]
    for name in MOVING:
        weights = np.array(WEIGHT_SCHEMES[name](*case))
        assert weights.shape == (len(case[0]), len(case[1][0]))
        assert weights.dtype == np.float32
        assert (weights >= 0).all()
        np.testing.assert_allclose(weights.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(case[1], before)


@given(voters(), st.integers(0, 13))
def test_a_member_of_weight_0_stays_at_0_and_the_others_do_not_see_it(
    case: tuple[list[float], list[np.ndarray], list[list[float]]], column: int
) -> None:
    base, p_BU_K, losses = case
    stranger = np.zeros_like(p_BU_K[0])
    stranger[:, column % stranger.shape[1]] = 1
    for scheme in WEIGHT_SCHEMES.values():
        absent, *others = scheme([0.0, *base], [stranger, *p_BU_K], [[0.0] * len(stranger), *losses])
        assert not np.any(absent)
        np.testing.assert_allclose(others, scheme(base, p_BU_K, losses), atol=1e-6)


@given(voters())
def test_the_same_member_several_times_keeps_the_base_weights(
    case: tuple[list[float], list[np.ndarray], list[list[float]]],
) -> None:
    base, p_BU_K, losses = case
    for name in MOVING:
        weights = WEIGHT_SCHEMES[name](base, [p_BU_K[0]] * len(base), [losses[0]] * len(base))
        np.testing.assert_allclose(weights, [[weight] * len(p_BU_K[0]) for weight in base], atol=1e-6)


@given(voters())
def test_the_order_of_members_changes_no_weight(
    case: tuple[list[float], list[np.ndarray], list[list[float]]],
) -> None:
    for scheme in WEIGHT_SCHEMES.values():
        backwards = scheme(*(part[::-1] for part in case))
        np.testing.assert_allclose(backwards[::-1], scheme(*case), atol=1e-6)


@given(voters())
def test_rows_weighed_together_are_rows_weighed_one_by_one(
    case: tuple[list[float], list[np.ndarray], list[list[float]]],
) -> None:
    base, p_BU_K, losses = case
    for name in MOVING:
        together = np.array(WEIGHT_SCHEMES[name](base, p_BU_K, losses))
        for row in range(len(p_BU_K[0])):
            alone = WEIGHT_SCHEMES[name](
                base, [p_BU[row : row + 1] for p_BU in p_BU_K], [[loss[row]] for loss in losses]
            )
            np.testing.assert_array_equal(together[:, row], np.array(alone)[:, 0])


@settings(deadline=None)  # the first use of torch takes its time
@given(voters())
def test_an_accelerators_weights_are_the_hosts(
    case: tuple[list[float], list[np.ndarray], list[list[float]]],
) -> None:
    torch = pytest.importorskip("torch")
    base, p_BU_K, losses = case
    tensors = [torch.from_numpy(p_BU.copy()) for p_BU in p_BU_K]
    for name in MOVING:
        weights = WEIGHT_SCHEMES[name](base, tensors, losses)
        assert all(isinstance(weight, torch.Tensor) and weight.dtype == torch.float32 for weight in weights)
        expected = WEIGHT_SCHEMES[name](base, p_BU_K, losses)
        np.testing.assert_allclose([weight.numpy() for weight in weights], expected, atol=1e-5)


@pytest.mark.parametrize("name", MOVING)
def test_double_precision_stays_double(name: str) -> None:
    weights = WEIGHT_SCHEMES[name]([0.5, 0.5], [np.array([[0.5, 0.5]])] * 2, [[1.0], [1.0]])
    assert [weight.dtype for weight in weights] == [np.float64] * 2
