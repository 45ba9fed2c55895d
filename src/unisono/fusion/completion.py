"""Whole distributions made of what truncated members tell, where pieces are to be drawn (docs/adr/0016).

What is told stays as it is. The unseen mass goes to the columns of which nothing was told, in the shape that the other
voters give them; where they give these no mass, what is told is renormalised. So a member's row is off by its unseen
share at most, in total variation, and the weighted mean by the weighted mean of these shares.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from unisono.fusion.bounds import Voter
from unisono.fusion.fold_top import FoldedTop, Masses


def complete(voters: Sequence[Voter], weights: Sequence[float]) -> list[NDArray[np.float32]]:
    """``p_U`` of each voter, float32 on the host."""
    known_K = [_known(voter) if isinstance(voter, FoldedTop) else voter.p_U for voter in voters]
    rows = []
    for voter, known_U in zip(voters, known_K, strict=True):
        if isinstance(voter, FoldedTop):
            others = [(p_U, weight) for p_U, weight in zip(known_K, weights, strict=True) if p_U is not known_U]
            known_U = _filled(voter, known_U, others)
        rows.append(np.asarray(known_U, np.float32))
    return rows


def unseen_share(told: FoldedTop) -> float:
    """By how much a completed row may be off."""
    return told.unseen / told.most if told.most else 1.0


def _known(told: FoldedTop) -> Masses:
    known_U = np.zeros(len(told.ids_U))
    if told.most:
        known_U[told.columns] = told.known / told.most
    return known_U


def _filled(told: FoldedTop, known_U: Masses, others: Sequence[tuple[Masses, float]]) -> Masses:
    shape_U = np.zeros(len(known_U))
    for p_U, weight in others:
        shape_U += p_U * np.float64(weight)
    shape_U[told.ids_U == 0] = 0
    shape_U[told.columns] = 0
    total = shape_U.sum()
    if told.unseen and total > 0:
        filled_U = known_U + shape_U * (unseen_share(told) / total)
    else:
        filled_U = known_U if known_U.any() else (told.ids_U > 0).astype(np.float64)
    return np.asarray(filled_U / filled_U.sum())
