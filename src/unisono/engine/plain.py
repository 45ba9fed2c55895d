"""The plain loop: the method as written down, with nothing kept from one step to the next.

It reads every text anew at every step, in float64, and adds up masses id by id. It drafts nothing, and
asks everybody whom the gate says to ask, one after the other. It is the oracle that every faster path
is held to, and the shortest way to see what the ensemble computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unisono.backends.base import Feed
from unisono.engine.boundary import first_inside
from unisono.engine.member import Member
from unisono.engine.method import Method
from unisono.engine.plan import make_plan
from unisono.types import Prompt
from unisono.vocab.union import MemberMap, UnionVocabulary

DEFAULT_METHOD = Method()


class PlainStep(NamedTuple):
    """One step of the plain loop."""

    piece: bytes | None
    """The greedily chosen piece; ``None`` for END."""
    q_U: NDArray[np.float64]
    """What it was chosen from: the combined distribution, or the lead's own where the gate was shut."""
    asked: bool
    """Whether all members were asked."""
    score: float
    """What the gate measured."""


def plain_steps(
    members: list[Member], union: UnionVocabulary, prompt: Prompt, steps: int, method: Method = DEFAULT_METHOD
) -> Iterator[PlainStep]:
    """Write greedily, one piece at a time.

    Args:
        members: in the order of the union's maps; each has a free slot.
        union: their vocabulary.
        prompt: what to continue.
        steps: how many pieces to choose at most.
        method: how; its speculation is left out, as it changes nothing.
    """
    plan = make_plan(method, members)
    texts = {member.name: list(member.begin(prompt)) for member in members}
    others = {member.name: member.speller for member in members if member is not plan.lead}
    written = b""
    for step in range(steps):
        first = step == 0 and prompt.messages is not None

        def ask(member: Member, first: bool = first) -> NDArray[np.float64]:
            return plain_distribution(member, member.map, texts[member.name], first=first)

        lead_U = ask(plan.lead)
        score = plan.gate.score(lead_U[None], [step])[0]
        asked = plan.gate.opens(score)
        if asked and plan.gate.boundary:
            asked = first_inside(written, union.piece(int(np.argmax(lead_U))) or b"", others) is None
        q_U = plan.rule([ask(member)[None] for member in members], [m.weight for m in members])[0] if asked else lead_U
        column = int(np.argmax(q_U))
        piece = union.piece(column)
        yield PlainStep(piece, q_U, asked, score)
        if piece is None:
            return
        written += piece
        for member in members:
            texts[member.name].extend(member.spell(column, piece, first=first))


def plain_distribution(
    member: Member, member_map: MemberMap, ids: list[int], *, first: bool = False
) -> NDArray[np.float64]:
    """One member's distribution over the union after ``ids``, read from the beginning in a fresh slot."""
    slot = member.backend.open()
    try:
        logits_V = np.asarray(member.backend.advance([Feed(slot, ids)])[0].tolist())
    finally:
        member.backend.close(slot)
    first_column_V = member_map.first_column_V
    column_V = member_map.column_V if first_column_V is None or not first else first_column_V
    kept = column_V >= 0
    mass = np.exp(logits_V[kept] - logits_V[kept].max())
    p_U = np.zeros(len(member_map.id_U))
    np.add.at(p_U, column_V[kept], mass / mass.sum())
    return p_U
