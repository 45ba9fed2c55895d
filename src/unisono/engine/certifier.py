"""Greedy choices where a voter tells its likeliest ids only: certified by bounds, or asked about again, or counted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from unisono.engine.member import Member, Place
from unisono.engine.runner import Again, Runner
from unisono.engine.sampler import rows_at
from unisono.engine.step_state import StepState
from unisono.errors import ModelError
from unisono.fusion.bounds import Certificate, FoldedTop, Kinds, Voter, certify, kinds_of, whole
from unisono.fusion.fold import bring
from unisono.fusion.rules import FLOOR

MORE = (10, 100)
"""How many times its own k a member is asked for: twice at most."""
_HOST = np.empty(0, np.float32)


class Choice(NamedTuple):
    """What is chosen for one text, and why."""

    certificate: Certificate
    told: dict[str, Voter]
    """By voter, what is known of its distribution."""


class Certifier:
    """Chooses the largest column of what is known, and proves it where it can."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._kinds: dict[tuple[tuple[str, Place | None], ...], Kinds] = {}

    def choose(self, states: Sequence[StepState], position: int) -> list[Choice]:
        """Choose for texts at a position; what is not certain is asked about again, for all texts in one pass."""
        choices = {state: self._choose(state, position) for state in states}
        before: dict[tuple[StepState, Member], tuple[int, tuple[int, ...]]] = {}
        for factor in MORE:
            asked = []
            for state, choice in choices.items():
                if not choice.certificate.is_certain:
                    asked += list(_questions(state, position, choice, factor, before))
            if not asked:
                break
            self._runner.ask_again(asked)
            before |= {(again.state, again.member): (again.top, again.also) for again in asked}
            for state in dict.fromkeys(again.state for again in asked):
                choices[state] = self._choose(state, position)
        for state, choice in choices.items():
            state.text.uncertain = (state.text.uncertain or 0) + (not choice.certificate.is_certain)
        return list(choices.values())

    def _choose(self, state: StepState, position: int) -> Choice:
        voters = state.voters(position)
        told: dict[str, Voter] = {}
        for voter in voters:
            if voter.is_truncated:
                output, row = state.where(voter, position)
                told[voter.name] = output.top(row)
            else:
                told[voter.name] = whole(bring(rows_at([state], voter, position)[0], _HOST))
                _check_numbers(voter, told[voter.name])
        combine, weights = state.plan.combine, state.weights(voters)
        floor = FLOOR if combine.floor is None else combine.floor
        kinds = self._kinds_of(state, position, voters)
        return Choice(certify(list(told.values()), weights, kinds, combine.rule, floor), told)

    def _kinds_of(self, state: StepState, position: int, voters: Sequence[Member]) -> Kinds:
        places = {voter: state.place(voter, position) for voter in voters if voter.is_truncated}
        key = tuple((voter.name, place) for voter, place in places.items())
        if key not in self._kinds:
            self._kinds[key] = kinds_of([voter.top_plans[place].ids_U for voter, place in places.items()])
        return self._kinds[key]


def _questions(
    state: StepState,
    position: int,
    choice: Choice,
    factor: int,
    before: dict[tuple[StepState, Member], tuple[int, tuple[int, ...]]],
) -> Iterator[Again]:
    """Whom to ask again about a text, and for what; nobody who would tell nothing new."""
    certificate = choice.certificate
    for member, is_open in zip(state.voters(position), certificate.open_K, strict=True):
        truncation = member.backend.facts.truncated
        if truncation is None or not is_open:
            continue
        top, also = before.get((state, member), (truncation.top, ()))
        more = min(truncation.top * factor, truncation.most)
        if truncation.also:
            plan = member.top_plans[state.place(member, position)]
            columns = [certificate.column, *certificate.rivals.tolist()][: truncation.also]
            wanted = np.flatnonzero(np.isin(plan.column_V, columns)).tolist()
            wanted = tuple(dict.fromkeys([*also, *wanted]))[: truncation.also]
        else:
            wanted = ()
        if more > top or set(wanted) - set(also):
            yield Again(state, member, position, max(more, top), wanted)


def _check_numbers(member: Member, told: Voter) -> None:
    if not isinstance(told, FoldedTop) and not math.isfinite(float(told.p_U.max())):
        raise ModelError(
            f"member {member.name!r} gave probabilities that are not numbers",
            hint="its weights are damaged, or its dtype overflows: try dtype: float32 or bfloat16",
        )
