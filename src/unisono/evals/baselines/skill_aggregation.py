"""Judges weighed by what they are found able to do, without knowing what is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from unisono.evals.baselines.base import Case, Choice
from unisono.evals.baselines.genrm import verify
from unisono.evals.baselines.options import likeliest, options
from unisono.evals.baselines.words import Parametric
from unisono.evals.model_pool import ModelPool
from unisono.evals.records import Answer, Question

Floats = NDArray[np.float64]
STEPS = 1500
RATE = 0.02
USUAL = 1.0
"""The skill, as a logit, that a judge is held to have before anything is known of it: 0.73."""
HELD = 4.0
"""How many answers it takes to outweigh that."""


@dataclass(frozen=True)
class SkillAggregation(Parametric):
    """Takes the answer that is most probably right, judges' skills being learned from all questions together.

    An item is an answer to a question; judges say how probable it is that it is right, as `GenRM` asks them. The model
    is that of the source: from the context of an item a small layer tells the probability ``p`` that it is right; a
    judge says "right" with probability ``p s1 + (1 - p)(1 - s0)``, where ``s1`` and ``s0`` are its skills, how often it
    is right about right and about wrong answers. Layer and skills are trained together to predict what judges say
    (cross-entropy). Then an item's probability is the posterior, ``p`` times the judges' likelihoods.

    What is different: the context is not a language model's embedding of the text but two numbers, the share of members
    that gave the answer and how sure they were; skills do not depend on it; they are held to a usual skill by a
    quadratic penalty that weighs as much as a few items, in place of the source's own regulariser; and of each judge's
    probabilities only the ranks over all items count, for verifiers that were not trained say "Yes" too readily, each
    in a range of its own. Nobody needs to be told which judge to trust, but judges have to be better than chance on the
    mean: what is right and what is wrong could be exchanged otherwise.
    """

    kind: ClassVar[str] = "skill-aggregation"
    source: ClassVar[str] = "Sun et al., SkillAggregation: Reference-free LLM-Dependent Aggregation, arXiv 2410.10215"
    first: ClassVar[str] = ""

    def gather(self, question: Question, candidates: Mapping[str, Answer], pool: ModelPool) -> dict[str, Any]:
        """Ask every member of every different answer, as `GenRM` does."""
        return {"yes": verify(question, candidates, pool, pool.members)}

    def decide(self, cases: Sequence[Case]) -> list[Choice]:
        """Learn the skills from all cases, then take each one's most probable answer."""
        if not cases:
            return []
        said_NK, context_ND, _ = tabulate(cases)
        right_N = learn(said_NK, context_ND).posterior(said_NK, context_ND)
        beginning, choices = 0, []
        for case in cases:
            names = list(options(case.candidates))
            chances = right_N[beginning : beginning + len(names)]
            beginning += len(names)
            scores = dict(zip(names, map(float, chances), strict=True))
            taken = likeliest(case.candidates, scores)
            choices.append(Choice(taken, scores[taken], tuple(case.candidates)))
        return choices


@dataclass(frozen=True, eq=False)
class Skills:
    """What was learned. N items, K judges, D numbers of context, the first of them 1."""

    layer_D: Floats
    """The weights of the layer that tells from the context how probable it is that an answer is right."""
    right_K: Floats
    """How often a judge says that a right answer is right."""
    wrong_K: Floats
    """How often it says that a wrong answer is wrong."""

    def posterior(self, said_NK: Floats, context_ND: Floats) -> Floats:
        """How probable each answer is right, given its context and what judges say; NaN is a judge's silence."""
        yes_K = np.log(self.right_K / (1 - self.wrong_K))
        no_K = np.log((1 - self.right_K) / self.wrong_K)
        told_NK = np.nan_to_num(said_NK * yes_K + (1 - said_NK) * no_K, nan=0.0)
        return _logistic(context_ND @ self.layer_D + told_NK.sum(axis=1))


def learn(said_NK: Floats, context_ND: Floats) -> Skills:
    """Train layer and skills together to predict what judges say, by gradient descent (Adam, whole batches).

    Args:
        said_NK: probabilities that the answers are right; NaN where a judge says nothing.
        context_ND: what is known of the answers, the first column 1.
    """
    layers, judges = context_ND.shape[1], said_NK.shape[1]
    usual = np.concatenate([np.zeros(layers), np.full(2 * judges, USUAL)])
    values, first, second = usual.copy(), np.zeros_like(usual), np.zeros_like(usual)
    for step in range(1, STEPS + 1):
        slope = _slope(values, said_NK, context_ND) + HELD * (values - usual) / len(said_NK)
        first = 0.9 * first + 0.1 * slope
        second = 0.999 * second + 0.001 * slope**2
        values -= RATE * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    skills = _logistic(values[layers:])
    return Skills(values[:layers], skills[:judges], skills[judges:])


def _slope(values: Floats, said_NK: Floats, context_ND: Floats) -> Floats:
    """The slope of the cross-entropy, a mean over items and a sum over judges."""
    layers, judges = context_ND.shape[1], said_NK.shape[1]
    p_N1 = _logistic(context_ND @ values[:layers])[:, None]
    skills = _logistic(values[layers:])
    right_K, wrong_K = skills[:judges], skills[judges:]
    expected_NK = p_N1 * right_K + (1 - p_N1) * (1 - wrong_K)
    miss_NK = np.nan_to_num((expected_NK - said_NK) / (expected_NK * (1 - expected_NK)), nan=0.0) / len(said_NK)
    by_p_N = (miss_NK * (right_K + wrong_K - 1)).sum(axis=1)
    by_layer_D = context_ND.T @ (by_p_N * (p_N1 * (1 - p_N1))[:, 0])
    by_right_K = (miss_NK * p_N1).sum(axis=0) * right_K * (1 - right_K)
    by_wrong_K = -(miss_NK * (1 - p_N1)).sum(axis=0) * wrong_K * (1 - wrong_K)
    return np.concatenate([by_layer_D, by_right_K, by_wrong_K])


def tabulate(cases: Sequence[Case]) -> tuple[Floats, Floats, list[str]]:
    """Lay out what judges say of the items, case by case in the order of `options`, and the items' context.

    Returns:
        The ranks of what judges say, from 0 to 1; the context; the judges' names.
    """
    judges = list(dict.fromkeys(judge for case in cases for judge in case.evidence.get("yes", {})))
    said, context = [], []
    for case in cases:
        told = case.evidence.get("yes", {})
        for option, members in options(case.candidates).items():
            said.append([told.get(judge, {}).get(option, np.nan) for judge in judges])
            sure = sorted(case.candidates[name].confidence for name in members)
            context.append([len(members) / len(case.candidates), sum(sure) / len(sure)])
    said_NK = np.asarray(said, dtype=np.float64).reshape(len(said), len(judges))
    known_ND = _standardised(np.asarray(context, dtype=np.float64))
    ranked_NK = np.stack([_ranks(column) for column in said_NK.T], axis=1) if judges else said_NK
    return ranked_NK, np.concatenate([np.ones((len(said), 1)), known_ND], axis=1), judges


def _ranks(said_N: Floats) -> Floats:
    """Ranks between 0 and 1, equal ones in the middle of theirs; NaN stays."""
    heard = ~np.isnan(said_N)
    _, places, counts = np.unique(said_N[heard], return_inverse=True, return_counts=True)
    middles = np.cumsum(counts) - counts / 2
    ranked = np.full_like(said_N, np.nan)
    ranked[heard] = middles[places] / max(int(heard.sum()), 1)
    return ranked


def _standardised(numbers_ND: Floats) -> Floats:
    spread_D = numbers_ND.std(axis=0)
    standardised: Floats = (numbers_ND - numbers_ND.mean(axis=0)) / np.where(spread_D > 1e-9, spread_D, np.inf)
    return standardised


def _logistic(logits: Floats) -> Floats:
    odds: Floats = np.exp(np.clip(logits, -30, 30))  # so that no probability is 0 or 1
    return odds / (1 + odds)
