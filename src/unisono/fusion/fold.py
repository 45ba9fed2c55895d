"""From a member's logits to its distribution over the union vocabulary."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device, to_device
from numpy.typing import NDArray

Array = Any
"""A numpy array, or a torch tensor on an accelerator; `array_api_compat` gives the operations."""
LONG_ROW = 16_384  # ids from which on rows are worked on one by one
FAR = 50.0  # logits of more, or less than its opposite, are far from 0


@dataclass(frozen=True, slots=True, eq=False)
class FoldPlan:
    """A member's map, laid out so that folding is one gather and a few additions.

    Nearly every column takes its mass from one id. The others, columns of pieces that have several ids and END, take
    the mass of one id in the gather and that of the rest by ``additions``, each of which holds a column at most once:
    no scatter with collisions, so the result does not depend on the order in which a device adds.
    """

    size: int  # U, the number of columns
    dropped: Array
    """Ids whose mass is dropped, and V, the slot behind the last id, whose mass is 0."""
    source: Array
    """The id that each of the first columns takes its mass from; V where none does. Columns beyond take none: those of
    members that come later, which a first member with few ids would gather for nothing.
    """
    additions: tuple[tuple[Array, Array], ...]
    """Pairs of (columns, ids): further ids of columns, one per column and pair."""
    column_V: Array
    """The column of each id, -1 where its mass is dropped; on the host."""
    further: Mapping[int, Sequence[int]]  # the ids of ``additions`` by column, in their order

    most: int  # ids of one column
    temperature: float = 1.0
    """What logits are divided by before the softmax."""

    def sources(self, columns: NDArray[np.int64]) -> NDArray[np.int64]:
        """The ids that columns take their mass from first, on the host; V where none does."""
        found, inside = np.full(len(columns), len(self.column_V)), columns < len(self.source)
        found[inside] = np.asarray(self.source)[columns[inside]]
        return found

    def to_device_of(self, array: Array) -> FoldPlan:
        """The plan with its indices where ``array`` lies."""
        xp, where = array_namespace(array), device(array)

        def place(indices: Array) -> Array:
            return xp.asarray(indices, device=where)

        additions = tuple((place(columns), place(ids)) for columns, ids in self.additions)
        return replace(self, dropped=place(self.dropped), source=place(self.source), additions=additions)


def plan_fold(column_V: NDArray[np.int32], size: int, classes: int = 1, temperature: float = 1.0) -> FoldPlan:
    """Lay out a map from ids to columns (-1 where an id's mass is dropped) for `fold`.

    ``size`` is U, the number of columns; the last ``classes`` are those of marks and END. Logits are divided by the
    ``temperature``.
    """
    rows, texts = len(column_V), size - classes
    pieces = np.flatnonzero((column_V >= 0) & (column_V < texts))
    reach = int(column_V[pieces].max(initial=-1)) + 1
    source = np.full(reach, rows, np.int64)
    (columns, ids), *additions = _rounds(column_V, pieces) or [(pieces, pieces)]
    source[columns] = ids
    ends = [(column_V[[token]].astype(np.int64), np.array([token])) for token in np.flatnonzero(column_V >= texts)]
    dropped = np.append(np.flatnonzero(column_V < 0), rows)
    additions += ends
    further: dict[int, list[int]] = {}
    for some, others in additions:
        for column, token in zip(some.tolist(), others.tolist(), strict=True):
            further.setdefault(column, []).append(token)
    most = 1 + max(map(len, further.values()), default=0)  # none: no piece twice, and no END
    return FoldPlan(size, dropped, source, tuple(additions), column_V, further, most, temperature)


def _rounds(column_V: NDArray[np.int32], ids: NDArray[np.int64]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Split pairs of column and id so that each round holds a column at most once."""
    rounds = []
    while len(ids):
        columns, first = np.unique(column_V[ids], return_index=True)
        rounds.append((columns.astype(np.int64), ids[first]))
        ids = np.delete(ids, first)
    return rounds


class Scratch:
    """Arrays that a member's `fold` writes into, kept from step to step.

    Fresh megabytes at every step would cost more in page faults than the arithmetic does.
    """

    def __init__(self) -> None:
        self._p_BV: Array = None
        self._p_BU: Array = None
        self._used = 0

    def reset(self) -> None:
        self._used = 0

    def take(self, logits_BV: Array, size: int) -> tuple[Array, Array]:
        """Arrays of shapes (B, V + 1) and (B, U) where the logits lie; their content is anything.

        The second one stays the caller's until `reset`.
        """
        rows, width = logits_BV.shape
        xp, where = array_namespace(logits_BV), device(logits_BV)
        if self._p_BV is None or self._p_BV.shape[0] < rows:
            self._p_BV = xp.empty((rows, width + 1), dtype=logits_BV.dtype, device=where)
        start, end = self._used, self._used + rows
        fits = self._p_BU is not None and self._p_BU.shape[1] == size  # a member may have plans of several widths
        if not fits or self._p_BU.shape[0] < end:
            start, end = 0, rows
            held = self._p_BU.shape[0] if fits else 0
            self._p_BU = xp.empty((max(rows, 2 * held), size), dtype=logits_BV.dtype, device=where)
        self._used = end
        return self._p_BV[:rows], self._p_BU[start:end]


def fold(logits_BV: Array, plan: FoldPlan, scratch: Scratch | None = None) -> Array:
    """Softmax over a member's own ids, folded into the union: ``p_BU``, float32, on the same device.

    The mass of dropped ids is renormalised away, the masses of all ids of a piece are summed, and so are those of END.
    Each row of the result sums to 1; it is valid until the scratch is reset. ``logits_BV``, float32, is not changed.
    """
    p_BV, p_BU = (scratch or Scratch()).take(logits_BV, plan.size)
    reach = plan.source.shape[0]
    _softmax(logits_BV, plan, p_BV)
    if isinstance(p_BV, np.ndarray):
        for p_V, p_U in zip(p_BV, p_BU, strict=True):
            np.take(p_V, plan.source, out=p_U[:reach], mode="clip")  # "clip" writes straight into out
    else:
        p_BU[:, :reach] = array_namespace(p_BV).take(p_BV, plan.source, axis=1)
    p_BU[:, reach:] = 0
    for columns, ids in plan.additions:
        p_BU[:, columns] += p_BV[:, ids]
    return p_BU


class Softmax(NamedTuple):
    """The first half of `fold`, on the host: what a member gives its own ids."""

    p_BV: NDArray[np.float32]
    """0 for ids that are dropped, and in one slot after the last id."""
    plan: FoldPlan
    logits_BV: NDArray[np.float32]

    def nats(self, row: int, best: int) -> float:
        """``Σ p log p`` over its own ids: ``log p`` is the logit, less what it is for ``best``, the likeliest id.

        A top logit that is far from 0 is taken off before they are summed, as float32 would round the sum.
        """
        p_V, logits_V, temperature = self.p_BV[row], self.logits_BV[row], self.plan.temperature
        top = logits_V[best]
        if abs(top) < FAR:
            total = float(np.vdot(p_V[:-1], logits_V)) - float(top)
        else:
            total = float(np.vdot(p_V[:-1], logits_V - top))
        if not math.isfinite(total):  # ids that are dropped may have no logit
            return float(np.vdot(p_V, np.log(p_V + 1e-30)))
        return total / temperature + math.log(float(p_V[best]))

    def at(self, row: int, column: int) -> np.float32:
        """What `fold` would give one column: the same additions in the same order."""
        source = self.plan.source
        p: np.float32 = self.p_BV[row, source[column] if column < len(source) else -1]
        for token in self.plan.further.get(column, ()):
            p += self.p_BV[row, token]
        return p

    def of(self, row: int, columns: NDArray[np.int64]) -> NDArray[np.float32]:
        """What `fold` would give some columns, which are in their order: the same additions in the same order."""
        p_V, plan = self.p_BV[row], self.plan
        found: NDArray[np.float32] = p_V[plan.sources(columns)]
        for column in plan.further.keys() & set(columns.tolist()):
            for token in plan.further[column]:
                found[np.searchsorted(columns, column)] += p_V[token]
        return found


def softmax(logits_BV: NDArray[np.float32], plan: FoldPlan, scratch: Scratch) -> Softmax:
    """Softmax over a member's own ids, on the host; valid until the scratch is used again."""
    p_BV, _ = scratch.take(logits_BV, plan.size)
    _softmax(logits_BV, plan, p_BV)
    return Softmax(p_BV, plan, logits_BV)


def _softmax(logits_BV: Array, plan: FoldPlan, p_BV: Array) -> None:
    """Write the softmax of rows into ``p_BV``; long rows one by one, so that each stays in the processor's cache."""
    rows, width = p_BV.shape
    if rows > 1 and width > LONG_ROW and isinstance(p_BV, np.ndarray):
        for row in range(rows):
            _softmax(logits_BV[row : row + 1], plan, p_BV[row : row + 1])
        return
    xp = np if isinstance(p_BV, np.ndarray) else array_namespace(p_BV)
    p_BV[:, :-1] = logits_BV
    if plan.temperature != 1:
        p_BV[:, :-1] /= plan.temperature  # nothing stands in the last column yet
    p_BV[:, plan.dropped] = -xp.inf
    p_BV -= xp.max(p_BV, axis=1, keepdims=True)
    xp.exp(p_BV, out=p_BV)
    p_BV /= xp.sum(p_BV, axis=1, keepdims=True)


def bring(array: Array, like: Array) -> Array:
    """Return ``array`` as the kind of ``like``, where ``like`` lies; the same object when it is there."""
    if isinstance(array, np.ndarray) and isinstance(like, np.ndarray):
        return array
    if isinstance(like, np.ndarray):
        return np.asarray(to_device(array, "cpu"))
    xp = array_namespace(like)
    return xp.asarray(array, device=device(like))
