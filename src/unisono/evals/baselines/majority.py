"""The answer that most members give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from unisono.evals.baselines.base import Case, Choice
from unisono.evals.baselines.options import likeliest, options
from unisono.evals.baselines.words import written
from unisono.evals.panel import Panel
from unisono.evals.records import Answer, Question


@dataclass(frozen=True)
class Majority:
    """Every member has a vote. Of answers with equally many, that of the larger sum of confidences is taken.

    Who answered nothing has no vote, but where nobody answered. The confidence is the share of the members.
    """

    kind: ClassVar[str] = "majority"
    source: ClassVar[str] = (
        "Plain voting; over answers of one model it is Wang et al., Self-Consistency Improves Chain of Thought "
        "Reasoning in Language Models, arXiv 2203.11171"
    )
    first: ClassVar[str] = ""

    def check(self, members: Sequence[str]) -> None:
        """Any members will do."""

    def gather(self, question: Question, candidates: Mapping[str, Answer], panel: Panel) -> dict[str, Any]:
        """The answers say enough."""
        return {}

    def decide(self, cases: Sequence[Case]) -> list[Choice]:
        """Count the votes."""
        return [_count(case.candidates) for case in cases]

    @property
    def name(self) -> str:
        """As it is written on the command line."""
        return written(self)


def _count(candidates: Mapping[str, Answer]) -> Choice:
    votes = {option: len(members) for option, members in options(candidates).items()}
    taken = likeliest(candidates, votes)
    return Choice(taken, votes[taken] / len(candidates), tuple(candidates))
