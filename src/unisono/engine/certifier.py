"""Greedy choices and gates by what is known of members: certified by bounds, or asked again, or counted.

Of members that tell their likeliest ids something is unknown, of those that were not asked all (docs/adr/0016, 0023).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from unisono.engine.choice import Choice, Doubt
from unisono.engine.member import Member, Place
from unisono.engine.passes import FurtherQuestion
from unisono.engine.runner import Runner
from unisono.engine.sampler import Sampler, reshaping_of, told_by
from unisono.engine.step_state import StepState
from unisono.fusion.bounds import Certificate, Kinds, Reshaping, Voter, Whole, certify, kinds_of
from unisono.fusion.fold_top import FoldedTop
from unisono.fusion.gate_bounds import GATE_BOUNDS
from unisono.fusion.partial_votes import certify_plausible
from unisono.fusion.rules import ALPHA, FLOOR

MORE = (10, 100)
"""How many times its own k a member is asked for: twice at most."""
KEPT = 32
"""Sets of members whose kinds of columns are kept, as each takes megabytes: there are 2^K sets of K members."""


class Seen(Protocol):
    """What follows for one text from what is known."""

    @property
    def doubt(self) -> Doubt | None: ...


Look = TypeVar("Look", bound=Seen)


class Reading(NamedTuple):
    """What a gate makes of what its lead tells."""

    score: float
    """The least that it may be; no more than the threshold where it may be on either side of that."""
    likeliest: int | None
    """The lead's likeliest column, where that is certain."""
    choice: int
    """What the lead would write, if it were alone."""
    is_certain: bool
    doubt: Doubt | None
    is_blind: bool
    """Whether it gives no mass, as far as is known, to what a grammar allows: the gate then opens."""


class Certifier:
    """Chooses the largest column of what is known, and proves it where it can."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._kinds: dict[tuple[tuple[str, Place | None, bool], ...], Kinds] = {}
        """The last that were asked for, the newest at the end."""

    def choose(self, states: Sequence[StepState], position: int) -> list[Choice]:
        """Choose for texts at a position; what is not certain is asked about again, for all texts in one pass."""
        choices = {state: self._choose(state, position) for state in states}
        self._ask_again(choices, position, partial(self._choose, position=position))
        return list(choices.values())

    def choose_early(self, state: StepState, position: int, heard: Collection[Member]) -> Choice:
        """Choose for a text at a position, by those of its voters that were ``heard``; it is certain if the others can
        change nothing.
        """
        voters, combine = state.voters(position), state.plan.combine
        told = {voter.name: told_by(state, voter, position) for voter in voters if voter in heard}
        weights, floor = state.fixed_weights(voters), FLOOR if combine.floor is None else combine.floor
        reshaping = reshaping_of(state, position)
        if combine.rule == "contrastive":
            p_U_K = [its.p_U if isinstance(its := told.get(voter.name), Whole) else None for voter in voters]
            alpha = ALPHA if combine.alpha is None else combine.alpha
            found = certify_plausible(p_U_K, weights, alpha, floor, reshaping)
        else:
            known = [told.get(voter.name) or voter.untold(state.place(voter, position)) for voter in voters]
            kinds = self._kinds_of(state, position, voters, heard)
            found = certify(known, weights, kinds, combine.rule, floor, reshaping)
        asked = tuple(voter for voter in voters if voter in heard)
        return _settled(state, found, asked, told if state.text.steps is not None else {})

    def forced(self, state: StepState, position: int) -> Choice | None:
        """The choice at a position where a grammar leaves one column: nobody has to be asked."""
        allowed_U = state.allowed(position)
        if allowed_U is None or np.count_nonzero(allowed_U) != 1:
            return None
        found = Certificate(int(allowed_U.argmax()), True, np.empty(0, np.int64), 0.0, 1.0)
        return _settled(state, found, (), {})

    def read_gates(self, states: Sequence[StepState], position: int, sampler: Sampler) -> None:
        """Let gates decide that look at truncated leads; those that neither open nor shut for certain open.

        A lead is asked again about what is in doubt, its own choice at a shut gate included.
        """
        readings = {state: self._read_gate(state, position) for state in states}
        self._ask_again(readings, position, partial(self._read_gate, position=position))
        for state, (score, likeliest, choice, is_certain, _, is_blind) in readings.items():
            if not state.plan.is_greedy:
                [(choice, _)] = sampler.guess([state], position, state.plan.lead)
            state.read_gate(score, likeliest, choice, certain=is_certain, blind=is_blind)

    def _read_gate(self, state: StepState, position: int) -> Reading:
        gate, lead = state.plan.gate, state.plan.lead
        told, kinds = told_by(state, lead, position), self._kinds_of(state, position, [lead])
        assert isinstance(told, FoldedTop), "a lead that tells all reads its gate as it is"
        if gate.kind in GATE_BOUNDS:
            bounds, threshold = GATE_BOUNDS[gate.kind](told, kinds), gate.threshold or 0.0
            settles = bounds.settles(threshold)
            score = bounds.least if settles else min(bounds.least, threshold)
        else:
            settles, [score] = True, gate.score(None, [state.text.pieces + position])
        is_certain, asked = settles or state.awaits_end, gate.opens(score) or state.awaits_end
        likeliest = certify([told], [1.0], kinds, "mean")
        if gate.boundary and asked:
            # Where the text ends inside a token, it is shut whatever the score is.
            shut = likeliest.is_certain and state.inside(likeliest.column) is not None
            is_certain = shut or (is_certain and likeliest.is_certain)
        lone, is_settled = likeliest, True
        if not asked or gate.boundary:  # which may keep it shut
            lone = certify([told], [1.0], kinds, "mean", reshaping=reshaping_of(state, position))
            is_settled = lone.is_certain or not state.plan.is_greedy
        is_blind = lone is not likeliest and lone.is_blind and state.allowed(position) is not None
        is_certain = is_certain and (lone.is_certain or not is_blind)
        unsure = lone if is_certain or is_blind else likeliest
        doubt = None if is_certain and is_settled else Doubt([lead], _columns(unsure))
        sure = likeliest.column if likeliest.is_certain else None
        return Reading(score, sure, state.settled_as(lone.column), is_certain, doubt, is_blind)

    def _ask_again(self, seen: dict[StepState, Look], position: int, look: Callable[[StepState], Look]) -> None:
        """Ask members about what is in doubt, twice at most, and look again."""
        for factor in MORE:
            asked = [
                again
                for state, its in seen.items()
                if its.doubt is not None
                for again in _questions(state, position, its.doubt, factor)
            ]
            if not asked:
                return
            self._runner.ask_again(asked)
            for again in asked:
                again.state.asked_again[again.member.name, position] = again.top, again.also
                if again.member.certificates is not None:
                    again.member.certificates.asked_again += 1
            for state in dict.fromkeys(again.state for again in asked):
                seen[state] = look(state)

    def _choose(self, state: StepState, position: int) -> Choice:
        voters = state.voters(position)
        told = {voter.name: told_by(state, voter, position) for voter in voters}
        combine, kinds = state.plan.combine, self._kinds_of(state, position, voters)
        is_certain, combines = state.is_gate_certain(position), state.combines(position)
        weights, rule = (state.weights(voters), combine.rule) if combines else ([1.0], "mean")
        known = list(told.values()), weights, kinds, rule, FLOOR if combine.floor is None else combine.floor
        found = certify(*known, reshaping_of(state, position))
        open_members = [voter for voter, is_open in zip(voters, found.open_K, strict=True) if is_open]
        # At a shut gate the lead was asked already, and what it writes was settled.
        doubt = None if found.is_certain or not combines else Doubt(open_members, _columns(found))
        column = state.settled_as(found.column)
        if column != found.column:
            only = certify(*known, _only(column, len(kinds.kind_U)))
            found = found._replace(least=only.least, most=only.most)
        return Choice(column, found.is_certain and is_certain, found, voters, told, doubt)

    def _kinds_of(
        self, state: StepState, position: int, voters: Sequence[Member], heard: Collection[Member] | None = None
    ) -> Kinds:
        """The kinds of columns of voters of which something is unknown: truncated ones, and those not ``heard``."""
        heard = voters if heard is None else heard
        its = [(each, state.place(each, position), each in heard) for each in voters]
        its = [(each, place, is_heard) for each, place, is_heard in its if each.is_truncated or not is_heard]
        key = tuple((each.name, place, is_heard) for each, place, is_heard in its)
        kinds = self._kinds.pop(key, None)
        if kinds is None:
            ids_U_K = [
                each.top_plans[place].ids_U if is_heard else each.untold(place).ids_U for each, place, is_heard in its
            ]
            kinds = kinds_of(ids_U_K)
        self._kinds[key] = kinds
        while len(self._kinds) > KEPT:
            del self._kinds[next(iter(self._kinds))]
        return kinds


def _settled(state: StepState, found: Certificate, asked: tuple[Member, ...], told: dict[str, Voter]) -> Choice:
    """A choice by some voters. Nothing is known of the probability of what a grammar puts in the place of another."""
    column = state.settled_as(found.column)
    if column != found.column:
        found = found._replace(least=0.0, most=1.0)
    return Choice(column, found.is_certain, found, asked, told)


def _columns(certificate: Certificate) -> list[int]:
    return [certificate.column, *certificate.rivals.tolist()]


def _only(column: int, size: int) -> Reshaping:
    """As if a grammar allowed one column: what is known of its probability is then told."""
    allowed_U = np.zeros(size, np.bool_)
    allowed_U[column] = True
    return Reshaping(allowed_U)


def _questions(state: StepState, position: int, doubt: Doubt, factor: int) -> Iterator[FurtherQuestion]:
    """Whom to ask again about a text, and for what; nobody who would tell nothing new."""
    allowed_U = state.allowed(position)
    for member in doubt.members:
        truncation = member.backend.facts.truncated
        if truncation is None or state.cursor(member).away:  # who is lost at a first question holds nothing
            continue
        top, also = state.asked_again.get((member.name, position), (truncation.top, ()))
        more = min(truncation.top * factor, truncation.most)
        wanted: tuple[int, ...] = ()
        if truncation.also:
            columns = list(doubt.columns)
            if allowed_U is not None and np.count_nonzero(allowed_U) <= truncation.also:
                columns += np.flatnonzero(allowed_U).tolist()
            plan = member.top_plans[state.place(member, position)]
            ids = np.flatnonzero(np.isin(plan.column_V, columns[: truncation.also])).tolist()
            wanted = tuple(dict.fromkeys([*also, *ids]))[: truncation.also]
        if more > top or set(wanted) - set(also):
            yield FurtherQuestion(state, member, position, max(more, top), wanted)
