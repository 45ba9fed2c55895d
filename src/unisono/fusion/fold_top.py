"""Folds truncated distributions into the union's columns: what is told of each, and bounds for what is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Masses = NDArray[np.float64]
Columns = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class TopPlan:
    """A member's map, laid out for `fold_top`."""

    column_V: NDArray[np.int32]
    """The column of each id, -1 where its mass is dropped."""
    ids_U: NDArray[np.int64]
    """How many ids each column has."""
    dropped: int


def plan_top(column_V: NDArray[np.int32], size: int) -> TopPlan:
    kept = column_V >= 0
    return TopPlan(column_V, np.bincount(column_V[kept], minlength=size), int((~kept).sum()))


class FoldedTop(NamedTuple):
    """What one truncated distribution tells of the union's columns, before it is renormalised."""

    columns: Columns
    """The told ones, ascending."""
    known: Masses
    told: NDArray[np.int64]
    """How many ids of each column are told."""
    each: float
    """What an untold id has at most."""
    unseen: float
    least: float
    most: float
    """The kept mass lies between the two."""
    ids_U: NDArray[np.int64]

    def bounds(self, columns: Columns) -> tuple[Masses, Masses]:
        """The least and the largest mass of columns."""
        known, told = np.zeros(len(columns)), np.zeros(len(columns), np.int64)
        if len(self.columns):
            place = np.minimum(np.searchsorted(self.columns, columns), len(self.columns) - 1)
            found = self.columns[place] == columns
            known[found], told[found] = self.known[place[found]], self.told[place[found]]
        return known, known + self.beyond(self.ids_U[columns] - told)

    def beyond(self, ids: NDArray[np.int64]) -> Masses:
        """The mass of so many untold ids, at most."""
        return np.asarray(np.minimum(self.unseen, self.each * ids))


def fold_top(
    ids_K: NDArray[np.int32], logp_K: NDArray[np.float32], unseen: float, kth: float, plan: TopPlan, slack: float = 0.0
) -> FoldedTop:
    """Fold one row of `TopLogprobs` into the union's columns; ``unseen`` may be too large by ``slack``."""
    is_told = ids_K >= 0
    p, column = np.exp(logp_K[is_told].astype(np.float64)), plan.column_V[ids_K[is_told]]
    kept = column >= 0
    columns, place = np.unique(column[kept], return_inverse=True)
    known = np.bincount(place, weights=p[kept], minlength=len(columns)).astype(np.float64)
    told, each = np.bincount(place, minlength=len(columns)), min(unseen, kth)
    most = float(known.sum()) + unseen
    least = most - min(unseen, slack + each * (plan.dropped - int((~kept).sum())))
    return FoldedTop(columns.astype(np.int64), known, told, each, unseen, least, most, plan.ids_U)
