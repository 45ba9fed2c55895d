"""Generative verifiers: the probability of "Yes" when a member is asked whether an answer is correct."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unisono.evals.baselines.base import Baseline, Case, Choice
from unisono.evals.baselines.judging import answer_words, judges, log_chances, question_words, shares
from unisono.evals.baselines.options import choose, most_favoured, options, rounded
from unisono.evals.model_pool import ModelPool
from unisono.evals.records import Answer, Question

UNASKED = 0.5
"""Verdict of a verifier that was not asked."""


@dataclass(frozen=True)
class GenRM(Baseline):
    """Takes the answer with the largest mean over judges of the probability of "Yes", which is the confidence.

    The source trains its verifiers. These are the members as they are, so "Yes" is compared with "No" alone: how
    probable an untrained model finds other words says nothing about the answer.
    """

    kind = "genrm"
    source = "Zhang et al., Generative Verifiers: Reward Modeling as Next-Token Prediction, arXiv 2408.15240"
    first = "judge"

    judge: str | None = None

    def gather(self, question: Question, candidates: Mapping[str, Answer], pool: ModelPool) -> dict[str, Any]:
        return {"yes": verify(question, candidates, pool, judges(pool, self.judge))}

    def decide(self, cases: Sequence[Case]) -> list[Choice]:
        return most_favoured(cases, "yes", UNASKED)


@dataclass(frozen=True)
class SkillAggregation(Baseline):
    """Takes the answer most probably right, with judges' skills learned from all questions together.

    An item is an answer to a question; judges give the probability that it is right, as in `GenRM`. The model is the
    source's. A small layer predicts from an item's context the probability ``p`` that it is right; a judge says "right"
    with probability ``p s1 + (1 - p)(1 - s0)``, where its skills ``s1`` and ``s0`` say how often it is right about
    right and about wrong answers. Layer and skills are fitted together to predict the judgements (cross-entropy). An
    item's probability is the posterior, ``p`` times the judges' likelihoods.

    Differences: the context is not a language model's embedding of the text but two numbers, the share of members that
    gave the answer and their confidence; skills do not depend on it; a quadratic penalty worth a few items pulls them
    to a usual skill, in place of the source's regulariser; and only the ranks of each judge's probabilities over all
    items count, because untrained verifiers say "Yes" too readily, each in its own range. Judges must be better than
    chance on average: otherwise right and wrong could be exchanged.
    """

    kind = "skill-aggregation"
    source = "Sun et al., SkillAggregation: Reference-free LLM-Dependent Aggregation, arXiv 2410.10215"
    libraries = ("scipy",)

    def gather(self, question: Question, candidates: Mapping[str, Answer], pool: ModelPool) -> dict[str, Any]:
        return {"yes": verify(question, candidates, pool, pool.members)}

    def decide(self, cases: Sequence[Case]) -> list[Choice]:
        if not cases:
            return []
        from unisono.evals.baselines.skills import learn, tabulate

        said_NK, context_ND, _ = tabulate(cases)
        right = iter(learn(said_NK, context_ND).posterior(said_NK, context_ND).tolist())
        return [choose(case, {option: next(right) for option in options(case.candidates)}) for case in cases]


def verify(
    question: Question, candidates: Mapping[str, Answer], pool: ModelPool, asked: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Probability of "Yes" against "No" for each distinct answer, by judge and option."""
    names = list(options(candidates))
    endings = (" Yes", " No")
    texts = [
        (
            f"{question_words(question)}\n\nProposed answer: {answer_words(question, candidates[name])}\n\n"
            "Is the answer correct (Yes/No)?",
            endings,
        )
        for name in names
    ]
    verdicts = {}
    for judge in asked:
        said = [shares(logps)[0] for logps in log_chances(pool, judge, texts)]
        verdicts[judge] = dict(zip(names, said, strict=True))
    return rounded(verdicts)
