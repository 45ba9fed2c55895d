"""The answers as the choices of one question: which of them is correct, (A) or (B)?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from unisono.evals.baselines.base import Baseline, Case, Choice
from unisono.evals.baselines.judging import answer_words, judges, listed, log_chances, shares
from unisono.evals.baselines.options import by_answer, most_favoured, rounded
from unisono.evals.model_pool import ModelPool
from unisono.evals.records import Answer, Question

NOTA = "None of the above"
ASK = "Which of the possible answers is correct? The correct answer is"
Kind = TypeVar("Kind")


@dataclass(frozen=True)
class SelfEvaluation(Baseline):
    """Takes the answer whose label judges find most probable ("sample and select" in the source).

    Each of N answers appears once in every place, in N orders, and the log probabilities of their labels are averaged:
    a bias for a label or a place adds the same to all and cancels (Zheng et al., Large Language Models Are Not Robust
    Multiple Choice Selectors, arXiv 2309.03882). The confidence is the mean of the judges' probabilities, or 1 for a
    single answer.
    """

    kind = "self-evaluation"
    source = "Ren et al., Self-Evaluation Improves Selective Generation in Large Language Models, arXiv 2312.09300"
    first = "judge"

    judge: str | None = None
    nota: bool = False
    """Whether to add the choice "none of the above"."""

    def gather(self, question: Question, candidates: Mapping[str, Answer], pool: ModelPool) -> dict[str, Any]:
        names = by_answer(candidates)
        if len(names) == 1 and not self.nota:
            return {}
        texts = [answer_words(question, candidates[name]) for name in names]
        fixed = [NOTA] if self.nota else []
        orders = [rotated(texts, start) for start in range(len(texts))]
        asked = [listed(question, [*order, *fixed]) for order in orders]
        chances: dict[str, dict[str, float]] = {}
        for judge in judges(pool, self.judge):
            turned = log_chances(pool, judge, [(f"{text}\n\n{ASK}", labels) for text, labels in asked])
            # in the order of the first question again
            rows = [
                [*rotated(row[: len(texts)], len(texts) - start), *row[len(texts) :]]
                for start, row in enumerate(turned)
            ]
            means = [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]
            chances[judge] = dict(zip(names, shares(means), strict=False))
        return {"p": rounded(chances)}

    def decide(self, cases: Sequence[Case]) -> list[Choice]:
        return most_favoured(cases, "p")


def rotated(row: Sequence[Kind], start: int) -> list[Kind]:
    return [*row[start:], *row[:start]]
