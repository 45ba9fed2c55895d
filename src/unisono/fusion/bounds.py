"""What truncated distributions prove: which column is the largest of every whole distribution that agrees with them.

An id that was not told has at most the unseen mass, and at most the least probability among the k likeliest. So each
column's mass has bounds, and a member's renormalisation by its dropped ids has, too. Untold columns differ only in how
many ids each member has there: one representative stands for all of a kind (docs/adr/0016).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unisono.fusion.fold_top import Columns, FoldedTop, Masses
from unisono.fusion.rules import BARELY, FLOOR

CLOSER = 1e-5
"""A score has to be larger by this share: more than what float32 makes of the dense rules."""
NOTHING = 1e-12  # a kept mass that may be less than this is unknown
_SAME = 1e-6  # masses as close as this are a tie of the dense rules
_SURE = 1e-3  # columns of this share of a dense distribution's largest mass are looked at one by one
_ABOVE_FLOOR = BARELY * (1 + CLOSER)
_LEAST_BIAS = -600.0  # relative to the largest: what is below is nothing
_BELOW_FLOOR = 1.0005  # so little is zeroed, whatever float32 makes of it


class Whole(NamedTuple):
    """A dense voter of a mixed ensemble: its masses are exact."""

    p_U: NDArray[Any]
    least: float = 1.0
    most: float = 1.0
    unseen: float = 0.0

    def bounds(self, columns: Columns) -> tuple[Masses, Masses]:
        p = self.p_U[columns].astype(np.float64)
        return p, p

    def columns(self, allowed_U: NDArray[np.bool_] | None, biased: Columns) -> Columns:
        """Those of much mass among the allowed ones; those that biases treat apart are looked at anyway."""
        rest_U = self.beside(biased, allowed_U)
        largest = rest_U.max()
        return np.flatnonzero(rest_U >= _SURE * largest) if largest > 0 else biased

    def beside(self, columns: Columns, allowed_U: NDArray[np.bool_] | None) -> NDArray[Any]:
        """The masses of the allowed columns, but for some."""
        rest_U = self.p_U.copy() if allowed_U is None else self.p_U * allowed_U
        rest_U[columns] = 0
        return rest_U


Voter = FoldedTop | Whole


class Kinds(NamedTuple):
    """Columns by how many ids each truncated voter has there."""

    kind_U: NDArray[np.int64]
    ids_KD: NDArray[np.int64]
    """Of each voter, by kind."""
    columns_D: NDArray[np.int64]
    """How many columns are of each kind."""


def kinds_of(ids_U_K: Sequence[NDArray[np.int64]]) -> Kinds:
    """Count the kinds of columns that a set of truncated voters makes; once, as it takes a while."""
    ids_KU = np.stack(ids_U_K)
    key_U = np.zeros(ids_KU.shape[1], np.int64)
    for ids_U in ids_KU:  # one number for each kind
        key_U = key_U * (int(ids_U.max(initial=0)) + 1) + ids_U
    _, first, kind_U, columns = np.unique(key_U, return_index=True, return_inverse=True, return_counts=True)
    return Kinds(kind_U, ids_KU[:, first], columns)


@dataclass(frozen=True, slots=True, eq=False)
class Reshaping:
    """What is done to combined masses before the largest is taken; by default nothing."""

    allowed_U: NDArray[np.bool_] | None = None
    """By column, whether a grammar allows it; ``None`` for all."""
    bias: Mapping[int, float] = field(default_factory=dict)
    """What biases and penalties add to the log-masses of columns."""

    def factors(self, columns: Columns, high_KN: Masses) -> Masses:
        """What the scores of columns are multiplied by, and those of the untold ones behind them; 0 for not allowed.

        They are relative to the largest that matters, as those of large biases are no numbers.
        """
        factor_N = np.ones(high_KN.shape[1])
        few = len(columns)
        if self.bias:
            bias_N = np.zeros(len(factor_N))
            bias_N[:few] = [self.bias.get(column, 0.0) for column in columns.tolist()]
            factor_N = np.exp(np.clip(bias_N - bias_N[high_KN.any(axis=0)].max(initial=-np.inf), _LEAST_BIAS, 0.0))
        if self.allowed_U is not None:
            factor_N[:few] *= self.allowed_U[columns]
        return factor_N

    def first(self, size: int) -> int:
        """The column that is taken where none has any mass: the lowest of those that are allowed and favoured most."""
        bias_U = np.zeros(size)
        bias_U[list(self.bias)] = list(self.bias.values())
        if self.allowed_U is not None:
            bias_U[~self.allowed_U] = -np.inf
        return int(bias_U.argmax())


UNSHAPED = Reshaping()


class Certificate(NamedTuple):
    column: int
    """The largest by what is known."""
    is_certain: bool
    rivals: Columns
    """Columns that may be larger, as far as they are looked at one by one, the most dangerous first."""
    least: float
    """Its probability by the rule, at least, before it is reshaped."""
    most: float
    open_K: tuple[bool, ...] = ()
    """Of which voters something is unknown that could decide."""
    is_blind: bool = False
    """Whether nobody is known to give mass to any column that may be taken."""


def certify(
    voters: Sequence[Voter],
    weights: Sequence[float],
    kinds: Kinds,
    rule: str,
    floor: float = FLOOR,
    reshaping: Reshaping = UNSHAPED,
) -> Certificate:
    """Find the column that ``mean``, ``max`` or ``geometric`` takes, and whether any rival can overtake it.

    Each score grows with each mass, so a rival's largest masses are held against the column's least ones. A member's
    scale is the one end that is worse: if a rival wins at some scale, it does at that end.
    """
    few, low_KN, high_KN = column_bounds(voters, kinds, reshaping)
    largest_scale = np.array([[1 / max(voter.least, NOTHING)] for voter in voters])
    least_scale = np.array([[1 / max(voter.most, NOTHING)] for voter in voters])
    factor_N, is_exact = reshaping.factors(few, high_KN), all(voter.unseen == 0 for voter in voters)
    score_N = scores(rule, low_KN[:, : len(few)] * least_scale, weights, floor)
    shaped_N = score_N * factor_N[: len(few)]
    if rule == "geometric":
        shaped_N[score_N <= floor * _ABOVE_FLOOR] = 0  # nobody gives it mass
    largest = shaped_N.max(initial=0.0)
    if not largest:
        open_K, most = tuple(voter.unseen > 0 for voter in voters), 0.0 if is_exact and rule != "geometric" else 1.0
        rivals = few[factor_N[: len(few)] > 0]
        return Certificate(reshaping.first(len(kinds.kind_U)), is_exact, rivals, 0.0, most, open_K, is_blind=True)
    best = int(np.flatnonzero(shaped_N >= largest * (1 - _SAME))[0])  # of two equal ones the lowest
    own_N, rival_N = _held(
        rule, low_KN[:, [best]], high_KN, factor_N / factor_N[best], (least_scale, largest_scale), weights, floor
    )
    beaten_N = own_N > rival_N * (1 + CLOSER)
    beaten_N[best] = True
    is_certain = is_exact or bool(beaten_N.all() and all(voter.least > NOTHING for voter in voters))
    dangerous = np.flatnonzero(~beaten_N[: len(few)])
    rivals = few[dangerous[np.argsort(-rival_N[dangerous], kind="stable")]]
    matters_N = ~beaten_N
    matters_N[best] = True
    open_K = tuple(((high_KN > low_KN)[:, matters_N].any(axis=1) | (largest_scale > least_scale)[:, 0]).tolist())
    most = float(scores(rule, high_KN[:, [best]] * largest_scale, weights, floor)[0])
    least, most = _shares(rule, score_N, best, most, None if is_exact else floor * len(kinds.kind_U), floor)
    return Certificate(int(few[best]), is_certain, rivals, least, most, open_K)


def _held(
    rule: str,
    low_K1: Masses,
    high_KN: Masses,
    factor_N: Masses,
    scales: tuple[Masses, Masses],
    weights: Sequence[float],
    floor: float,
) -> tuple[Masses, Masses]:
    """What a column has against each rival, and what the rival has, where members are scaled as suits the rival best.

    ``factor_N`` are the rivals' relative to the column's, and ``scales`` the least and the largest of each member.
    """
    least_K1, largest_K1 = scales
    turned_KN = high_KN if rule == "geometric" else high_KN * factor_N
    scale_KN = np.where(low_K1 >= turned_KN * (1 + CLOSER), least_K1, largest_K1)
    own_N = scores(rule, low_K1 * scale_KN, weights, floor)
    rival_N = scores(rule, high_KN * scale_KN, weights, floor) * factor_N
    if rule == "geometric":  # the rule takes away what nobody gives mass
        rival_N[scores(rule, high_KN * largest_K1, weights, floor) <= floor * _BELOW_FLOOR] = 0
    return own_N, rival_N


def _shares(
    rule: str, score_N: Masses, best: int, most: float, floors: float | None, floor: float
) -> tuple[float, float]:
    """The least and the largest probability of a column: its scores over what those of all columns sum to.

    Masses sum to 1, so scores do at most, but for what the floors of all columns add; ``None`` where the scores of
    all columns are there.
    """
    least = float(score_N[best])
    if rule == "mean":
        return least, min(1.0, most)
    known = float(score_N[score_N > floor * BARELY].sum() if rule == "geometric" else score_N.sum())
    if not known:
        return 0.0, 1.0
    return least / (known if floors is None else 1 + floors), min(1.0, most / known)


def scores(rule: str, p_KN: Masses, weights: Sequence[float], floor: float = FLOOR) -> Masses:
    """What a rule gives columns, without its normalisation."""
    weight_K1 = np.asarray(weights, np.float64)[:, None]
    if rule == "mean":
        return np.asarray((p_KN * weight_K1).sum(axis=0))
    if rule == "max":
        return np.asarray((p_KN * weight_K1).max(axis=0))
    if rule == "geometric":
        return np.asarray(np.exp((np.log(np.maximum(p_KN, floor)) * weight_K1).sum(axis=0)))
    raise AssertionError(f"{rule} has no bounds")


def column_bounds(
    voters: Sequence[Voter], kinds: Kinds, reshaping: Reshaping = UNSHAPED
) -> tuple[Columns, Masses, Masses]:
    """The columns that are looked at one by one, and the bounds of these and of what stands for all others."""
    few = _looked_at(voters, len(kinds.kind_U), reshaping)
    bounds, untold = [voter.bounds(few) for voter in voters], _untold(voters, few, kinds, reshaping.allowed_U)
    low_KN = np.concatenate([np.stack([low for low, _ in bounds]), np.zeros_like(untold)], axis=1)
    return few, low_KN, np.concatenate([np.stack([high for _, high in bounds]), untold], axis=1)


def _looked_at(voters: Sequence[Voter], size: int, reshaping: Reshaping) -> Columns:
    if all(voter.unseen == 0 for voter in voters) and any(isinstance(voter, Whole) for voter in voters):
        return np.arange(size)  # nothing is left to bounds
    biased, allowed_U = np.array(list(reshaping.bias), np.int64), reshaping.allowed_U
    its = (voter.columns(allowed_U, biased) if isinstance(voter, Whole) else voter.columns for voter in voters)
    return np.unique(np.concatenate([*its, biased])).astype(np.int64)


def _untold(voters: Sequence[Voter], few: Columns, kinds: Kinds, allowed_U: NDArray[np.bool_] | None) -> Masses:
    """The largest masses of columns that nobody told: one of each kind of which any is allowed."""
    columns_D = kinds.columns_D
    if allowed_U is not None:
        columns_D = np.bincount(kinds.kind_U[np.flatnonzero(allowed_U)], minlength=len(columns_D))
        few = few[allowed_U[few]]
    left = np.flatnonzero(np.bincount(kinds.kind_U[few], minlength=len(columns_D)) < columns_D)
    truncated = iter(kinds.ids_KD)
    return np.stack(
        [
            np.full(len(left), float(voter.beside(few, allowed_U).max()))
            if isinstance(voter, Whole)
            else voter.beyond(next(truncated)[left])
            for voter in voters
        ]
    )
