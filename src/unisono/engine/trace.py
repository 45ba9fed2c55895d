"""What is kept of a step for the trace; and the choice of a mean that is not folded, as its record looks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from unisono.engine.choice import Choice
from unisono.engine.member import Member
from unisono.engine.plan import Plan
from unisono.engine.sampler import Distributions
from unisono.engine.step_state import StepState
from unisono.fusion.bounds import NOTHING, Voter
from unisono.fusion.fold import Array, bring
from unisono.fusion.fold_top import FoldedTop
from unisono.fusion.trace_measures import columns_of_mass, entropy, variation
from unisono.fusion.unfolded import Unfolded
from unisono.outcomes import TRACE_VERSION, outcome_of
from unisono.step_records import DraftRecord, Standing, StepRecord, StepSeconds, TopPieces
from unisono.vocab.union import UnionVocabulary

TOP_PIECES = 10  # of each voter and of what they make together, at most
TOP_MASS = 1e-3  # pieces of less mass are left out, but for the likeliest

_HOST = np.empty(0, np.float32)

Ranked = tuple[tuple[int, float], ...]
"""Columns and their probabilities."""


def record(
    state: StepState,
    position: int,
    column: int,
    distributions: Distributions,
    row: int,
    union: UnionVocabulary,
    *,
    unproved: bool = False,
) -> None:
    """Keep the record of a choice, if the text has a trace; its time is known when the step has ended."""
    text = state.text
    if text.steps is None:
        return
    p_U_by_member, q_U = distributions.of(row), distributions.q_BU[row]
    trace, top = text.request.trace, text.request.top_logprobs
    count = _kept_of_voters(state)
    likeliest = _likeliest(q_U, max(top, TOP_PIECES * trace)) if top or trace else ()
    state.records.append(
        StepRecord(
            piece=union.piece(column),
            mark=union.mark(column),
            part=text.part,
            p=float(q_U[column]),
            voted=tuple(p_U_by_member),
            members={name: float(p_U[column]) for name, p_U in p_U_by_member.items()},
            top={name: _top(p_U, union, count) for name, p_U in p_U_by_member.items()} if count else {},
            likeliest=_pieces(likeliest, union),
            gate=state.gates[position] if state.gates else None,
            draft=_draft_record(state, position, column, union),
            absent=state.missed(position),
            lead=text.plan.lead.name,
            unasked=state.left_out(position),
            subtracted=text.plan.subtracted,
            standing=_standing(q_U, column, likeliest) if text.request.score and top else None,
            certain=False if unproved else None,
            unknown=None if distributions.are_completed else 0.0,
            entropy=entropy(q_U) if trace else None,
            variation=variation([*p_U_by_member.values()]) if trace else None,
        )
    )


def choose_unfolded(
    state: StepState, position: int, unfolded: Unfolded, row: int, union: UnionVocabulary
) -> int | None:
    """Choose the likeliest column of the mean where nothing was folded, and keep the same record of it.

    ``None`` where folding is as good: nothing is kept then.
    """
    text = state.text
    if text.steps is None:
        return unfolded.likeliest(row)
    trace, count, voters = text.request.trace, _kept_of_voters(state), state.voters(position)
    wanted = max(text.request.top_logprobs, TOP_PIECES * trace)
    bound = TOP_MASS if wanted else 1.0
    heavy = unfolded.heavy(row, bound, max(1, wanted))
    if heavy is None:
        return None
    likeliest = heavy.likeliest(max(1, wanted))
    column, p = likeliest[0]
    masses = heavy.masses_of(column)
    entropy, variation = unfolded.spread(row) if trace else (None, None)
    names = [voter.name for voter in voters]
    state.records.append(
        StepRecord(
            piece=union.piece(column),
            mark=union.mark(column),
            part=text.part,
            p=p,
            voted=tuple(names),
            members=dict(zip(names, masses, strict=True)),
            top={name: _pieces(heavy.top(k, count, bound), union) for k, name in enumerate(names)} if count else {},
            likeliest=_pieces(likeliest[:wanted], union),
            gate=state.gates[position] if state.gates else None,
            draft=_draft_record(state, position, column, union),
            lead=text.plan.lead.name,
            unasked=state.left_out(position),
            subtracted=text.plan.subtracted,
            entropy=entropy,
            variation=variation,
        )
    )
    return column


def record_told(state: StepState, position: int, choice: Choice, union: UnionVocabulary) -> None:
    """The same of a choice by what is known of truncated members, or of some: probabilities are the least ones."""
    if state.text.steps is None:
        return
    column, is_certain, certificate, asked, told, _ = choice
    at, count = np.array([column]), _kept_of_voters(state)
    state.records.append(
        StepRecord(
            piece=union.piece(column),
            mark=union.mark(column),
            part=state.text.part,
            p=certificate.least,
            voted=tuple(member.name for member in asked),
            members={name: float(voter.bounds(at)[0][0] / max(voter.most, NOTHING)) for name, voter in told.items()},
            top={name: _top_told(voter, union, count) for name, voter in told.items()} if count else {},
            gate=state.gates[position] if state.gates else None,
            draft=_draft_record(state, position, column, union),
            absent=state.missed(position),
            lead=state.plan.lead.name,
            unasked=state.left_out(position),
            subtracted=state.plan.subtracted,
            certain=is_certain,
            unknown=certificate.most - certificate.least,
        )
    )


def write_given(state: StepState) -> None:
    """Write the records of pieces that were given: nothing was drafted, and no time is told."""
    if state.text.steps is not None:
        state.text.steps.extend(state.records)


def write_records(state: StepState, seconds: float) -> None:
    """Write the records of a step that took so long."""
    text, before = state.text, state.seconds_before
    if text.steps is None or before is None:
        return
    share = max(1, len(state.records))
    members = {
        name: (spent - before[name]) / share for name, spent in text.member_seconds.items() if spent > before[name]
    }
    split = StepSeconds(seconds / share, members)
    for place, made in enumerate(state.records):
        beside = _beside(state, made, place) if text.request.trace else {}
        text.steps.append(replace(made, seconds=split, **beside))


def about(plan: Plan, members: Sequence[Member]) -> dict[str, object]:
    """What a trace says once: its version, the members with their weights, and how the text is written."""
    method, gate = plan.method, plan.gate
    return {
        "version": TRACE_VERSION,
        "members": [{"name": member.name, "weight": plan.weights[member.name]} for member in members],
        "lead": plan.lead.name,
        "combine": str(method.combine),
        "gate": {"kind": gate.kind, "parameter": gate.parameter, "boundary": gate.boundary},
        "speculate": None if method.speculate is None else str(method.speculate),
        "sampling": str(method.sampling),
        **({"vocabulary": str(method.vocabulary)} if method.vocabulary.is_bytes else {}),
    }


def _beside(state: StepState, made: StepRecord, position: int) -> dict[str, Any]:
    """What a trace has beside a record."""
    outcome, is_first = outcome_of(made), not state.text.steps
    return {
        "spelled": _spelled_at(state, position),
        "kind": outcome.kind,
        "winners": outcome.winners,
        "about": about(state.text.plan, state.members) if is_first else None,
    }


def _spelled_at(state: StepState, position: int) -> dict[str, tuple[tuple[int, bytes], ...]]:
    """By member, the ids as which it reads what was chosen at a position, each with its bytes."""
    found = {}
    for member in state.members:
        if (cursor := state.text.cursors.get(member.name)) is not None:
            pieces, ends = member.speller.vocabulary.pieces, [*cursor.ends[: state.accepted + 1], len(cursor.ids)]
            ids = cursor.ids[slice(*ends[position : position + 2])] if position + 1 < len(ends) else ()
            found[member.name] = tuple((each, pieces[each] or b"") for each in ids)
    return found


def _kept_of_voters(state: StepState) -> int:
    """How many of each voter's likeliest pieces are kept."""
    request = state.text.request
    return TOP_PIECES if request.trace else int(request.first_choices)


def _top_told(voter: Voter, union: UnionVocabulary, count: int) -> TopPieces:
    if not isinstance(voter, FoldedTop):
        return _top(voter.p_U, union, count)
    p = voter.known / max(voter.most, NOTHING)
    order = np.argsort(-p, kind="stable")[:count]
    ranked = tuple((int(voter.columns[place]), float(p[place])) for place in order)
    return _pieces(tuple(each for number, each in enumerate(ranked) if not number or each[1] >= TOP_MASS), union)


def _draft_record(state: StepState, position: int, column: int, union: UnionVocabulary) -> DraftRecord | None:
    if position >= state.last:
        return None
    piece = union.piece(state.drafted[position])
    assert piece is not None, "END is never drafted"
    return DraftRecord(str(state.drafter), piece, state.drafted[position] == column)


def _top(p_U: Array, union: UnionVocabulary, count: int) -> TopPieces:
    """A voter's likeliest pieces, those of too little mass left out, but for the first."""
    xp = array_namespace(p_U)
    found = columns_of_mass(p_U, TOP_MASS) if count > 1 else ()
    if not len(found):
        found = xp.reshape(xp.argmax(p_U), (1,))
    return _pieces(_ranked(p_U, found, count), union)


def _standing(q_U: Array, column: int, likeliest: Ranked) -> Standing:
    nonzero, p = array_namespace(q_U).nonzero, q_U[column]
    before = len(nonzero(q_U > p)[0]) + len(nonzero(q_U[:column] == p)[0])
    return Standing(column, 1 + before, tuple(each for each, _ in likeliest))


def _likeliest(q_U: Array, count: int) -> Ranked:
    """The likeliest columns, the lower one first of two that are as likely."""
    bound = TOP_MASS
    found = columns_of_mass(q_U, bound)
    while len(found) < count and bound > 0:  # few columns have much mass: sorting them all would take longer
        bound = bound / 1e3 if bound > 1e-30 else 0
        found = columns_of_mass(q_U, bound)
    return _ranked(q_U, found, count)


def _ranked(p_U: Array, columns: Array, count: int) -> Ranked:
    masses = bring(array_namespace(p_U).take(p_U, columns), _HOST)
    columns = bring(columns, _HOST)
    order = np.argsort(-masses, kind="stable")[:count]
    return tuple((int(columns[place]), float(masses[place])) for place in order)


def _pieces(ranked: Ranked, union: UnionVocabulary) -> TopPieces:
    return tuple((union.mark(column) or union.piece(column), p) for column, p in ranked)
