"""From a member's logits to its distribution over the union vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, to_device
from numpy.typing import NDArray

Array = Any
"""A numpy array, or a torch tensor on an accelerator; `array_api_compat` gives the operations."""


@dataclass(frozen=True, slots=True, eq=False)
class FoldPlan:
    """A member's map, laid out so that folding is one gather and a few additions.

    Nearly every column takes its mass from one id. The others, columns of pieces that have several
    ids and END, take the mass of one id in the gather and that of the rest by ``additions``, each of
    which holds a column at most once: no scatter with collisions, so the result does not depend on
    the order in which a device adds.
    """

    dropped: Array
    """Ids whose mass is dropped."""
    source_U: Array
    """The id that each column takes its mass from; V, the slot behind the last id, where none does."""
    additions: tuple[tuple[Array, Array], ...]
    """Pairs of (columns, ids): further ids of columns, one per column and pair."""

    def to_device_of(self, array: Array) -> FoldPlan:
        """The plan with its indices where ``array`` lies."""
        xp, where = array_namespace(array), device(array)

        def place(indices: Array) -> Array:
            return xp.asarray(indices, device=where)

        return FoldPlan(
            place(self.dropped),
            place(self.source_U),
            tuple((place(columns), place(ids)) for columns, ids in self.additions),
        )


def plan_fold(column_V: NDArray[np.int32], size: int) -> FoldPlan:
    """Lay out a map from ids to columns (-1 where an id's mass is dropped) for `fold`.

    Args:
        column_V: the column of each id.
        size: U, the number of columns.
    """
    rows = len(column_V)
    source_U = np.full(size, rows, np.int64)
    rounds = _rounds(column_V)
    for columns, ids in rounds[:1]:
        source_U[columns] = ids
    return FoldPlan(np.append(np.flatnonzero(column_V < 0), rows), source_U, tuple(rounds[1:]))


def _rounds(column_V: NDArray[np.int32]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Split the map's pairs of column and id so that each round holds a column at most once."""
    left = np.flatnonzero(column_V >= 0)
    rounds = []
    while len(left):
        columns, first = np.unique(column_V[left], return_index=True)
        rounds.append((columns.astype(np.int64), left[first].astype(np.int64)))
        left = np.delete(left, first)
    return rounds


def fold(logits_BV: Array, plan: FoldPlan) -> Array:
    """Softmax over a member's own ids, folded into the union.

    The mass of dropped ids is renormalised away, the masses of all ids of a piece are summed, and so
    are those of END. Each row of the result sums to 1.

    Args:
        logits_BV: float32, any device; not changed.
        plan: of the same member, on the same device.

    Returns:
        ``p_BU``, float32, on the same device.
    """
    xp = array_namespace(logits_BV)
    rows, width = logits_BV.shape
    p_BV = xp.empty((rows, width + 1), dtype=logits_BV.dtype, device=device(logits_BV))
    p_BV[:, :width] = logits_BV
    p_BV[:, plan.dropped] = -xp.inf
    p_BV -= xp.max(p_BV, axis=1, keepdims=True)
    xp.exp(p_BV, out=p_BV)
    p_BV /= xp.sum(p_BV, axis=1, keepdims=True)
    p_BU = xp.take(p_BV, plan.source_U, axis=1)
    for columns, ids in plan.additions:
        p_BU[:, columns] += p_BV[:, ids]
    return p_BU


def bring(array: Array, like: Array) -> Array:
    """Return ``array`` as the kind of ``like``, where ``like`` lies; the same object when it is there."""
    if isinstance(array, np.ndarray) and isinstance(like, np.ndarray):
        return array
    if isinstance(like, np.ndarray):
        return np.asarray(to_device(array, "cpu"))
    xp = array_namespace(like)
    return xp.asarray(array, device=device(like))
