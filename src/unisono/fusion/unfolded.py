"""The likeliest piece of a mean, and what a trace tells of it, from what members give their own ids.

No distribution over the union is made. Choices and masses are those of `fold` and `rules.mean`, bit for bit. Entropy
and variation are theirs nearly: most columns have one id of one member, so sums over the members' own ids are put right
only where a column has several.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unisono.fusion.fold import FoldPlan, Softmax
from unisono.fusion.row_peaks import RowPeaks
from unisono.fusion.trace_measures import TINY

MANY = 2000  # ids, from which on folding is as good
FEW = 64  # ids of a voter among which the likeliest column is looked for, at most
LEAST = 1e-12  # mass, below which the likeliest columns are not looked for
WITHIN = 5e-3
"""How far off variation is at most, as columns that all voters but one find very unlikely are left out; entropy is by
``WITHIN (1 + log(1 / WITHIN))``, 0.03, at most. With the demo pair both are by 0.0003."""
_SLACK = 0.999  # what bounds are lowered by, against rounding
Ranked = tuple[tuple[int, float], ...]
"""Columns and their probabilities, the likeliest first, and of two that are as likely the lower one."""
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Joint:
    """The J columns of several ids, of one voter or of different ones; first those of which one voter has several."""

    several: int
    """How many of them are columns of which one voter has several ids."""
    source_K: Sequence[Ints]
    """By voter, the id that each of these columns takes its mass from; the one after the last where it has none."""
    additions_K: Sequence[Sequence[tuple[Ints, Ints]]]
    """By voter, further ids: the places of their columns among these, and the ids."""
    further_K: Sequence[Ints]
    """By voter, all further ids."""
    place_K: Sequence[Ints | None]
    """By voter, the place of each id's column among these, -1 where it is not among them; ``None`` for the voter with
    the most ids, as what it alone finds likely needs no putting right."""


def plan_joint(plans: Sequence[FoldPlan]) -> Joint:
    size, widest = plans[0].size, max(range(len(plans)), key=lambda k: len(plans[k].column_V))
    count_U = np.sum([np.bincount(plan.column_V[plan.column_V >= 0], minlength=size) for plan in plans], axis=0)
    first = sorted({column for plan in plans for column in plan.further})
    others = np.setdiff1d(np.flatnonzero(count_U > 1), first)
    columns = np.concatenate((np.array(first, np.int64), others))
    place_U = np.full(size + 1, -1, np.int64)  # the last one for ids whose mass is dropped
    place_U[columns] = np.arange(len(columns))
    return Joint(
        len(first),
        [plan.sources(columns) for plan in plans],
        [[(place_U[some], np.asarray(ids)) for some, ids in plan.additions] for plan in plans],
        [np.concatenate([np.empty(0, np.int64), *(ids for _, ids in plan.additions)]) for plan in plans],
        [None if k == widest else place_U[plan.column_V] for k, plan in enumerate(plans)],
    )


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

    def top(self, k: int, count: int, bound: float) -> Ranked:
        """A voter's likeliest columns of at least this mass, at or above its own ``bound``; or its first."""
        masses = self.masses_K[k]
        return _ranked(self.columns, masses, max(1, min(count, int(np.count_nonzero(masses >= bound)))))

    def has(self, count: int) -> bool:
        """Whether the likeliest columns of the mean are among them: whatever is left out has less than ``bound``."""
        return bool(np.count_nonzero(self.q >= self.bound) >= count)

    def likeliest(self, count: int) -> Ranked:
        """The likeliest of these columns."""
        return _ranked(self.columns, self.q, count)

    def masses_of(self, column: int) -> list[float]:
        """What each voter gives one of the columns."""
        place = int(np.searchsorted(self.columns, column))
        return [float(masses[place]) for masses in self.masses_K]


class Unfolded:
    """The mean of voters' distributions, of some rows. Lasts as long as these do."""

    def __init__(self, p_K: Sequence[Softmax], weight_K: Sequence[float], joint: Joint) -> None:
        """Weights are positive and sum to 1."""
        self.p_K, self.weight_K, self.joint = p_K, weight_K, joint
        self._peaks_BK = [[RowPeaks(p.p_BV[row]) for p in p_K] for row in range(len(p_K[0].p_BV))]

    def likeliest(self, row: int) -> int | None:
        """The column that greedy takes of `mean`: of equal ones the lowest, as everywhere.

        ``None`` where folding is as good, or for no numbers.

        Some column has ``L``, the largest weighted probability of a single id, at least. A column with as much has,
        from one of the K members, ``L / K`` at least, and so one of its ids ``L / K / most``: only the few ids above
        that are looked at, with the arithmetic of `fold` and `mean`.
        """
        voters = list(zip(self.p_K, self.weight_K, self._peaks_BK[row], strict=True))
        least = float(np.max([peaks.largest * weight for _, weight, peaks in voters])) * _SLACK / len(voters)
        if not least > 0:  # not numbers
            return None
        columns: set[int] = set()
        for p, weight, peaks in voters:
            share = weight * p.plan.most
            ids = peaks.above(least / share if share > least else 2.0)  # a weight may be almost nothing
            if len(ids) > FEW:
                return None
            columns.update(p.plan.column_V[ids].tolist())
        best, largest = 0, np.float32(-1)
        for column in sorted(columns):
            q = self.p_K[0].at(row, column) * self.weight_K[0]
            for p, weight, _ in voters[1:]:
                q += p.at(row, column) * weight
            if q > largest:
                best, largest = column, q
        return best

    def mean(self, row: int, columns: Ints) -> Floats:
        """The combined masses of columns, which are in their order."""
        return self._mean([p.of(row, columns) for p in self.p_K])

    def _mean(self, masses_K: Sequence[Floats]) -> Floats:
        q = masses_K[0] * self.weight_K[0]
        for masses, weight in zip(masses_K[1:], self.weight_K[1:], strict=True):
            q += masses * weight
        return q

    def heavy(self, row: int, bound: float, count: int) -> Heavy | None:
        """The columns of mass ``bound``, or of less: the ``count`` likeliest of the mean are among them.

        ``None`` where folding is as good, or for no numbers.
        """
        of_voters = zip(self._peaks_BK[row], self.weight_K, strict=True)
        likely = max(peaks.least_of_largest(count) * weight for peaks, weight in of_voters)
        bound = min(bound, likely) if likely > 0 else bound
        while bound > LEAST:
            heavy = self._of_mass(row, bound)
            if heavy is None or heavy.has(count):
                return heavy
            bound /= 6  # some ids share a column
        return None

    def _of_mass(self, row: int, bound: float) -> Heavy | None:
        columns = set[int]()
        for p, weight, peaks in zip(self.p_K, self.weight_K, self._peaks_BK[row], strict=True):
            least = bound / max(1.0, len(self.p_K) * weight)  # one voter gives it, where the mean has ``bound``
            ids = peaks.above(min(least, peaks.largest) / p.plan.most * _SLACK)
            if len(ids) > MANY:
                return None
            columns.update(p.plan.column_V[ids].tolist())
        ordered = np.array(sorted(columns), np.int64)  # for some hundreds it is faster than numpy's `unique`
        masses_K = [p.of(row, ordered) for p in self.p_K]
        return Heavy(bound, ordered, masses_K, self._mean(masses_K))

    def spread(self, row: int, within: float = WITHIN) -> tuple[float, float]:
        """The entropy of the mean, in nats, and how far apart voters are: the largest total variation of two.

        Where every voter has one id of a column at most, and all but one find it very unlikely, the sums over their own
        ids are right already; the others are put right.
        """
        places, p_SK, entropy = self._shared(row, within), [], 0.0
        for k, (p, weight, peaks) in enumerate(zip(self.p_K, self.weight_K, self._peaks_BK[row], strict=True)):
            p_V, joint = p.p_BV[row], self.joint
            p_S: Floats = p_V[joint.source_K[k][places]]
            entropy -= weight * (p.nats(row, peaks.best) + math.log(weight))
            entropy += _nats(p_S * weight) + _nats(p_V[joint.further_K[k]] * weight)
            for some, ids in joint.additions_K[k]:
                p_S[some] += p_V[ids]
            p_SK.append(p_S)
        entropy -= _nats(self._mean(p_SK))
        apart = [1 - float(np.minimum(*pair).sum()) for pair in itertools.combinations(p_SK, 2)]
        return max(0.0, entropy), max(0.0, *apart) if apart else 0.0

    def _shared(self, row: int, within: float) -> Ints:
        """The places of S joint columns. Without the rest, ``Σ min(p, p')`` of two voters loses ``within`` at most."""
        several, least = self.joint.several, within / max(1, len(self.joint.source_K[0]))
        found = [
            place_V[np.flatnonzero(p.p_BV[row, :-1] >= least)]
            for p, place_V in zip(self.p_K, self.joint.place_K, strict=True)
            if place_V is not None
        ]
        places = found[0] if len(found) == 1 else np.unique(np.concatenate(found)) if found else np.empty(0, np.int64)
        return np.concatenate((np.arange(several), places[places >= several]))


def _ranked(columns: Ints, masses: Floats, count: int) -> Ranked:
    order = np.argsort(-masses, kind="stable")[:count]
    return tuple((int(columns[place]), float(masses[place])) for place in order)


def _nats(p_N: Floats) -> float:
    """``Σ p log p``."""
    return float(np.vdot(p_N, np.log(p_N + TINY)))
