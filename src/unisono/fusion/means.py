"""Many weighted means of the same distributions: the probability of one column in each, and the likeliest of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unisono.fusion.fold import Softmax

_SLACK = 0.999  # more than rounding can add to a sum of a few masses
MOST = 2048
"""Candidates of a row; where there are more, the distributions are too flat for this way."""

Floats = NDArray[np.float32]


class Means(NamedTuple):
    q_SB: Floats
    """What each mean gives the asked column of each row."""
    likeliest_SB: NDArray[np.int64]
    """The column of the largest mass; of equal ones the lowest."""


def means_at(p_K: Sequence[Softmax], weight_SK: Floats, column_B: Sequence[int]) -> Means | None:
    """Compute S means of K members at one column of each row, with the arithmetic of `fold` and `mean`.

    Some column of a row has, under weights w, ``L = max_i w_i max p_i`` at least. A column with as much has ``L / K``
    from one of the members, and so one of its ids has ``L / (K w_i most)``. What is above the least of these under any
    of the weights is looked at, and nothing else. No distribution over the union is made.

    ``weight_SK`` is at least 0 and sums to 1 in each row. ``None`` where distributions are flat, or are no numbers.
    """
    peak_KB = np.asarray([p.p_BV.max(axis=1) for p in p_K])
    if not (peak_KB > 0).all():  # not numbers
        return None
    least_KB = _least(peak_KB, weight_SK, [p.plan.most for p in p_K])
    columns = [set[int]([column]) for column in column_B]
    for p, least_B in zip(p_K, least_KB, strict=True):
        found = np.flatnonzero(p.p_BV >= least_B[:, None])
        if len(found) > MOST * len(column_B):
            return None
        row_N, token_N = np.divmod(found, p.p_BV.shape[1])
        for row, column in zip(row_N.tolist(), p.plan.column_V[token_N].tolist(), strict=True):
            columns[row].add(column)
    q_SB = np.empty((len(weight_SK), len(column_B)), np.float32)
    likeliest_SB = np.empty(q_SB.shape, np.int64)
    for row, (column, some) in enumerate(zip(column_B, columns, strict=True)):
        ordered = np.array(sorted(some))
        q_SC = _weighted([p.of(row, ordered) for p in p_K], weight_SK)
        q_SB[:, row] = q_SC[:, int(np.searchsorted(ordered, column))]
        likeliest_SB[:, row] = ordered[q_SC.argmax(axis=1)]
    return Means(q_SB, likeliest_SB)


def _least(peak_KB: Floats, weight_SK: Floats, most_K: Sequence[int]) -> Floats:
    """What an id of each member has at least, if its column may be the likeliest under any of the weights."""
    weighted_SKB = weight_SK[:, :, None] * peak_KB[None]
    top_S1B = weighted_SKB.max(axis=1, keepdims=True) * (_SLACK / len(peak_KB))
    share_SK1 = weight_SK[:, :, None] * np.asarray(most_K)[None, :, None]
    with np.errstate(divide="ignore"):
        return np.asarray((top_S1B / share_SK1).min(axis=0), np.float32)


def _weighted(p_KC: Sequence[Floats], weight_SK: Floats) -> Floats:
    q_SC: Floats = p_KC[0][None] * weight_SK[:, :1]
    for member, p_C in enumerate(p_KC[1:], 1):
        q_SC += p_C[None] * weight_SK[:, member, None]
    return q_SC
