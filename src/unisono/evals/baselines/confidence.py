"""Baselines that run no model: they use the members' answers and confidence."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from unisono.errors import SpecError
from unisono.evals.baselines.base import Baseline, Case, Choice, check_number
from unisono.evals.baselines.judging import LEAST
from unisono.evals.baselines.options import choose, options
from unisono.evals.records import Answer


@dataclass(frozen=True)
class BestMember(Baseline):
    """Takes one member's answers: the named one, or the one that seems best without references.

    That member agrees most often with the others; ties go to the larger mean confidence. When it failed, the next best
    answers.
    """

    kind = "best-member"
    source = "Plain definition: the member that agrees most often with the others"
    first = "member"

    member: str | None = None

    def decide(self, cases: Sequence[Case]) -> list[Choice]:
        ranked = _by_merit(cases)
        choices = []
        for case in cases:
            preferred = ranked if self.member is None else [self.member, *ranked]
            taken = next(name for name in preferred if name in case.candidates)
            asked = tuple(case.candidates) if self.member is None else (taken,)
            choices.append(Choice(taken, case.candidates[taken].confidence, asked))
        return choices


def _by_merit(cases: Sequence[Case]) -> list[str]:
    agreements: dict[str, int] = defaultdict(int)
    confidences: dict[str, list[float]] = defaultdict(list)
    for case in cases:
        given = Counter(answer.answer for answer in case.candidates.values())
        for name, answer in case.candidates.items():
            agreements[name] += given[answer.answer] - 1 if answer.answer else 0
            confidences[name].append(answer.confidence)
    return sorted(agreements, key=lambda name: (agreements[name], fmean(confidences[name])), reverse=True)


@dataclass(frozen=True)
class Majority(Baseline):
    """Every member has one vote; ties go to the larger sum of confidences.

    A member without an answer has no vote, unless no member has one. The confidence is the share of the candidates.
    """

    kind = "majority"
    source = (
        "Plain voting; over answers of one model it is Wang et al., Self-Consistency Improves Chain of Thought "
        "Reasoning in Language Models, arXiv 2203.11171"
    )

    def decide(self, cases: Sequence[Case]) -> list[Choice]:
        return [
            choose(case, {name: len(alike) / len(case.candidates) for name, alike in options(case.candidates).items()})
            for case in cases
        ]


@dataclass(frozen=True)
class Cascade(Baseline):
    """Asks the members in order, cheap ones first, until one is sure enough.

    The uncertainty of a text is a quantile of its pieces' uncertainties ``-log p`` ("Chow-Quantile" in the source). A
    sum would grow with the length, and in a mean many easy pieces hide a hard one. For choices it is ``-log p`` of the
    chosen one. The confidence is ``exp`` of its negative.

    A share or a threshold decides which questions are deferred. The source's rule learned on labelled questions is left
    out: a baseline does not know what is right.
    """

    kind = "cascade"
    source = "Gupta et al., Language Model Cascades: Token-level Uncertainty and Beyond, arXiv 2404.10136"
    first = "quantile"

    quantile: float = 0.8
    """0 is a text's surest piece, 1 its least sure one."""
    share: float | None = None
    """Share of the questions reaching a member that go to the next, least sure first. 0.3 without a threshold."""
    threshold: float | None = None
    """In nats: questions above it go to the next member."""

    def __post_init__(self) -> None:
        check_number(self.kind, "quantile", self.quantile, 0, 1)
        if self.share is not None and self.threshold is not None:
            raise SpecError("a cascade defers by a share or by a threshold, not both", hint="leave one of them out")
        if self.share is not None:
            check_number(self.kind, "share", self.share, 0, 1)
        if self.threshold is not None:
            check_number(self.kind, "threshold", self.threshold, 0, -LEAST)

    def decide(self, cases: Sequence[Case]) -> list[Choice]:
        """Go from member to member. Failed members are skipped; the last one's answer is final."""
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
        # Of equally unsure ones the first are deferred.
        ranked = sorted(zip(places, unsure, strict=True), key=lambda each: -each[1])
        return sorted(place for place, _ in ranked[: math.floor(share * len(places) + 0.5)])


def uncertainty(answer: Answer, quantile: float) -> float:
    """Uncertainty of an answer in nats: 0 when certain, ``-LEAST`` without a piece. The quantile is interpolated."""
    chances = [answer.confidence] if answer.choices else list(answer.p)
    if not chances:
        return -LEAST
    nats = [-math.log(p) if p > 0 else -LEAST for p in chances]
    return max(0.0, float(np.quantile(nats, quantile)))
