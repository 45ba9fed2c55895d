"""The plain loop: the method as written down, with nothing kept from one step to the next.

It reads every text anew at every step, in float64, and adds up masses id by id. It drafts nothing, and
asks everybody whom the gate says to ask, one after the other. It is the oracle that every faster path
is held to, and the shortest way to see what the ensemble computes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unisono.backends.base import Feed, dense
from unisono.chat.messages import Prompt
from unisono.config.method import Method
from unisono.config.sampling import Sampling
from unisono.constraints.grammar import Parse
from unisono.engine.calls import Calls
from unisono.engine.encoding import encode_for
from unisono.engine.member import Member, Place
from unisono.engine.plan import Bias, Plan
from unisono.engine.token_boundary import first_inside
from unisono.fusion.fold import bring
from unisono.fusion.logits_processors import confine, has_mass, shape
from unisono.fusion.sampling import Purpose, RandomNumbers, accepts, draw_from, residual
from unisono.fusion.sharpen import plan_prefixes, sharpen
from unisono.fusion.weights import scaled
from unisono.vocab.marks import SEAMS
from unisono.vocab.union import MemberMap, UnionVocabulary

DEFAULT_METHOD = Method()

Distribution = NDArray[np.float64]


class PlainStep(NamedTuple):
    piece: bytes | None
    q_U: Distribution
    """What the piece was chosen by: the combined distribution, or a lone voter's own."""
    p: float
    voted: tuple[str, ...]
    asked: bool  # whether the gate was open
    score: float  # what it measured


def plain_steps(
    members: list[Member],
    union: UnionVocabulary,
    prompt: Prompt,
    steps: int,
    method: Method = DEFAULT_METHOD,
    *,
    parse: Parse | None = None,
    absent: Sequence[Collection[str]] = (),
) -> Iterator[PlainStep]:
    """Write one text, one piece at a time, and at most ``steps`` of them.

    Each member has a free slot. Drafts are left out, as they change nothing; where pieces are drawn, who drafts matters
    all the same. A draw without a seed has seed 0. A ``parse`` is the beginning of the grammar that the text is bound
    to; it is advanced. ``absent`` are the members that are away, by position.
    """
    plan = Plan(method, members, union)
    calls = Calls() if parse is not None and parse.by_seams else None
    ids, inside = encode_for(members, prompt, plan.reasoning, seams=calls is not None)
    text = _PlainText(plan, union, members, ids)
    text.parse, text.begins_inside = parse, inside
    answers = prompt.begins_answer and not inside
    off = plan.reasoning.off and calls is None
    first = {member.name: answers and member.opens(off=off) for member in members}
    text.losses = {
        member.name: member.prompt_loss(member.asked_ids(prompt)) for member in members if plan.combine.reads_losses
    }
    for step in range(steps):
        places = {each.name: each.place(calls, inside=inside, first=first[each.name]) for each in members}
        present = [each for each in members if step >= len(absent) or each.name not in absent[step]]
        asked, score = text.asks(places, step, inside=inside) if plan.lead in present else (True, math.nan)
        voters, p_U_K = text.asked_of(present, places, opens=asked)
        combines = asked and not plan.draw.mixture
        q_U = text.combined(p_U_K, voters) if combines else p_U_K[0]
        column = text.choose(q_U, p_U_K, voters, combines=combines)
        if parse is not None:
            column = parse.settle(column)
        piece = union.piece(column)
        yield PlainStep(piece, q_U, float(q_U[column]), tuple(voter.name for voter in voters), asked, score)
        if piece is None:
            return
        text.append(column, piece, first, calls)
        mark = union.mark(column)
        first = {
            each.name: mark is not None and each.opens_behind(mark, opening=first[each.name], calls=calls)
            for each in members
        }
        calls = calls.behind(mark) if calls is not None and mark in SEAMS else calls
        inside = mark == "reasoning_begin" or (inside and mark != "reasoning_end")


class _PlainText:
    def __init__(
        self, plan: Plan, union: UnionVocabulary, members: Sequence[Member], ids: dict[str, list[int]]
    ) -> None:
        self.plan = plan
        self.written = b""
        self.losses: dict[str, float] = {}
        self.parse: Parse | None = None
        self.begins_inside = False
        self._union = union
        self._members = members
        self._ids = ids
        self._columns: list[int] = []

    def distribution(self, member: Member, place: Place | None) -> Distribution:
        p_U = self._distribution(member, place)
        if member.calibration is None or self._columns or self.begins_inside:
            return p_U
        return np.asarray(member.calibration(p_U[None], [0])[0])

    def _distribution(self, member: Member, place: Place | None) -> Distribution:
        ids = self._ids[member.name]
        for turn, column_V in member.map.turns.items():
            if turn == place:
                return plain_distribution(member, replace(member.map, column_V=column_V), ids)
        return plain_distribution(member, member.map, ids, first=place == "opening", inside=place == "inside")

    def asks(self, places: Mapping[str, Place | None], step: int, *, inside: bool) -> tuple[bool, float]:
        """Whether the gate is open at a step, ``inside`` reasoning or not; and what it measured."""
        plan, lead = self.plan, self.plan.lead
        lead_U = self.distribution(lead, places[lead.name])
        score = plan.gate.score(lead_U[None], [step])[0]
        ends = lead.ends_reasoning or "reasoning_end" not in self._union.marks
        blind = self._is_blind(lead_U)
        if not (plan.gate.opens(score) or (inside and not ends) or blind):
            return False, score
        if not plan.gate.boundary or blind:
            return True, score
        others = {member.name: member.speller for member in self._members if member is not lead}
        return first_inside(self.written, self._union.piece(int(np.argmax(lead_U))) or b"", others) is None, score

    def asked_of(
        self, members: list[Member], places: Mapping[str, Place | None], *, opens: bool
    ) -> tuple[list[Member], list[Distribution]]:
        """Who is asked, and what each says. Of a mixture's members, those that can say what is allowed are drawn from,
        where any can.
        """
        drawable = [member for member in members if member.weight > 0]
        while True:
            voters = members if opens else [self.plan.lead]
            if opens and self.plan.draw.mixture:
                weights = np.asarray([member.weight for member in drawable])
                again = sum(member.weight > 0 for member in members) - len(drawable)
                voters = [drawable[draw_from(weights, self._numbers(Purpose.MEMBER, again))]]
            p_U_K = [self.of_member(self.distribution(each, places[each.name])) for each in voters]
            if not (opens and self.plan.draw.mixture and len(drawable) > 1 and self._is_blind(p_U_K[0])):
                return voters, p_U_K
            drawable.remove(voters[0])

    def _is_blind(self, p_U: Distribution) -> bool:
        return self.parse is not None and not has_mass(p_U, self.parse.allowed(()))

    def of_member(self, p_U: Distribution) -> Distribution:
        draw = self.plan.member_draw
        return p_U if draw is None else self._shaped(p_U, draw, self.plan.member_bias)

    def bound(self, q_U: Distribution) -> Distribution:
        """What is left of a distribution by the grammar, reshaped."""
        if self.parse is not None:
            q_U = confine(q_U[None], [self.parse.allowed(())])[0]
        return self._shaped(q_U, self.plan.draw, self.plan.bias)

    def combined(self, p_U_K: list[Distribution], voters: list[Member]) -> Distribution:
        combine = self.plan.combine
        weights = [voter.weight for voter in voters]
        if len(voters) < len(self._ids):
            weights = scaled(weights)
        losses = [[self.losses.get(voter.name, 0.0)] for voter in voters]
        q_BU = combine([p_U[None] for p_U in p_U_K], weights, losses)
        if combine.sharpen is not None:
            pieces = [self._union.piece(column) or b"" for column in range(self._union.texts)]
            prefixes = plan_prefixes(pieces, 1 + len(self._union.marks))
            q_BU = sharpen(q_BU, prefixes, combine.sharpen)
        return np.asarray(q_BU[0])

    def choose(self, q_U: Distribution, p_U_K: list[Distribution], voters: list[Member], *, combines: bool) -> int:
        shaped_U = self.bound(q_U)
        if self.plan.draw.is_greedy:
            return int(np.argmax(shaped_U))
        drafter = [
            p_U for p_U, voter in zip(p_U_K, voters, strict=True) if combines and voter.name == self.plan.drafter
        ]
        own_U = self.bound(drafter[0]) if drafter else shaped_U
        guess = draw_from(own_U, self._numbers(Purpose.PIECE))
        if not drafter or accepts(own_U, shaped_U, guess, self._numbers(Purpose.ACCEPTANCE)):
            return guess
        return draw_from(residual(own_U, shaped_U), self._numbers(Purpose.RESIDUAL))

    def append(self, column: int, piece: bytes, first: Mapping[str, bool], calls: Calls | None) -> None:
        self._columns.append(column)
        if self.parse is not None:
            self.parse.consume(column)
        self.written = b"" if self._union.mark(column) else self.written + piece
        for member in self._members:
            self._ids[member.name] = [
                *self._ids[member.name],
                *member.spell(column, piece, first=first[member.name], calls=calls),
            ]

    def _shaped(self, q_U: Distribution, draw: Sampling, bias: Bias) -> Distribution:
        return np.asarray(shape(q_U[None], [draw], [Counter(self._columns)], [bias.at(self.written)])[0])

    def _numbers(self, purpose: Purpose, again: int = 0) -> RandomNumbers:
        return RandomNumbers(self.plan.draw.seed or 0, len(self._columns), purpose, again)


def plain_distribution(
    member: Member, member_map: MemberMap, ids: list[int], *, first: bool = False, inside: bool = False
) -> Distribution:
    """One member's distribution over the union after ``ids``, read from the beginning in a fresh slot."""
    slot = member.backend.open()
    try:
        logits_V = bring(dense(member.backend.advance([Feed(slot, ids)]))[0], np.empty(0)).astype(np.float64)
    finally:
        member.backend.close(slot)
    column_V = member_map.first_column_V if first else member_map.inside_column_V if inside else None
    column_V = member_map.column_V if column_V is None else column_V
    kept = column_V >= 0
    mass = np.exp((logits_V[kept] - logits_V[kept].max()) / member.temperature)
    p_U = np.zeros(len(member_map.id_U))
    np.add.at(p_U, column_V[kept], mass / mass.sum())
    return p_U
