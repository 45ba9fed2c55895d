"""The distinct answers to one question, and which of them is taken."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from unisono.evals.baselines.base import Case, Choice
from unisono.evals.records import Answer

DECIMALS = 6
"""Decimals of stored numbers: more would differ between runs."""
Verdicts = Mapping[str, Mapping[str, float]]
"""By judge and option."""


def options(candidates: Mapping[str, Answer]) -> dict[str, tuple[str, ...]]:
    """Group members that gave the same answer, in the order of each answer's first member.

    The key, which names the option, is the member with the largest confidence. Members without an answer count only
    when no member has one.
    """
    answered = {name: answer for name, answer in candidates.items() if answer.answer} or candidates
    groups: dict[str, list[str]] = {}
    for name, answer in answered.items():
        groups.setdefault(answer.answer, []).append(name)
    return {max(names, key=lambda name: answered[name].confidence): tuple(names) for names in groups.values()}


def by_answer(candidates: Mapping[str, Answer]) -> list[str]:
    """The options in an order independent of the members'."""
    return sorted(options(candidates), key=lambda option: candidates[option].answer)


def likeliest(candidates: Mapping[str, Answer], scores: Mapping[str, float]) -> str:
    """The option with the largest score. Ties: more members, larger sum of confidences, first member."""
    groups = options(candidates)

    def merit(option: str) -> tuple[float, int, float]:
        # fsum is the same in every order of the members
        confidence = math.fsum(candidates[name].confidence for name in groups[option])
        return scores[option], len(groups[option]), confidence

    return max(groups, key=merit)


def choose(case: Case, scores: Mapping[str, float]) -> Choice:
    """Take the likeliest option; its score, at most 1, is the confidence."""
    taken = likeliest(case.candidates, scores)
    return Choice(taken, min(scores[taken], 1.0), tuple(case.candidates))


def mean_verdicts(candidates: Mapping[str, Answer], verdicts: Verdicts, unasked: float) -> dict[str, float]:
    """Mean verdict on each option; ``unasked`` where no judge was asked."""
    said = {option: [told[option] for told in verdicts.values() if option in told] for option in options(candidates)}
    return {option: math.fsum(numbers) / len(numbers) if numbers else unasked for option, numbers in said.items()}


def most_favoured(cases: Sequence[Case], evidence: str, unasked: float | None = None) -> list[Choice]:
    """Take in each case the option with the largest mean verdict, which is the confidence of the choice.

    `evidence` is the key of the verdicts; `unasked` is that where no judge was asked, by default equal shares.
    """
    choices = []
    for case in cases:
        usual = 1 / len(options(case.candidates)) if unasked is None else unasked
        choices.append(choose(case, mean_verdicts(case.candidates, case.evidence.get(evidence, {}), usual)))
    return choices


def rounded(verdicts: Verdicts) -> dict[str, dict[str, float]]:
    return {
        judge: {option: round(number, DECIMALS) for option, number in told.items()} for judge, told in verdicts.items()
    }
