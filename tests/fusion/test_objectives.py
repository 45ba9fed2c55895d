"""What fits make small: derivatives, and that choosing is fitted where likelihood would prefer another member."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from unisono.fusion.fitting import NODES, Observed, Shape, at_node, fit_geometric, fit_mean, loss_of
from unisono.fusion.fitting import Likely as LikelyColumns
from unisono.fusion.objectives import SHARPEST, Choices, Likelihood

pytest.importorskip("scipy.optimize")
Floats = NDArray[np.float64]


def choices_of(pieces: list[list[int]]) -> Choices:
    """By question, how many pieces each of its answers has."""
    per_answer = [count for question in pieces for count in question]
    first_A = np.cumsum([0, *per_answer])[:-1]
    first_Q = np.cumsum([0, *(len(question) for question in pieces)])[:-1]
    return Choices(first_A, first_Q, np.full(len(pieces), 1 / len(pieces)))


def drawn(seed: int = 0, questions: int = 30) -> tuple[Choices, Floats]:
    generator = np.random.default_rng(seed)
    pieces = [list(generator.integers(1, 5, generator.integers(2, 5))) for _ in range(questions)]
    choices = choices_of(pieces)
    return choices, -2 * generator.random(sum(map(sum, pieces)))


@pytest.mark.parametrize("objective", ["likelihood", "choices"])
def test_derivatives_are_those_of_the_loss(objective: str) -> None:
    choices, logp_N = drawn()
    share_N = np.random.default_rng(1).random(len(logp_N))
    loss = choices if objective == "choices" else Likelihood(share_N)
    _, slope_N = loss(logp_N)
    for place in range(0, len(logp_N), 7):
        step_N = np.zeros(len(logp_N))
        step_N[place] = 1e-4
        numeric = (loss(logp_N + step_N)[0] - loss(logp_N - step_N)[0]) / 2e-4
        assert slope_N[place] == pytest.approx(numeric, abs=1e-6)


def test_a_choice_is_a_softmax_of_the_sums_of_its_pieces_at_the_best_scale() -> None:
    choices, logp_N = drawn()
    ends_A = [*choices.first_A[1:], len(logp_N)]
    score_A = [logp_N[start:end].sum() for start, end in zip(choices.first_A, ends_A, strict=True)]
    ends_Q = [*choices.first_Q[1:], len(score_A)]

    def loss(scale: float) -> float:
        its = [score_A[start:end] for start, end in zip(choices.first_Q, ends_Q, strict=True)]
        return float(np.mean([np.log(sum(np.exp(scale * (each - some[0])) for each in some)) for some in its]))

    assert choices(logp_N)[0] == pytest.approx(min(map(loss, np.geomspace(1e-3, SHARPEST, 4000))), abs=1e-5)
    assert choices(3 * logp_N)[0] == pytest.approx(choices(logp_N)[0], abs=1e-5)  # how large scores are says nothing


def test_questions_that_are_all_right_have_next_to_no_loss_and_no_warning() -> None:
    choices = choices_of([[1, 1], [2, 1]])
    value, slope_N = choices(np.array([-0.1, -900.0, -0.1, -0.1, -1000.0]))
    assert value == pytest.approx(0, abs=1e-6)
    assert np.isfinite(slope_N).all()


def informed_and_fluent(questions: int = 200) -> Observed:
    """Two members: one knows which answer is right and finds all unlikely, the other likes all and knows nothing.

    Each answer is one piece.
    """
    generator = np.random.default_rng(4)
    right_A = np.tile([True, False, False], questions)
    informed_A = -6.0 + 1.5 * right_A + generator.normal(0, 0.5, len(right_A))
    fluent_A = np.minimum(-2.0 + generator.normal(0, 1.0, len(right_A)), -0.1)
    logp_NK = np.stack([informed_A, fluent_A], axis=1)
    p_NKU = np.stack([np.exp(logp_NK), 1 - np.exp(logp_NK)], axis=2)  # the piece, and all others
    logz_NKT = np.stack([np.log((p_NKU**node).sum(axis=2)) for node in NODES], axis=2)
    logp_NKT = np.stack([node * logp_NK for node in NODES], axis=2) - logz_NKT
    share_N = np.where(right_A, 1 / questions, 0.0)
    likely = LikelyColumns(np.log(p_NKU).astype(np.float32), np.zeros((len(right_A), 2), np.float32))
    return Observed(logp_NKT, logz_NKT, share_N, likely, choices_of([[1, 1, 1]] * questions))


@pytest.mark.parametrize("temperatures", [False, True])
def test_choosing_gives_weight_to_who_knows_and_likelihood_to_who_is_fluent(*, temperatures: bool) -> None:
    seen = informed_and_fluent()
    likely = Observed(seen.logp_NKT, seen.logz_NKT, seen.share_N)
    by_choices, by_likelihood = (fit_mean(each, temperatures=temperatures) for each in (seen, likely))

    def right(shape: Shape) -> float:
        p_QC = (np.exp(at_node(seen, 1.0) / shape.temperature_K) @ shape.weight_K).reshape(-1, 3)
        return float((p_QC[:, 0] > p_QC[:, 1:].max(axis=1)).mean())

    assert right(by_choices) > right(by_likelihood) + 0.2
    best = min(
        loss_of(seen, Shape(np.array([weight, 1 - weight]), by_choices.temperature_K), "mean")
        for weight in np.linspace(0.001, 0.999, 200)
    )
    assert loss_of(seen, by_choices, "mean") <= best + 1e-3
    assert loss_of(likely, by_likelihood, "mean") < loss_of(likely, by_choices, "mean")


def test_the_geometric_rule_is_fitted_to_choices_too() -> None:
    seen = informed_and_fluent()
    found = fit_geometric(seen, temperatures=False)
    grid = [
        loss_of(seen, Shape(np.array([weight, 1 - weight]), np.ones(2)), "geometric")
        for weight in np.linspace(0.001, 0.999, 100)
    ]
    assert loss_of(seen, found, "geometric") <= min(grid) + 1e-3
    assert found.weight_K[0] > 0.5
