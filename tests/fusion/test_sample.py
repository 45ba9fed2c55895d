"""Drawing: every reshaping against transformers', every draw by enumeration, and drafts accepted exactly."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from support.enumeration import Enumeration
from unisono.config.sampling import Sampling
from unisono.engine import voting
from unisono.fusion.logits_processors import (
    add_bias,
    min_p,
    penalise_counts,
    penalise_repetition,
    shape,
    temper,
    top_k,
    top_p,
    typical_p,
)
from unisono.fusion.sampling import Purpose, RandomNumbers, accepts, draw_from, greedy, residual

Warper = Callable[[Any], Any]


def distribution(masses: Any) -> np.ndarray:
    masses = np.asarray(masses, np.float64)
    return (masses / masses.sum()).astype(np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    return distribution(np.exp(logits - logits.max()))


def rows() -> dict[str, np.ndarray]:
    """Rows of many shapes, some with equal masses, some with none at all in places."""
    normal = np.random.default_rng(7).normal(size=(4, 9000))
    sparse = softmax(3 * normal[2, :500])
    sparse[::3] = 0
    return {
        "peaky": softmax(4 * normal[0]),
        "flat": softmax(normal[1, :700]),
        "sharp": softmax(12 * normal[1, :300]),
        "sparse": distribution(sparse),
        "ties": softmax(np.round(2 * normal[3, :400]) / 2),
        "ties and zeros": distribution(np.tile([0.0, 1.0, 2.0, 4.0], 50)),
        "uniform": distribution(np.ones(64)),
        "half uniform": distribution(np.tile([0.0, 1.0], 5000)),
        "one-hot": np.eye(1, 40, 17, dtype=np.float32)[0],
        "one column": np.ones(1, np.float32),
    }


ROWS = rows()
every_row = pytest.mark.parametrize("row", ROWS)

WARPERS: dict[str, Warper] = {
    "temper 0.5": lambda q_U: temper(q_U, 0.5),
    "temper 1.7": lambda q_U: temper(q_U, 1.7),
    "top_k 3": lambda q_U: top_k(q_U, 3),
    "top_p 0.6": lambda q_U: top_p(q_U, 0.6),
    "min_p 0.3": lambda q_U: min_p(q_U, 0.3),
    "typical_p 0.6": lambda q_U: typical_p(q_U, 0.6),
    "bias": lambda q_U: add_bias(q_U, {0: -1.5, q_U.shape[0] - 1: 2.0}),
    "repetition": lambda q_U: penalise_repetition(q_U, {0: 2, q_U.shape[0] - 1: 1}, 1.3),
    "counts": lambda q_U: penalise_counts(q_U, {0: 2, q_U.shape[0] - 1: 1}, 0.5, 0.25),
}
TRUNCATIONS = ["top_k 3", "top_p 0.6", "min_p 0.3", "typical_p 0.6"]


def transformers_says(name: str, q_U: np.ndarray, *arguments: object, written: list[int] | None = None) -> np.ndarray:
    """What a processor of transformers makes of a distribution, given it as log-probabilities."""
    torch = pytest.importorskip("torch")
    processors = pytest.importorskip("transformers.generation.logits_process")
    scores = torch.log(torch.from_numpy(q_U.astype(np.float64)))[None]  # or its roundings would decide at bounds
    shaped = getattr(processors, name)(*arguments)(torch.tensor([written or []], dtype=torch.int64), scores)
    return torch.softmax(shaped, dim=-1)[0].numpy()


def assert_same(q_U: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(q_U > 0, expected > 0)
    np.testing.assert_allclose(q_U, expected, rtol=2e-4, atol=1e-7)


# What each option does, held against transformers


@every_row
@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.0, 1.5, 4.0])
def test_temperature_is_that_of_transformers(row: str, temperature: float) -> None:
    expected = transformers_says("TemperatureLogitsWarper", ROWS[row], temperature)
    np.testing.assert_allclose(temper(ROWS[row], temperature), expected, rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize("temperature", [1e-38, 1e-300, 5e-324])
def test_the_smallest_temperatures_leave_the_likeliest_pieces(temperature: float) -> None:
    np.testing.assert_array_equal(temper(by_hand([0.25, 0.375, 0, 0.375]), temperature), [0, 0.5, 0, 0.5])


@every_row
@pytest.mark.parametrize("k", [1, 2, 7, 40, 250, 100_000])
def test_top_k_is_that_of_transformers(row: str, k: int) -> None:
    assert_same(top_k(ROWS[row], k), transformers_says("TopKLogitsWarper", ROWS[row], k))


@every_row
@pytest.mark.parametrize("p", [0.0, 0.1373, 0.5023, 0.9017, 0.9893, 0.9991])
def test_top_p_is_that_of_transformers_and_what_is_as_likely_as_its_last(row: str, p: float) -> None:
    kept = top_p(ROWS[row], p) > 0
    expected = transformers_says("TopPLogitsWarper", ROWS[row], p) > 0
    last = ROWS[row][expected].min()
    np.testing.assert_array_equal(kept, expected | (ROWS[row] == last))
    np.testing.assert_allclose(top_p(ROWS[row], p), distribution(ROWS[row] * kept), rtol=1e-5)


@every_row
@pytest.mark.parametrize("share", [0.0, 0.0513, 0.37, 0.9, 1.0])
def test_min_p_is_that_of_transformers(row: str, share: float) -> None:
    assert_same(min_p(ROWS[row], share), transformers_says("MinPLogitsWarper", ROWS[row], share))


@every_row
@pytest.mark.parametrize("p", [0.001, 0.1373, 0.5023, 0.9017, 0.9893])
def test_typical_is_that_of_transformers(row: str, p: float) -> None:
    assert_same(typical_p(ROWS[row], p), transformers_says("TypicalLogitsWarper", ROWS[row], p))


@every_row
@pytest.mark.parametrize("penalty", [0.7, 1.0, 1.2, 3.0])
def test_the_repetition_penalty_is_that_of_transformers_for_log_probabilities(row: str, penalty: float) -> None:
    written = [column for column in (0, 17, 17, 30) if column < len(ROWS[row])]
    expected = transformers_says("RepetitionPenaltyLogitsProcessor", ROWS[row], penalty, written=written)
    counts = {column: written.count(column) for column in written}
    np.testing.assert_allclose(penalise_repetition(ROWS[row], counts, penalty), expected, rtol=2e-4, atol=1e-7)


@every_row
def test_a_bias_is_that_of_transformers(row: str) -> None:
    bias = {column: value for column, value in {0: 2.5, 17: -4.0, 30: 0.25}.items() if column < len(ROWS[row])}
    given_to_it = {(column,): value for column, value in bias.items()}
    expected = transformers_says("SequenceBiasLogitsProcessor", ROWS[row], given_to_it)
    np.testing.assert_allclose(add_bias(ROWS[row], bias), expected, rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize("row", ["peaky", "flat", "sharp", "sparse"])
@pytest.mark.parametrize("share", [0.0213, 0.2113])
def test_options_are_applied_in_the_order_of_transformers(row: str, share: float) -> None:
    draw = Sampling(
        temperature=1.3, top_k=60, top_p=0.9017, min_p=share, typical_p=0.8011, repetition_penalty=1.2,
        presence_penalty=0.5, frequency_penalty=0.25,
    )  # fmt: skip
    often, once, never = np.argsort(ROWS[row])[[-1, -3, -5]].tolist()
    bias, counts = {never: 0.5, often: -1.0}, {often: 2, once: 1}
    expected = transformers_says("SequenceBiasLogitsProcessor", ROWS[row], {(never,): 0.5, (often,): -1.0})
    expected = transformers_says("RepetitionPenaltyLogitsProcessor", expected, 1.2, written=[often, once])
    expected[[often, once]] *= np.exp([-0.5 - 2 * 0.25, -0.5 - 0.25])
    expected = transformers_says("TemperatureLogitsWarper", distribution(expected), 1.3)
    expected = transformers_says("TopKLogitsWarper", expected, 60)
    expected = transformers_says("TopPLogitsWarper", expected, 0.9017)
    expected = transformers_says("MinPLogitsWarper", expected, share)
    expected = transformers_says("TypicalLogitsWarper", expected, 0.8011)
    assert_same(shape(ROWS[row][None], [draw], [counts], [bias])[0], expected)


# The same by hand, where every mass is exact


def by_hand(masses: list[float]) -> np.ndarray:
    return np.array(masses, np.float32)


@pytest.mark.parametrize(
    ("warper", "expected"),
    [
        (lambda q: temper(q, 0.5), [0.5**2, 0.25**2, 0.125**2, 0.125**2, 0]),
        (lambda q: temper(q, 2), [0.5**0.5, 0.25**0.5, 0.125**0.5, 0.125**0.5, 0]),
        (lambda q: temper(q, 0.01), [1, 2.0**-100, 2.0**-200, 2.0**-200, 0]),
        (lambda q: top_k(q, 1), [1, 0, 0, 0, 0]),
        (lambda q: top_k(q, 3), [0.5, 0.25, 0.125, 0.125, 0]),
        (lambda q: top_k(q, None), [0.5, 0.25, 0.125, 0.125, 0]),
        (lambda q: top_p(q, 0.5), [1, 0, 0, 0, 0]),
        (lambda q: top_p(q, 0.501), [2, 1, 0, 0, 0]),
        (lambda q: top_p(q, 0.75), [2, 1, 0, 0, 0]),
        (lambda q: top_p(q, 0.8), [0.5, 0.25, 0.125, 0.125, 0]),
        (lambda q: min_p(q, 0.5), [2, 1, 0, 0, 0]),
        (lambda q: min_p(q, 0.25), [0.5, 0.25, 0.125, 0.125, 0]),
        # The entropy is 1.75 log 2: the second column is 0.25 log 2 away, the first 0.75, the others 1.25.
        (lambda q: typical_p(q, 0.25), [0, 1, 0, 0, 0]),
        (lambda q: typical_p(q, 0.26), [2, 1, 0, 0, 0]),
        (lambda q: typical_p(q, 0.76), [0.5, 0.25, 0.125, 0.125, 0]),
        (lambda q: penalise_repetition(q, {1: 1, 4: 3, 0: 0}, 2), [0.5, 0.25**2, 0.125, 0.125, 0]),
        (lambda q: penalise_repetition(q, {1: 7}, 0.5), [0.5, 0.5, 0.125, 0.125, 0]),
        (lambda q: penalise_counts(q, {1: 2, 4: 1, 0: 0}, 0.5, 0.0), [0.5, 0.25 * math.exp(-0.5), 0.125, 0.125, 0]),
        (lambda q: penalise_counts(q, {1: 3, 0: 1}, 0.5, 0.25),
         [0.5 * math.exp(-0.75), 0.25 * math.exp(-1.25), 0.125, 0.125, 0]),
        (lambda q: penalise_counts(q, {1: 3}, 0.0, -1.0), [0.5, 0.25 * math.exp(3), 0.125, 0.125, 0]),
        (lambda q: add_bias(q, {1: math.log(2), 3: -math.log(4)}), [0.5, 0.5, 0.125, 0.03125, 0]),
        (lambda q: add_bias(q, {4: 100.0}), [0.5, 0.25, 0.125, 0.125, 0]),
        (lambda q: add_bias(q, {}), [0.5, 0.25, 0.125, 0.125, 0]),
    ],
)  # fmt: skip
def test_a_distribution_is_reshaped_as_computed_by_hand(warper: Warper, expected: list[float]) -> None:
    shaped = warper(by_hand([0.5, 0.25, 0.125, 0.125, 0]))
    np.testing.assert_allclose(shaped, distribution(expected), rtol=1e-6, atol=1e-30)
    assert shaped.dtype == np.float32


def test_mass_that_rounding_took_from_the_last_piece_is_not_missed() -> None:
    np.testing.assert_array_equal(top_p(by_hand([0.9, 0.1]), 0.9), [1, 0])  # the float32 nearest to 0.9 is below it


def test_what_has_all_the_mass_keeps_it_whatever_is_taken_from_it() -> None:
    sure = by_hand([0, 1, 0])
    for shaped in (
        penalise_counts(sure, {1: 100_000}, 2, 2),
        penalise_repetition(sure, {1: 3}, 100),
        add_bias(sure, {1: -100}),
        temper(sure, 100),
    ):
        np.testing.assert_array_equal(shaped, sure)


def test_a_bias_larger_than_masses_can_show_is_still_exact() -> None:
    np.testing.assert_allclose(add_bias(by_hand([1, 1e-30]), {0: -100.0}), distribution([math.exp(-100), 1e-30]))
    np.testing.assert_allclose(add_bias(by_hand([1, 1e-35]), {1: 100.0}), distribution([1, 1e-35 * math.exp(100)]))
    np.testing.assert_array_equal(penalise_counts(by_hand([1, 1e-40]), {0: 5000}, 0, 2), [0, 1])


def test_greedy_is_reached_by_bias_and_penalties_alone() -> None:
    q_BU = by_hand([0.5, 0.25, 0.25, 0])[None]
    assert greedy(shape(q_BU, [Sampling()], [{0: 1}], [{}])) == [0]
    assert greedy(shape(q_BU, [Sampling(presence_penalty=1)], [{0: 1}], [{}])) == [1]
    assert greedy(shape(q_BU, [Sampling(repetition_penalty=3)], [{0: 1, 1: 1}], [{}])) == [2]
    assert greedy(shape(q_BU, [Sampling()], [{}], [{2: 1.0}])) == [2]


def test_shaping_changes_no_distribution_that_it_was_given() -> None:
    for row, warper in product(ROWS.values(), WARPERS.values()):
        before = row.copy()
        warper(row)
        np.testing.assert_array_equal(row, before)


# Properties


@st.composite
def distributions(draw: st.DrawFn, rows: int = 1) -> np.ndarray:
    width = draw(st.integers(1, 12))
    few = st.sampled_from([0.0, 0.125, 0.5])
    elements = draw(st.sampled_from([few, st.floats(0, 1, width=32)]))
    raw = draw(arrays.arrays(np.float32, (rows, width), elements=elements))
    raw[:, draw(st.integers(0, width - 1))] += np.float32(0.125)  # no row is empty
    return raw / raw.sum(axis=1, keepdims=True)


def some_draws() -> list[Sampling]:
    return [
        Sampling(),
        Sampling(presence_penalty=0.5, frequency_penalty=1),
        Sampling(temperature=1),
        Sampling(temperature=0.7, top_k=3, top_p=0.9),
        Sampling(temperature=1.5, min_p=0.1, repetition_penalty=1.2),
        Sampling(temperature=1, typical_p=0.6),
    ]


@pytest.mark.parametrize("warper", WARPERS)
@given(case=distributions())
def test_mass_is_kept_and_none_given_where_there_was_none(warper: str, case: np.ndarray) -> None:
    [q_U] = case
    shaped = WARPERS[warper](q_U)
    assert shaped.sum() == pytest.approx(1, abs=1e-5)
    assert not shaped[q_U == 0].any()
    assert (shaped >= 0).all()


@pytest.mark.parametrize("warper", ["temper 0.5", "temper 1.7", *TRUNCATIONS])
@given(case=distributions())
def test_equal_masses_stay_equal(warper: str, case: np.ndarray) -> None:
    [q_U] = case
    shaped = WARPERS[warper](q_U)
    for mass in q_U:
        assert len(set(shaped[q_U == mass])) == 1


@pytest.mark.parametrize("warper", ["temper 0.5", "temper 1.7", "top_k 3", "top_p 0.6", "min_p 0.3"])
@given(case=distributions())
def test_what_was_likelier_is_not_less_likely(warper: str, case: np.ndarray) -> None:
    [q_U] = case
    assert (np.diff(WARPERS[warper](q_U)[np.argsort(q_U)]) >= 0).all()


@every_row
@pytest.mark.parametrize("warper", WARPERS)
def test_the_numbering_of_columns_has_no_say(row: str, warper: str) -> None:
    q_U, size = ROWS[row], len(ROWS[row])
    order = np.concatenate([[0], 1 + np.random.default_rng(size).permutation(size - 1)])
    order[-1], order[np.argmax(order)] = size - 1, order[-1]  # some warpers do something to the first and the last
    assert_same(WARPERS[warper](q_U[order]), WARPERS[warper](q_U)[order])


@given(distributions(), st.floats(0, 1))
def test_top_p_keeps_the_smallest_set_that_reaches_p(case: np.ndarray, p: float) -> None:
    [q_U] = case.astype(np.float64)
    shaped = top_p(q_U, p)
    kept, left = q_U[shaped > 0], q_U[shaped == 0]
    assert kept.sum() >= min(p, q_U.sum()) - 1e-9
    assert kept.min() > left.max(initial=0) or (left == 0).all()
    assert p in (0, 1) or kept[kept > kept.min()].sum() < p  # without its least likely, it would not reach it


def plain_typical(q_U: np.ndarray, p: float) -> set[int]:
    masses = [float(mass) for mass in q_U]
    entropy = -sum(mass * math.log(mass) for mass in masses if mass)
    distances = {column: abs(-math.log(mass) - entropy) for column, mass in enumerate(masses) if mass}
    reached, kept = 0.0, -1.0
    for column in sorted(distances, key=lambda column: distances[column]):
        if reached < p:
            reached, kept = reached + masses[column], distances[column]
    return {column for column, distance in distances.items() if distance <= kept + 1e-12}


@pytest.mark.parametrize("size", [3, 5000, 40_000])
@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0, 30.0])
@pytest.mark.parametrize("p", [0.0, 0.2, 0.77, 0.999, 0.9999999])
def test_shortcuts_for_many_columns_keep_what_sorting_them_all_would(size: int, spread: float, p: float) -> None:
    logits = spread * np.random.default_rng(size).normal(size=size)
    q_U = np.exp(logits - logits.max())
    q_U /= q_U.sum()
    by_mass = np.sort(q_U)[::-1]
    bound = by_mass[min(int((np.cumsum(by_mass) < p).sum()), size - 1)]
    np.testing.assert_array_equal(top_p(q_U, p) > 0, q_U >= bound)
    assert set(np.flatnonzero(typical_p(q_U, p or 0.01))) == plain_typical(q_U, p or 0.01)
    for k in (1, 50, size - 1, size, size + 1):
        assert (top_k(q_U, k) > 0).sum() == min(k, (q_U > 0).sum())


@given(distributions(rows=6))
def test_rows_shaped_together_are_rows_shaped_one_by_one(q_BU: np.ndarray) -> None:
    draws, counts = some_draws(), [{0: row} for row in range(6)]
    biases: list[dict[int, float]] = [{}, {0: -1.0}] * 3
    together = shape(q_BU, draws, counts, biases)
    for row in range(6):
        alone = shape(q_BU[row : row + 1], [draws[row]], [counts[row]], [biases[row]])
        np.testing.assert_array_equal(alone[0], together[row])


@settings(deadline=None)  # the first use of torch takes its time
@given(distributions(rows=6))
def test_an_accelerator_shapes_as_the_host_does(q_BU: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(q_BU.copy())
    draws, counts, biases = some_draws(), [{0: 2}] * 6, [{0: 0.5}] * 6
    shaped = shape(tensor, draws, counts, biases)
    assert shaped.dtype == torch.float32
    np.testing.assert_array_equal(tensor.numpy(), q_BU)
    for row, on_host in enumerate(shape(q_BU, draws, counts, biases)):
        if ((shaped[row].numpy() > 0) == (on_host > 0)).all():  # else a column lies at the very bound of a set
            np.testing.assert_allclose(shaped[row].numpy(), on_host, atol=1e-6)
    assert draw_from(tensor[0], numbers_of(3)) == draw_from(q_BU[0], numbers_of(3))


@every_row
@pytest.mark.parametrize("warper", WARPERS)
def test_an_accelerator_keeps_what_the_host_keeps(row: str, warper: str) -> None:
    torch = pytest.importorskip("torch")
    assert_same(WARPERS[warper](torch.from_numpy(ROWS[row].copy())).numpy(), WARPERS[warper](ROWS[row]))


# Drawing


def numbers_of(seed: int, position: int = 0) -> RandomNumbers:
    return RandomNumbers(seed, position, Purpose.PIECE)


class Given(RandomNumbers):
    """Numbers that are given, the last one for ever."""

    def __init__(self, *numbers: float) -> None:
        self._numbers = list(numbers)

    def below(self, part: float, whole: float) -> bool:
        return (self._numbers.pop(0) if len(self._numbers) > 1 else self._numbers[0]) * whole < part


@pytest.mark.parametrize("width", [1, 2, 7, 1024, 1025, 5000])
def test_each_column_is_drawn_as_often_as_it_has_mass(width: int) -> None:
    parts = np.random.default_rng(width).integers(0, 4, width)
    parts[width // 2] += 2**13 - parts.sum()
    q_U = (parts / 2**13).astype(np.float32)
    found = Enumeration(lambda: draw_from(q_U, voting.RandomNumbers(1, 0, Purpose.PIECE)))
    np.testing.assert_allclose([found.get(column, 0.0) for column in range(width)], parts / 2**13, rtol=1e-9)
    assert found.runs == (parts > 0).sum()


@given(distributions())
def test_no_column_without_mass_is_drawn_by_any_numbers(case: np.ndarray) -> None:
    [q_U] = case
    largest = 1 - 2.0**-53
    for numbers in ([0.0], [largest], [0.0, largest], [largest, 0.0], [0.5], *np.random.default_rng(1).random((5, 30))):
        assert q_U[draw_from(q_U, Given(*map(float, numbers)))] > 0


@pytest.mark.parametrize("width", [5, 3000])
def test_the_smallest_numbers_draw_the_first_column_that_has_mass_and_the_largest_the_last(width: int) -> None:
    q_U = np.zeros(width, np.float32)
    q_U[[1, 3]] = 0.3, 0.6
    assert draw_from(q_U, Given(0.0)) == 1
    assert draw_from(q_U, Given(1 - 2.0**-53)) == 3


@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0])
def test_masses_that_are_almost_the_same_draw_the_same_column(spread: float) -> None:
    """What a batch changes in float32: every logit a little."""
    rng, changed = np.random.default_rng(11), 0
    for position in range(300):
        logits = spread * rng.normal(size=50_000)
        one, other = softmax(logits), softmax(logits + 1e-5 * rng.normal(size=50_000))
        changed += draw_from(one, numbers_of(5, position)) != draw_from(other, numbers_of(5, position))
    assert changed <= 1, "one number and sums of masses would change three of a hundred"


# Random numbers


def philox(counter: int, key: int, rounds: int = 10) -> list[int]:
    """Philox4x64 as its paper has it (Salmon et al., SC 2011), for checking."""
    words = [counter >> 64 * i & 2**64 - 1 for i in range(4)]
    keys = [key >> 64 * i & 2**64 - 1 for i in range(2)]
    for _ in range(rounds):
        first, second = 0xD2E7470EE14C6C93 * words[0], 0xCA5A826395121157 * words[2]
        words = [
            second >> 64 ^ words[1] ^ keys[0],
            second & 2**64 - 1,
            first >> 64 ^ words[3] ^ keys[1],
            first & 2**64 - 1,
        ]
        keys = [keys[0] + 0x9E3779B97F4A7C15 & 2**64 - 1, keys[1] + 0xBB67AE8584CAA73B & 2**64 - 1]
    return words


def test_the_numbers_of_a_place_are_those_of_philox() -> None:
    # The known answer of the authors' own library, Random123.
    assert philox(0, 0) == [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    for seed, position, purpose in product([0, 1, 2**64 - 1], [0, 1, 2**64 - 1], Purpose):
        numbers, place = RandomNumbers(seed, position, purpose), (position << 64) + (purpose << 128)
        # NumPy counts up before it gives a block.
        for word in [*philox(place + 1, seed), *philox(place + 2, seed)]:
            number = (word >> 11) / 2**53
            above = float(np.nextafter(number, 1))
            assert RandomNumbers.below(copy.deepcopy(numbers), above, 1.0)
            assert not numbers.below(number, 1.0)


def test_numbers_are_spread_evenly_and_none_comes_twice() -> None:
    def first_two(position: int, purpose: Purpose) -> list[float]:
        words = RandomNumbers(3, position, purpose)._words.random_raw(2)
        return [float(word >> 11) / 2**53 for word in words]

    numbers = np.array([[first_two(position, purpose) for position in range(2000)] for purpose in Purpose])
    assert len(np.unique(numbers)) == numbers.size
    flat = np.concatenate([numbers[:, :, 0], numbers[:, :, 1]])
    for row in np.sort(flat, axis=1):
        np.testing.assert_allclose(row, (np.arange(2000) + 0.5) / 2000, atol=0.04)
    correlations = np.corrcoef(np.vstack([flat[:, 1:], flat[0, :-1]]))
    assert np.abs(correlations - np.eye(len(correlations))).max() < 0.1


# Accepting drafts

SIXTEENTHS = [
    [8, 4, 2, 2, 0],
    [2, 2, 4, 8, 0],
    [0, 0, 0, 0, 16],
    [16, 0, 0, 0, 0],
    [4, 4, 4, 4, 0],
    [0, 5, 3, 1, 7],
]


@pytest.mark.parametrize("p", SIXTEENTHS)
@pytest.mark.parametrize("q", SIXTEENTHS)
def test_a_drafted_piece_is_written_with_the_probability_that_it_should_have(p: list[int], q: list[int]) -> None:
    p_U, q_U = (np.array(masses, np.float32) / 16 for masses in (p, q))

    def write() -> int:
        guess = draw_from(p_U, voting.RandomNumbers(1, 0, Purpose.PIECE))
        if accepts(p_U, q_U, guess, voting.RandomNumbers(1, 0, Purpose.ACCEPTANCE)):
            return guess
        return draw_from(residual(p_U, q_U), voting.RandomNumbers(1, 0, Purpose.RESIDUAL))

    written = Enumeration(write)
    np.testing.assert_allclose([written.get(column, 0.0) for column in range(5)], q_U, atol=1e-7)


def test_a_piece_that_cannot_be_drawn_is_never_accepted() -> None:
    assert not accepts(by_hand([0.5, 0.5]), by_hand([0, 1]), 0, Given(0.0))
    assert accepts(by_hand([0.5, 0.5]), by_hand([1, 0]), 0, Given(1 - 2.0**-53))


def test_where_two_distributions_differ_by_rounding_the_residual_is_the_second() -> None:
    q_U = by_hand([0.25, 0.75])
    np.testing.assert_array_equal(residual(q_U, q_U), q_U)
    np.testing.assert_array_equal(residual(np.nextafter(q_U, np.float32(1)), q_U), q_U)


@given(distributions(rows=2))
def test_the_residual_is_a_distribution_over_what_the_drafter_gave_too_little(case: np.ndarray) -> None:
    p_U, q_U = case
    rest_U = residual(p_U, q_U)
    assert rest_U.sum() == pytest.approx(1, abs=1e-5)
    if not (q_U <= p_U).all():
        np.testing.assert_array_equal(rest_U > 0, q_U > p_U)


def test_an_accelerators_drafts_are_accepted_as_the_hosts() -> None:
    torch = pytest.importorskip("torch")
    p_U, q_U = ROWS["ties and zeros"], temper(ROWS["ties and zeros"], 0.5)
    tensors = torch.from_numpy(p_U.copy()), torch.from_numpy(q_U.copy())
    np.testing.assert_allclose(residual(*tensors).numpy(), residual(p_U, q_U), atol=1e-6)
    for column, number in product(range(8), np.linspace(0, 0.99, 23)):
        assert accepts(*tensors, column, Given(float(number))) == accepts(p_U, q_U, column, Given(float(number)))
