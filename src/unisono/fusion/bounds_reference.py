"""The oracle of `bounds`: every column, id by id, and every corner of what members are renormalised by."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unisono.fusion.bounds import scores
from unisono.fusion.fold_top import Masses


class PlainTold(NamedTuple):
    """What one voter tells of its distribution; a dense one tells all of it."""

    column_V: NDArray[np.int32]
    p_by_id: Mapping[int, float]
    unseen: float
    each: float
    """What an untold id has at most."""


def plain_certificate(
    told: list[PlainTold],
    weights: list[float],
    columns: int,
    rule: str,
    floor: float,
    allowed: Sequence[bool] | None = None,
    bias: Mapping[int, float] | None = None,
) -> tuple[int, bool]:
    """The largest column of what is known, and whether it is that of every distribution that agrees with this.

    All columns are looked at, id by id, and every corner of what members are renormalised by. It is the oracle of
    `unisono.fusion.bounds.certify`.
    """
    low_KU, high_KU, kept_K = _plain_bounds(told, columns)
    bias_U = np.array([(bias or {}).get(column, 0.0) for column in range(columns)])
    allowed_U = np.ones(columns, bool) if allowed is None else np.asarray(allowed)
    factor_U = np.exp(bias_U) * allowed_U
    no_mass = floor * 1.00101 if rule == "geometric" else 0.0
    least_U = scores(rule, low_KU / np.array([[most] for _, most in kept_K]), weights, floor)
    least_U = factor_U * np.where(least_U > no_mass, least_U, 0)
    is_exact = not any(voter.unseen for voter in told)
    if not least_U.any():
        return int(np.where(allowed_U, bias_U, -np.inf).argmax()), is_exact
    best = int(np.flatnonzero(least_U >= least_U.max() * (1 - 1e-6))[0])
    if is_exact:
        return best, True
    if any(least <= 1e-12 for least, _ in kept_K):
        return best, False
    most_U = scores(rule, high_KU / np.array([[least] for least, _ in kept_K]), weights, floor)
    has_none_U = (most_U <= floor * 1.0005) & (rule == "geometric")
    for corner in itertools.product(*kept_K):
        kept_K1 = np.array(corner)[:, None]
        own = scores(rule, low_KU[:, [best]] / kept_K1, weights, floor)[0] * factor_U[best]
        rival_U = np.where(has_none_U, 0, scores(rule, high_KU / kept_K1, weights, floor) * factor_U)
        rival_U[best] = 0
        if own <= rival_U.max() * (1 + 1e-5):
            return best, False
    return best, True


def _plain_bounds(told: list[PlainTold], columns: int) -> tuple[Masses, Masses, list[tuple[float, float]]]:
    """The least and the most mass of each column by voter, and of what each voter's is renormalised by."""
    low_KU, high_KU, kept_K = np.zeros((len(told), columns)), np.zeros((len(told), columns)), []
    for voter, low_U, high_U in zip(told, low_KU, high_KU, strict=True):
        untold_U, dropped = np.zeros(columns), 0
        for token, column in enumerate(voter.column_V):
            if token in voter.p_by_id and column >= 0:
                low_U[column] += voter.p_by_id[token]
            elif token not in voter.p_by_id and column >= 0:
                untold_U[column] += 1
            elif token not in voter.p_by_id:
                dropped += 1
        high_U += low_U + np.minimum(voter.unseen, voter.each * untold_U)
        most = low_U.sum() + voter.unseen
        kept_K.append((most - min(voter.unseen, voter.each * dropped), most))
    return low_KU, high_KU, kept_K
