"""The plain loop: the method as written down, with nothing kept from one step to the next.

It reads every text anew at every step, in float64, and adds up masses id by id. It is the oracle that
every faster path is held to, and the shortest way to see what the ensemble computes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from unisono.backends.base import Feed
from unisono.engine.member import Member
from unisono.types import Prompt
from unisono.vocab.union import MemberMap, UnionVocabulary


def plain_steps(
    members: list[Member], union: UnionVocabulary, prompt: Prompt, steps: int
) -> Iterator[tuple[bytes | None, NDArray[np.float64]]]:
    """Yield, for each step, the greedily chosen piece (``None`` for END) and the distribution ``q_U``.

    Args:
        members: in the order of the union's maps; each has a free slot.
        union: their vocabulary.
        prompt: what to continue.
        steps: how many pieces to choose at most.
    """
    texts = [list(member.begin(prompt)) for member in members]
    for step in range(steps):
        first = step == 0 and prompt.messages is not None
        q_U = np.zeros(union.size)
        for member, member_map, ids in zip(members, union.maps, texts, strict=True):
            q_U += member.weight * plain_distribution(member, member_map, ids, first=first)
        column = int(np.argmax(q_U))
        piece = union.piece(column)
        yield piece, q_U
        if piece is None:
            return
        for member, ids in zip(members, texts, strict=True):
            ids.extend(member.spell(column, piece, first=first))


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
