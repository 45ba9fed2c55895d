"""A generative verifier: how probable "Yes" is where it is asked whether an answer is correct."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from unisono.evals.baselines.base import Case, Choice
from unisono.evals.baselines.judging import answer_words, check_member, judges, log_chances, question_words, shares
from unisono.evals.baselines.options import most_favoured, options, rounded
from unisono.evals.baselines.words import Parametric
from unisono.evals.model_pool import ModelPool
from unisono.evals.records import Answer, Question

UNASKED = 0.5
"""What a verifier that was not asked says of an answer."""


@dataclass(frozen=True)
class GenRM(Parametric):
    """Takes the answer for which the mean of the judges' probabilities of "Yes" is largest.

    The source trains its verifiers. These are the members as they are, so that "Yes" is held against "No" alone: an
    untrained model has mass on other words, and how much tells nothing of the answer. The mean is the confidence.
    """

    kind: ClassVar[str] = "genrm"
    source: ClassVar[str] = (
        "Zhang et al., Generative Verifiers: Reward Modeling as Next-Token Prediction, arXiv 2408.15240"
    )
    first: ClassVar[str] = "judge"

    judge: str | None = None
    """The member that judges; ``None`` for all."""

    def check(self, members: Sequence[str]) -> None:
        """Refuse a judge that is no member."""
        check_member(self.name, self.judge, members)

    def gather(self, question: Question, candidates: Mapping[str, Answer], pool: ModelPool) -> dict[str, Any]:
        """Ask every judge of every different answer."""
        return {"yes": verify(question, candidates, pool, judges(pool, self.judge))}

    def decide(self, cases: Sequence[Case]) -> list[Choice]:
        """Take the answer that judges confirm most."""
        return most_favoured(cases, "yes", UNASKED)


def verify(
    question: Question, candidates: Mapping[str, Answer], pool: ModelPool, asked: Sequence[str]
) -> dict[str, dict[str, float]]:
    """How probable each judge finds "Yes", held against "No", of each different answer: by judge and by option."""
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
