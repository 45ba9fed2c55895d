"""What a trace tells of a mean, from what members give their own ids: no distribution over the union is made.

Masses are those of `fold` and `rules.mean`, bit for bit. Entropy and variation are theirs to rounding: most columns
have one id of one member, so sums over the members' own ids are put right only where a column has several.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unisono.fusion import trace_measures
from unisono.fusion.fold import FoldPlan, Softmax

MANY = 2000  # ids, from which on folding is as good
LEAST = 1e-12  # mass, below which the likeliest columns are not looked for
Ranked = tuple[tuple[int, float], ...]
"""Columns and their probabilities, the likeliest first, and of two that are as likely the lower one."""
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Joint:
    """The columns of several ids, of one voter or of different ones."""

    source_K: Sequence[Ints]
    """By voter, the id that each of these columns takes its mass from; the one after the last where it has none."""
    additions_K: Sequence[Sequence[tuple[Ints, Ints]]]
    """By voter, further ids: the places of their columns among these, and the ids."""


def plan_joint(plans: Sequence[FoldPlan]) -> Joint:
    size = plans[0].size
    count_U = sum(np.bincount(plan.column_V[plan.column_V >= 0], minlength=size) for plan in plans)
    columns = np.flatnonzero(np.asarray(count_U) > 1)
    place_U = np.full(size, -1, np.int64)
    place_U[columns] = np.arange(len(columns))
    additions_K = []
    for plan in plans:
        placed = [(place_U[some], np.asarray(ids)) for some, ids in plan.additions]
        additions_K.append([(places[places >= 0], ids[places >= 0]) for places, ids in placed])
    return Joint([_sources(plan, columns) for plan in plans], additions_K)


def _sources(plan: FoldPlan, columns: Ints) -> Ints:
    """The ids that columns take their mass from first."""
    none = len(plan.column_V)
    inside = columns < len(plan.source)
    return np.where(inside, np.asarray(plan.source)[np.where(inside, columns, 0)], none)


@dataclass(frozen=True, slots=True)
class Heavy:
    """All columns of a row to which a voter or the mean gives ``bound`` at least, and each voter's likeliest one.

    There may be others among them.
    """

    bound: float
    columns: Ints
    """In their order."""
    masses_K: Sequence[Floats]
    """By voter, its masses of these columns."""
    q: Floats
    """The combined masses."""

    def top(self, k: int, count: int) -> Ranked:
        """A voter's likeliest columns of mass ``bound`` at least, or its first."""
        masses = self.masses_K[k]
        return _ranked(self.columns, masses, max(1, min(count, int(np.count_nonzero(masses >= self.bound)))))

    def likeliest(self, count: int) -> Ranked | None:
        """The likeliest columns of the mean. ``None`` where there may be others."""
        enough = np.count_nonzero(self.q >= self.bound) >= count  # whatever is left out has less
        return _ranked(self.columns, self.q, count) if enough else None

    def at(self, column: int) -> tuple[float, list[float]]:
        """The combined mass of one of the columns, and what each voter gives it."""
        place = int(np.searchsorted(self.columns, column))
        return float(self.q[place]), [float(masses[place]) for masses in self.masses_K]


@dataclass(frozen=True, slots=True)
class Unfolded:
    """The mean of voters' distributions, of some rows. Lasts as long as these do."""

    p_K: Sequence[Softmax]
    weight_K: Sequence[float]
    joint: Joint

    def voter(self, k: int, row: int, columns: Ints) -> Floats:
        """A voter's masses of columns."""
        p_V, plan = self.p_K[k].p_BV[row], self.p_K[k].plan
        found: Floats = p_V[_sources(plan, columns)]
        for place, column in enumerate(columns.tolist()):
            for token in plan.further.get(column, ()):
                found[place] += p_V[token]
        return found

    def mean(self, row: int, columns: Ints) -> Floats:
        """The combined masses of columns."""
        return self._mean([self.voter(k, row, columns) for k in range(len(self.p_K))])

    def _mean(self, masses_K: Sequence[Floats]) -> Floats:
        q = masses_K[0] * self.weight_K[0]
        for masses, weight in zip(masses_K[1:], self.weight_K[1:], strict=True):
            q += masses * weight
        return q

    def heavy(self, row: int, bound: float, column: int) -> Heavy | None:
        """The columns of mass ``bound``, and this one. ``None`` where folding is as good."""
        found = []
        for p, weight in zip(self.p_K, self.weight_K, strict=True):
            least = bound / max(1.0, len(self.p_K) * weight)  # one voter gives it, where the mean has ``bound``
            found.append((p.plan, _ids_of(p.p_BV[row], p.plan, least)))
        if (columns := _columns_of(found, column)) is None:
            return None
        masses_K = [self.voter(k, row, columns) for k in range(len(self.p_K))]
        return Heavy(bound, columns, masses_K, self._mean(masses_K))

    def likeliest(self, row: int, count: int, heavy: Heavy | None) -> Ranked | None:
        """The likeliest columns of the mean: heavy ones, or lighter ones where these are too few.

        ``None`` where folding is as good.
        """
        while heavy is not None:
            if (found := heavy.likeliest(count)) is not None:
                return found
            bound = heavy.bound / 6
            heavy = self.heavy(row, bound, int(heavy.columns[0])) if bound > LEAST else None
        return None

    def spread(self, row: int) -> tuple[float, float]:
        """The entropy of the mean, in nats, and how far apart voters are: the largest total variation of two."""
        p_JK: list[Floats] = []
        entropy = 0.0
        joint = zip(self.joint.source_K, self.joint.additions_K, strict=True)
        for p, weight, (source, additions) in zip(self.p_K, self.weight_K, joint, strict=True):
            p_V = p.p_BV[row]
            p_J: Floats = np.take(p_V, source, mode="clip")  # which is faster than indexing
            entropy -= weight * (p.nats(row) + math.log(weight))
            entropy += _nats(p_J * weight) + sum(_nats(p_V[ids] * weight) for _, ids in additions)
            for places, ids in additions:
                p_J[places] += p_V[ids]
            p_JK.append(p_J)
        q_J = sum(p_J * weight for p_J, weight in zip(p_JK, self.weight_K, strict=True))
        entropy -= _nats(np.asarray(q_J))
        masses = [float(p_J.sum()) for p_J in p_JK]
        apart = [
            0.5 * (2 - masses[one] - masses[other] + float(np.abs(p_JK[one] - p_JK[other]).sum()))
            for one, other in itertools.combinations(range(len(p_JK)), 2)
        ]
        return max(0.0, entropy), max(0.0, *apart) if apart else 0.0


_SLACK = 0.999
"""What bounds are lowered by, against rounding."""


def _ids_of(p_V: Floats, plan: FoldPlan, bound: float) -> Ints:
    """Ids of which each column of mass ``bound`` has one, and so has the likeliest column."""
    ids: Ints = trace_measures.columns_of_mass(p_V, bound / plan.most * _SLACK)
    peak = float(p_V[ids].max() if len(ids) else p_V.max())
    if peak < bound:
        ids = trace_measures.columns_of_mass(p_V, peak / plan.most * _SLACK)
    return ids


def _columns_of(found: Sequence[tuple[FoldPlan, Ints]], column: int) -> Ints | None:
    """The columns of ids, and one more, in their order; ``None`` where they are many."""
    if sum(len(ids) for _, ids in found) > MANY:
        return None
    columns = {column}
    for plan, ids in found:
        columns.update(plan.column_V[ids[ids < len(plan.column_V)]].tolist())
    columns.discard(-1)
    return np.array(sorted(columns), np.int64)  # for some hundreds it is faster than numpy's `unique`


def _ranked(columns: Ints, masses: Floats, count: int) -> Ranked:
    order = np.argsort(-masses, kind="stable")[:count]
    return tuple((int(columns[place]), float(masses[place])) for place in order)


def _nats(p_N: Floats) -> float:
    """``Σ p log p``."""
    return float(np.vdot(p_N, np.log(p_N + trace_measures.TINY)))
