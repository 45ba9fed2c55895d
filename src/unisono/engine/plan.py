"""A method whose names have become members: what the engine follows for one text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unisono.engine.member import Member
from unisono.engine.method import Method
from unisono.errors import SpecError, shown
from unisono.fusion.combine import COMBINE_RULES, CombineRule
from unisono.fusion.gate import Gate


@dataclass(frozen=True, slots=True)
class Plan:
    """How one text is written."""

    lead: Member
    gate: Gate
    rule: CombineRule
    drafter: str | None
    """A member's name, ``ngram``, ``auto``, or ``None``."""
    max_pieces: int
    """Drafted pieces in a block at most."""


def make_plan(method: Method, members: Sequence[Member]) -> Plan:
    """Look the names of a method up. Raises a `SpecError` when they do not fit the members."""
    if not isinstance(method, Method):
        raise SpecError(
            f"the method is {shown(method)}, not a Method", hint='make one: ensemble.method.but(gate="first:8")'
        )
    method.check([member.name for member in members])
    lead = next((member for member in members if member.name == method.lead), members[0])
    speculation = method.speculate
    return Plan(
        lead,
        method.gate,
        COMBINE_RULES[method.combine],
        None if speculation is None else speculation.drafter,
        0 if speculation is None else speculation.max_pieces,
    )
