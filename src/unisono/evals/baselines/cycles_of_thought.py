"""The probability of answers after explanations, weighted by how well these hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unisono.chat.messages import Prompt
from unisono.evals.baselines.base import Baseline, Case, Choice, check_number
from unisono.evals.baselines.judging import answer_words, granted, judges, listed, log_chances, shares
from unisono.evals.baselines.options import DECIMALS, by_answer, most_favoured, rounded
from unisono.evals.baselines.self_evaluation import rotated
from unisono.evals.model_pool import ModelPool
from unisono.evals.records import Answer, Question
from unisono.records import Limits

TEMPERATURE = 0.8
STOPS = ("\n\n", "\nQuestion:", "\nAnswer:")


@dataclass(frozen=True)
class CyclesOfThought(Baseline):
    """Takes the most probable answer after explanations, each weighted by how well it follows from the question.

    ``p(a|q) = Σ w(e) p(a|e,q) / Σ w(e)`` over explanations ``e`` that a member samples for the question and its
    possible answers. ``w(e)`` is the probability of "True", against "False", that the explanation is correct given the
    question; ``p(a|e,q)`` is that of the answer's label after the explanation. The confidence is the mean of ``p`` over
    the members.

    The order of the answers rotates from one explanation to the next. Explanations are sampled with seeds 1, 2 …
    """

    kind = "cycles-of-thought"
    source = (
        "Becker and Soatto, Cycles of Thought: Measuring LLM Confidence through Stable Explanations, arXiv 2406.03441"
    )
    first = "explanations"

    explanations: int = 3
    pieces: int = 48
    """Maximum length of an explanation."""
    judge: str | None = None

    def __post_init__(self) -> None:
        check_number(self.kind, "explanations", self.explanations, 1, 100, whole=True)
        check_number(self.kind, "pieces", self.pieces, 1, 4096, whole=True)

    def gather(self, question: Question, candidates: Mapping[str, Answer], pool: ModelPool) -> dict[str, Any]:
        names = by_answer(candidates)
        if len(names) == 1:
            return {}
        texts = [answer_words(question, candidates[name]) for name in names]
        turns = [turn % len(texts) for turn in range(self.explanations)]
        asked = [listed(question, rotated(texts, turn)) for turn in turns]
        found: dict[str, dict[str, float]] = {}
        weights: dict[str, list[float]] = {}
        for judge in judges(pool, self.judge):
            explained = self._explain(pool, judge, [text for text, _ in asked])
            weights[judge] = _entailed(pool, judge, explained)
            rows = _answered(pool, judge, explained, [labels for _, labels in asked])
            in_order = [rotated(row, len(texts) - turn) for row, turn in zip(rows, turns, strict=True)]
            found[judge] = dict(zip(names, weighed(in_order, weights[judge]), strict=True))
        return {
            "p": rounded(found),
            "weights": {judge: [round(w, DECIMALS) for w in row] for judge, row in weights.items()},
        }

    def decide(self, cases: Sequence[Case]) -> list[Choice]:
        return most_favoured(cases, "p")

    def _explain(self, pool: ModelPool, judge: str, texts: Sequence[str]) -> list[tuple[str, str]]:
        alone, limits = pool.member(judge), Limits(self.pieces, STOPS)
        explained = []
        for seed, text in enumerate(texts, start=1):
            drawing = replace(alone, method=alone.method.but(draw=f"{TEMPERATURE} seed:{seed}"))
            prompt = Prompt(text=f"{text}\n\nExplain in a few words which of them is correct.\nExplanation:")
            (written_,) = granted(pool.generate(drawing, [(prompt, limits)]))
            explained.append((text, written_.text.strip()))
        return explained


def _entailed(pool: ModelPool, judge: str, explained: Sequence[tuple[str, str]]) -> list[float]:
    asked = [
        (
            f"Premise:\n{text}\n\nHypothesis: {explanation}\n\n"
            "Given the premise, is the hypothesis correct (True/False)?",
            (" True", " False"),
        )
        for text, explanation in explained
    ]
    return [shares(row)[0] for row in log_chances(pool, judge, asked)]


def _answered(
    pool: ModelPool, judge: str, explained: Sequence[tuple[str, str]], labels: Sequence[Sequence[str]]
) -> list[list[float]]:
    asked = [
        (f"{text}\n\nArgument: {explanation}\n\nBy this argument, the correct answer is", row)
        for (text, explanation), row in zip(explained, labels, strict=True)
    ]
    return [shares(row) for row in log_chances(pool, judge, asked)]


def weighed(rows: Sequence[Sequence[float]], weights: Sequence[float]) -> list[float]:
    """Weighted mean of distributions; unweighted when all weights are 0."""
    total = math.fsum(weights)
    if total <= 0:
        return weighed(rows, [1.0] * len(rows))
    return [
        math.fsum(weight * p for weight, p in zip(weights, column, strict=True)) / total
        for column in zip(*rows, strict=True)
    ]
