"""One member for all questions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from unisono.evals.baselines.base import Case, Choice
from unisono.evals.baselines.judging import check_member
from unisono.evals.baselines.words import Parametric


@dataclass(frozen=True)
class BestMember(Parametric):
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

    def decide(self, cases: Sequence[Case]) -> list[Choice]:
        """Take its answer to every question."""
        ranked = _by_merit(cases)
        choices = []
        for case in cases:
            preferred = ranked if self.member is None else [self.member, *ranked]
            taken = next(name for name in preferred if name in case.candidates)
            asked = tuple(case.candidates) if self.member is None else (taken,)
            choices.append(Choice(taken, case.candidates[taken].confidence, asked))
        return choices


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
