"""What is certain before all members were asked: what an unasked one may still say, and who decides without it.

The proofs stand in docs/adr/0023. `unisono.fusion.bounds` certifies the other rules' choices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from unisono.fusion.bounds import CLOSER, Certificate, Reshaping
from unisono.fusion.fold_top import FoldedTop, Masses

Asked = TypeVar("Asked")

_CLOSER = 1e-4
"""What sums of logarithms may differ by: more than float32 makes of them."""
_VANISHES = 80.0
"""A score that is less than the largest by more than this may have no mass in float32."""
_NO_COLUMNS = np.empty(0, np.int64)
_NO_MASSES = np.empty(0)


def untold(column_V: NDArray[np.int32], size: int) -> FoldedTop:
    """What is known of a distribution that was not asked for: any column that has an id may have all of its mass."""
    ids_U = np.zeros(size, np.int64)
    ids_U[column_V[column_V >= 0]] = 1
    return FoldedTop(_NO_COLUMNS, _NO_MASSES, _NO_COLUMNS, 1.0, 1.0, 1.0, 1.0, ids_U)


def certify_plausible(
    p_U_K: Sequence[NDArray[Any] | None],
    weights: Sequence[float],
    alpha: float,
    floor: float,
    reshaping: Reshaping,
) -> Certificate:
    """Find the column that `contrastive` takes, and whether amateurs that were not asked (``None``) can change it.

    Without all experts nothing is certain. With them, an amateur adds to a column's score 0 at least, and its weight
    times ``-log floor`` at most.
    """
    voters = list(zip(p_U_K, weights, strict=True))
    experts = [(p_U, weight) for p_U, weight in voters if weight > 0 and p_U is not None]
    unsure = Certificate(0, False, _NO_COLUMNS, 0.0, 1.0)
    if len(experts) < sum(weight > 0 for weight in weights):
        return unsure
    mean_U: Masses = np.sum([p_U.astype(np.float64) * weight for p_U, weight in experts], axis=0)
    bar = alpha * mean_U.max()
    column_N = np.flatnonzero(mean_U >= bar * (1 - CLOSER))  # all that may be plausible
    is_plausible_N = (mean_U[column_N] >= bar * (1 + CLOSER)) | (len(column_N) == 1)
    expert_N: Masses = np.sum([_floored_log(p_U[column_N], floor) * weight for p_U, weight in experts], axis=0)
    low_N, spread = expert_N.copy(), 0.0
    for p_U, weight in voters:
        if weight < 0 and p_U is None:
            spread -= weight * -math.log(floor)
        elif weight < 0 and p_U is not None:
            p_N = p_U[column_N]
            low_N += np.where(p_N == 0, expert_N, _floored_log(p_N, floor)) * weight
    has_mass_N = low_N > low_N.max() + spread - _VANISHES
    low_N += np.array([reshaping.bias.get(column, 0.0) for column in column_N.tolist()])
    is_left_N = np.ones(len(column_N), np.bool_) if reshaping.allowed_U is None else reshaping.allowed_U[column_N]
    able_N = is_left_N & is_plausible_N & has_mass_N
    if not able_N.any():
        return unsure
    best = int(np.where(able_N, low_N, -math.inf).argmax())
    is_rival_N = is_left_N.copy()
    is_rival_N[best] = False
    is_certain = bool((low_N[is_rival_N] + spread + _CLOSER < low_N[best]).all())
    least = 1.0 if len(column_N) == 1 else 0.0
    return Certificate(int(column_N[best]), is_certain, column_N[is_rival_N], least, 1.0)


def _floored_log(p_N: NDArray[Any], floor: float) -> Masses:
    return np.asarray(np.log(np.maximum(p_N.astype(np.float64), floor)))


def decides(rule: str, asked: Sequence[float], rest: Sequence[float]) -> bool:
    """Whether members of some weights may decide whatever the rest say, if they are sure enough.

    It says who is worth asking first, and proves nothing.
    """
    if not rest:
        return True
    if rule == "max":
        return max(asked, default=0.0) > max(rest) * (1 + CLOSER)
    if rule == "contrastive":
        return not any(weight > 0 for weight in rest)
    return sum(asked) > sum(rest) * (1 + CLOSER)


class Unasked(NamedTuple, Generic[Asked]):
    """Members that are asked in one go."""

    who: Asked
    weights: Sequence[float]
    price: float

    @property
    def price_of_weight(self) -> float:
        return self.price / sum(map(abs, self.weights))


def next_to_ask(left: Sequence[Unasked[Asked]], asked: Sequence[float], rule: str) -> list[Asked]:
    """Who of those that are left is asked next: as few as may decide, and cheap ones; after these one at a time.

    ``asked`` are the weights of the members that were asked, and ``rule`` is that by which all are combined.
    """
    if not left:
        return []
    if decides(rule, asked, _weights(left)):
        return [min(left, key=lambda each: each.price).who]
    chosen = list[Unasked[Asked]]()
    for each in sorted(left, key=lambda each: each.price_of_weight):
        chosen.append(each)
        if _suffice(chosen, left, asked, rule):
            break
    for each in sorted(chosen, key=lambda each: -each.price):
        fewer = [other for other in chosen if other is not each]
        if fewer and _suffice(fewer, left, asked, rule):
            chosen = fewer
    return [each.who for each in chosen]


def _suffice(
    chosen: Sequence[Unasked[Asked]], left: Sequence[Unasked[Asked]], asked: Sequence[float], rule: str
) -> bool:
    others = [each for each in left if not any(each is other for other in chosen)]
    return decides(rule, [*asked, *_weights(chosen)], _weights(others))


def _weights(units: Sequence[Unasked[Asked]]) -> list[float]:
    return [weight for unit in units for weight in unit.weights]
