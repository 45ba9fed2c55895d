"""A method whose names have become members: what the engine follows for one text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unisono.config.combine import Combine
from unisono.config.gate import Gate
from unisono.config.method import Method
from unisono.config.sampling import Sampling
from unisono.engine.bias import Bias
from unisono.engine.member import Member
from unisono.errors import SpecError, shown
from unisono.vocab.union import UnionVocabulary


@dataclass(frozen=True, slots=True)
class Plan:
    """How one text is written."""

    lead: Member
    gate: Gate
    combine: Combine
    drafter: str | None
    """A member's name, ``ngram``, ``auto``, or ``None``."""
    max_pieces: int
    """Drafted pieces in a block at most."""
    draw: Sampling
    bias: Bias
    member_draw: Sampling | None
    """What is done to each member's distribution before they are combined; ``None`` for nothing."""
    member_bias: Bias


def make_plan(method: Method, members: Sequence[Member], union: UnionVocabulary) -> Plan:
    """Look the names of a method up. Raises a `SpecError` when they do not fit the members."""
    if not isinstance(method, Method):
        raise SpecError(
            f"the method is {shown(method)}, not a Method", hint='make one: ensemble.method.but(gate="first:8")'
        )
    method.check({member.name: member.weight for member in members})
    speculation, draw = method.speculate, method.draw
    return Plan(
        lead_of(method, members),
        method.gate,
        method.combine,
        None if speculation is None else speculation.drafter,
        0 if speculation is None else speculation.max_pieces,
        draw,
        Bias(draw.bias, union, draw.logit_bias),
        draw.of_members(),
        Bias(draw.member_bias, union),
    )


def lead_of(method: Method, members: Sequence[Member]) -> Member:
    """The member that leads when texts are written by this method."""
    name = method.lead_among({member.name: member.weight for member in members})
    return next(member for member in members if member.name == name)
