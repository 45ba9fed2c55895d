"""A cascade: the next member is asked where the one before was unsure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from unisono.errors import SpecError
from unisono.evals.baselines.base import Case, Choice
from unisono.evals.baselines.judging import LEAST
from unisono.evals.baselines.words import Parametric, check_number
from unisono.evals.records import Answer


@dataclass(frozen=True)
class Cascade(Parametric):
    """Asks the members in their order, cheap ones first, until one is sure enough.

    How unsure a member is of a text is a quantile of its pieces' uncertainties ``-log p`` ("Chow-Quantile" of the
    source): not their sum, which grows with the length, nor their mean, which many easy pieces hide a hard one in. Of
    choices it is ``-log p`` of the one that was taken. The confidence is ``exp`` of its negative.

    Which questions are deferred is fixed by a share or by a threshold. The source learns a rule on labelled questions
    as well, which is left out: a baseline is not told what is right.
    """

    kind: ClassVar[str] = "cascade"
    source: ClassVar[str] = (
        "Gupta et al., Language Model Cascades: Token-level Uncertainty and Beyond, arXiv 2404.10136"
    )
    first: ClassVar[str] = "quantile"

    quantile: float = 0.8
    """0 is a text's surest piece, 1 its least sure one."""
    share: float | None = None
    """Of the questions that come to a member, how many go on to the next: the least sure ones. 0.3 where no threshold
    is given."""
    threshold: float | None = None
    """In nats: what is above goes on."""

    def __post_init__(self) -> None:
        """Check it. Raises a `SpecError` that names the value."""
        check_number(self.kind, "quantile", self.quantile, 0, 1)
        if self.share is not None and self.threshold is not None:
            raise SpecError("a cascade defers by a share or by a threshold, not both", hint="leave one of them out")
        if self.share is not None:
            check_number(self.kind, "share", self.share, 0, 1)
        if self.threshold is not None:
            check_number(self.kind, "threshold", self.threshold, 0, -LEAST)

    def decide(self, cases: Sequence[Case]) -> list[Choice]:
        """Go from member to member. Who failed is passed over, the last one's answer is taken."""
        rows = [[uncertainty(answer, self.quantile) for answer in case.candidates.values()] for case in cases]
        stages = [0] * len(cases)
        here = list(range(len(cases)))
        while here := [place for place in here if stages[place] + 1 < len(rows[place])]:
            here = self._deferred(here, [rows[place][stages[place]] for place in here])
            for place in here:
                stages[place] += 1
        choices = []
        for case, row, stage in zip(cases, rows, stages, strict=True):
            members = tuple(case.candidates)
            choices.append(Choice(members[stage], math.exp(-row[stage]), members[: stage + 1]))
        return choices

    def _deferred(self, places: Sequence[int], unsure: Sequence[float]) -> list[int]:
        if self.threshold is not None:
            return [place for place, value in zip(places, unsure, strict=True) if value > self.threshold]
        share = 0.3 if self.share is None else self.share
        ranked = sorted(zip(places, unsure, strict=True), key=lambda each: -each[1])  # of equal ones the first go on
        return sorted(place for place, _ in ranked[: math.floor(share * len(places) + 0.5)])


def uncertainty(answer: Answer, quantile: float) -> float:
    """How unsure a member was of its answer, in nats: 0 where it was sure.

    Between two pieces the quantile is interpolated. An answer without a piece is as unsure as there is.
    """
    chances = [answer.confidence] if answer.choices else list(answer.p)
    if not chances:
        return -LEAST
    nats = [-math.log(p) if p > 0 else -LEAST for p in chances]
    return max(0.0, float(np.quantile(nats, quantile)))
