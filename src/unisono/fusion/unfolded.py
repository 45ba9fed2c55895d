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
BEGIN, LEAST = 1e-3, 1e-12  # masses, between which the likeliest columns are looked for
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
        q = self.voter(0, row, columns) * self.weight_K[0]
        for k in range(1, len(self.p_K)):
            q += self.voter(k, row, columns) * self.weight_K[k]
        return q

    def top(self, k: int, row: int, count: int, bound: float) -> Ranked | None:
        """A voter's likeliest columns of mass ``bound`` at least, or its first. ``None`` where folding is as good."""
        p_V, plan = self.p_K[k].p_BV[row], self.p_K[k].plan
        peak = float(p_V.max())
        least = peak if count == 1 else min(bound, peak)
        ids = trace_measures.columns_of_mass(p_V, least / plan.most * _SLACK)
        columns = _columns_of([(plan, ids)])
        if columns is None:
            return None
        masses = self.voter(k, row, columns)
        return _ranked(
            columns, masses, count if count == 1 else max(1, min(count, int(np.count_nonzero(masses >= bound))))
        )

    def likeliest(self, row: int, count: int) -> Ranked | None:
        """The likeliest columns of the mean. ``None`` where folding is as good."""
        bound = BEGIN
        while bound > LEAST:
            found = []
            for p, weight in zip(self.p_K, self.weight_K, strict=True):
                share = bound / (len(self.p_K) * weight * p.plan.most)  # one voter has it of one id, at least
                found.append((p.plan, trace_measures.columns_of_mass(p.p_BV[row], share * _SLACK)))
            if (columns := _columns_of(found)) is None:
                return None
            q = self.mean(row, columns)
            if np.count_nonzero(q >= bound) >= count:  # whatever is left out has less
                return _ranked(columns, q, count)
            bound /= 30
        return None

    def spread(self, row: int) -> tuple[float, float]:
        """The entropy of the mean, in nats, and how far apart voters are: the largest total variation of two."""
        p_JK, entropy = [], 0.0
        joint = zip(self.joint.source_K, self.joint.additions_K, strict=True)
        for p, weight, (source, additions) in zip(self.p_K, self.weight_K, joint, strict=True):
            p_V = p.p_BV[row]
            p_J = p_V[source]
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


def _columns_of(found: Sequence[tuple[FoldPlan, Ints]]) -> Ints | None:
    """The columns of ids, in their order; ``None`` where they are many."""
    if sum(len(ids) for _, ids in found) > MANY:
        return None
    columns = np.unique(np.concatenate([plan.column_V[ids[ids < len(plan.column_V)]] for plan, ids in found]))
    return columns[columns >= 0].astype(np.int64)


def _ranked(columns: Ints, masses: Floats, count: int) -> Ranked:
    order = np.argsort(-masses, kind="stable")[:count]
    return tuple((int(columns[place]), float(masses[place])) for place in order)


def _nats(p_N: Floats) -> float:
    """``Σ p log p``."""
    return float(np.vdot(p_N, np.log(p_N + trace_measures.TINY)))
