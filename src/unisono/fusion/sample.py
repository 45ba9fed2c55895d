"""How a piece is drawn from the combined distribution."""

from __future__ import annotations

from array_api_compat import array_namespace

from unisono.fusion.fold import Array


def greedy(q_BU: Array) -> list[int]:
    """The column of the largest mass in each row; the lowest column on a tie."""
    xp = array_namespace(q_BU)
    return [int(column) for column in xp.argmax(q_BU, axis=1)]
