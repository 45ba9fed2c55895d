"""One member for all questions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from unisono.evals.baselines.base import Case, Choice
from unisono.evals.baselines.judging import check_member
from unisono.evals.baselines.words import written
from unisono.evals.panel import Panel
from unisono.evals.records import Answer, Question


@dataclass(frozen=True)
class BestMember:
    """Takes the answers of one member: of the one that is named, or of the one that seems best without references.

    That is the member whose answers agree most often with the others', and of equal ones the one that is surer on the
    mean. Where it failed, the next best answers in its place.
    """

    kind: ClassVar[str] = "best-member"
    source: ClassVar[str] = "Plain definition: the member that agrees most often with the others"
    first: ClassVar[str] = "member"

    member: str | None = None
    """Whose answers are taken; ``None`` for the one that seems best."""

    def check(self, members: Sequence[str]) -> None:
        """Refuse a member that there is not."""
        check_member(self.name, self.member, members)

    def gather(self, question: Question, candidates: Mapping[str, Answer], panel: Panel) -> dict[str, Any]:
        """The answers say enough."""
        return {}

    def decide(self, cases: Sequence[Case]) -> list[Choice]:
        """Take its answer to every question."""
        ranked = _by_merit(cases)
        choices = []
        for case in cases:
            able = [name for name in ranked if name in case.candidates]
            taken = self.member if self.member is not None and self.member in case.candidates else able[0]
            asked = tuple(case.candidates) if self.member is None else (taken,)
            choices.append(Choice(taken, case.candidates[taken].confidence, asked))
        return choices

    @property
    def name(self) -> str:
        """As it is written on the command line."""
        return written(self)


def _by_merit(cases: Sequence[Case]) -> list[str]:
    """The members, the seemingly best first."""
    agreements: dict[str, list[int]] = {}
    confidences: dict[str, list[float]] = {}
    for case in cases:
        given = [answer.answer for answer in case.candidates.values()]
        for name, answer in case.candidates.items():
            agreements.setdefault(name, []).append(given.count(answer.answer) - 1 if answer.answer else 0)
            confidences.setdefault(name, []).append(answer.confidence)
    return sorted(
        agreements,
        key=lambda name: (sum(agreements[name]), math.fsum(confidences[name]) / len(confidences[name])),
        reverse=True,
    )
