"""The answer that most members give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from unisono.evals.baselines.base import Case, Choice
from unisono.evals.baselines.options import likeliest, options
from unisono.evals.baselines.words import Parametric
from unisono.evals.records import Answer


@dataclass(frozen=True)
class Majority(Parametric):
    """Every member has a vote. Of answers with equally many, that of the larger sum of confidences is taken.

    Who answered nothing has no vote, but where nobody answered. The confidence is the share of the members.
    """

    kind: ClassVar[str] = "majority"
    source: ClassVar[str] = (
        "Plain voting; over answers of one model it is Wang et al., Self-Consistency Improves Chain of Thought "
        "Reasoning in Language Models, arXiv 2203.11171"
    )
    first: ClassVar[str] = ""

    def decide(self, cases: Sequence[Case]) -> list[Choice]:
        """Count the votes."""
        return [_count(case.candidates) for case in cases]


def _count(candidates: Mapping[str, Answer]) -> Choice:
    votes = {option: len(members) for option, members in options(candidates).items()}
    taken = likeliest(candidates, votes)
    return Choice(taken, votes[taken] / len(candidates), tuple(candidates))
