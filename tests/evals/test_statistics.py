"""Statistics: each function against its definition, against scipy, or against all there is to enumerate."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unisono.evals.analysis.statistics import calibration, holm, mcnemar, pareto, wilson
from unisono.fusion import resampling
from unisono.fusion.resampling import Interval, paired_bootstrap, stratified_bootstrap

stats = pytest.importorskip("scipy.stats", reason="the oracle; it comes with lm-evaluation-harness")
shares = st.floats(0, 1)


@pytest.mark.parametrize("count", [1, 2, 7, 50, 1000])
def test_wilson_is_that_of_scipy(count: int) -> None:
    for right in {0, 1, count // 3, count}:
        expected = stats.binomtest(right, count).proportion_ci(0.95, method="wilson")
        interval = wilson(right / count, count)
        assert interval.low == pytest.approx(expected.low, abs=1e-12)
        assert interval.high == pytest.approx(expected.high, abs=1e-12)


@given(shares, st.integers(1, 10_000))
def test_wilson_holds_the_mean_and_stays_within_zero_and_one(mean: float, count: int) -> None:
    interval = wilson(mean, count)
    assert 0 <= interval.low <= mean <= interval.high <= 1


def test_wilson_covers_the_true_share_of_every_count_about_as_often_as_it_says() -> None:
    count, covered = 60, []
    for share in np.linspace(0.02, 0.98, 49):
        held = [right for right in range(count + 1) if _holds(wilson(right / count, count), share)]
        covered.append(sum(stats.binom.pmf(right, count, share) for right in held))
    assert np.mean(covered) == pytest.approx(0.95, abs=0.01)
    assert min(covered) > 0.83


@pytest.mark.parametrize("differences", [[1, 0, -1, 1], [1, 1, 0], [0.5, -0.25, 0, 1, 1]])
def test_the_bootstrap_is_that_over_all_resamples_enumerated(differences: list[float]) -> None:
    count = len(differences)
    exact = [sum(drawn) / count for drawn in itertools.product(differences, repeat=count)]
    drawn = paired_bootstrap(differences, seed=1, resamples=200_000)
    for end, level in ((drawn.low, 0.025), (drawn.high, 0.975)):
        below = np.mean([mean < end - 1e-9 for mean in exact])
        up_to = np.mean([mean <= end + 1e-9 for mean in exact])
        assert below - 0.005 <= level <= up_to + 0.005


def test_the_bootstrap_agrees_with_scipy_on_many_questions() -> None:
    differences = np.random.default_rng(3).choice([-1.0, 0.0, 1.0], size=400, p=[0.1, 0.7, 0.2])
    theirs = stats.bootstrap((differences,), np.mean, method="percentile", rng=4).confidence_interval
    ours = paired_bootstrap(differences, seed=5)
    assert ours.low == pytest.approx(theirs.low, abs=0.006)
    assert ours.high == pytest.approx(theirs.high, abs=0.006)


def test_the_bootstrap_of_groups_is_that_of_one_and_each_group_counts_alike() -> None:
    generator = np.random.default_rng(5)
    few, many = generator.choice([-1, 0, 1], size=40), generator.choice([-1, 0, 1], size=4000)
    assert stratified_bootstrap([few], seed=3) == paired_bootstrap(few, seed=3)
    both = stratified_bootstrap([few, many], seed=3)
    deviation = math.sqrt(few.var() / len(few) + many.var() / len(many)) / 2
    middle = (few.mean() + many.mean()) / 2
    assert (both.high - middle) / deviation == pytest.approx(1.96, abs=0.1)
    assert (middle - both.low) / deviation == pytest.approx(1.96, abs=0.1)


def test_the_bootstrap_covers_the_true_difference_about_as_often_as_it_says() -> None:
    generator, chances = np.random.default_rng(6), [0.12, 0.68, 0.20]
    held = [
        _holds(paired_bootstrap(generator.choice([-1, 0, 1], size=150, p=chances), seed=run, resamples=1000), 0.08)
        for run in range(600)
    ]
    assert 0.915 < np.mean(held) < 0.975


def test_the_bootstrap_is_the_same_for_the_same_seed_in_any_order_of_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = [1, 0, 0, -1, 1, 0.5]
    first = paired_bootstrap(differences, seed=7)
    assert paired_bootstrap(differences[::-1], seed=7) == first
    assert paired_bootstrap(differences, seed=8, resamples=100) != paired_bootstrap(differences, seed=7, resamples=100)
    monkeypatch.setattr(resampling, "_AT_ONCE", 1000)  # in many parts
    assert paired_bootstrap(differences, seed=7) == first


def test_systems_that_never_differ_have_an_interval_of_zero() -> None:
    assert paired_bootstrap([0, 0, 0], seed=1) == Interval(0, 0)
    assert not Interval(0, 0).excludes_zero
    assert not Interval(-0.1, 0.0).excludes_zero
    assert Interval(-0.2, -0.1).excludes_zero
    assert Interval(0.1, 0.2).excludes_zero


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_binomial_test_of_scipy(better: int, worse: int) -> None:
    expected = stats.binomtest(better, better + worse).pvalue if better + worse else 1.0
    assert mcnemar(better, worse) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(better, worse) == mcnemar(worse, better)


def test_mcnemar_of_six_to_one_is_that_by_hand_and_thousands_do_not_overflow() -> None:
    assert mcnemar(6, 1) == 2 * (1 + 7) / 2**7
    assert mcnemar(0, 0) == mcnemar(5, 5) == 1
    assert 0 <= mcnemar(9000, 3000) < 1e-300


def test_holm_is_that_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(shares, min_size=1, max_size=8))
def test_holm_rejects_exactly_what_its_step_down_procedure_rejects(p_values: list[float]) -> None:
    for level in (0.01, 0.05, 0.3):
        rejected: set[int] = set()
        for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
            if (len(p_values) - rank) * p_values[place] > level:
                break
            rejected.add(place)
        assert {place for place, p in enumerate(holm(p_values)) if p <= level} == rejected


def test_calibration_is_that_by_hand() -> None:
    found = calibration([0.95, 0.85, 0.95, 0.3], [1, 0, 1, 0], bins=10)
    assert [(each.low, each.high, each.count) for each in found.bins] == [(0.2, 0.3, 1), (0.8, 0.9, 1), (0.9, 1.0, 2)]
    assert [each.accuracy for each in found.bins] == [0, 0, 1]
    assert found.ece == pytest.approx((0.3 + 0.85 + 2 * 0.05) / 4)
    assert found.adaptive_ece == pytest.approx((0.3 + 0.85 + 0.05 + 0.05) / 4)


@settings(max_examples=50)
@given(st.lists(st.tuples(shares, st.booleans()), min_size=1, max_size=60), st.integers(1, 20))
def test_calibration_is_its_definition(answers: list[tuple[float, bool]], bins: int) -> None:
    found = calibration(*zip(*answers, strict=True), bins)
    error = 0.0
    for place in range(bins):
        inside = [
            (confidence, right)
            for confidence, right in answers
            if max(0, math.ceil(confidence * bins) - 1) == place or (place == bins - 1 and confidence * bins > bins)
        ]
        error += abs(sum(right for _, right in inside) - sum(confidence for confidence, _ in inside))
    assert found.ece == pytest.approx(error / len(answers), abs=1e-9)
    assert sum(each.count for each in found.bins) == len(answers)
    mean_gap = abs(np.mean([right for _, right in answers]) - np.mean([confidence for confidence, _ in answers]))
    assert mean_gap - 1e-9 <= found.ece <= 1 + 1e-9
    assert mean_gap - 1e-9 <= found.adaptive_ece <= 1 + 1e-9
    assert calibration(*zip(*answers, strict=True), 1).ece == pytest.approx(mean_gap)


def test_answers_as_sure_as_they_are_right_are_calibrated() -> None:
    generator = np.random.default_rng(9)
    confidences = generator.uniform(size=40_000)
    sound = calibration(confidences, generator.uniform(size=40_000) < confidences)
    assert sound.ece < 0.015
    assert sound.adaptive_ece < 0.015
    assert calibration(confidences, np.zeros(40_000)).ece == pytest.approx(0.5, abs=0.01)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_the_pareto_line_has_exactly_the_points_that_no_other_beats(points: list[tuple[int, int]]) -> None:
    def beaten(point: tuple[int, int]) -> bool:
        return any(other != point and other[0] <= point[0] and other[1] >= point[1] for other in points)

    front = pareto(points)
    assert set(front) == {place for place, point in enumerate(points) if not beaten(point)}
    assert [points[place] for place in front] == sorted(points[place] for place in front)


def _holds(interval: Interval, value: float) -> bool:
    return interval.low <= value <= interval.high
