"""How a piece is chosen from a distribution: the likeliest or a drawn one, and whether a draft is accepted."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from array_api_compat import array_namespace

from unisono.fusion.fold import Array, bring

_BLOCK = 1024
"""Masses that are added up before it is asked whether what is drawn is among them."""


def greedy(q_BU: Array) -> list[int]:
    """The column of the largest mass in each row; the lowest column on a tie."""
    xp = array_namespace(q_BU)
    return [int(column) for column in xp.argmax(q_BU, axis=1)]


def inverse_transform(q_BU: Array, uniforms: Sequence[float]) -> list[int]:
    """Draw a column for each row: the first at which the masses so far exceed the row's uniform number, in [0, 1).

    The masses, which need not sum to 1, are added up on the host, in float64. A column without mass is never drawn.
    """
    host = np.empty(0)
    return [_inverse(bring(q_U, host), uniform) for q_U, uniform in zip(q_BU, uniforms, strict=True)]


def _inverse(q_U: Array, uniform: float) -> int:
    starts = np.arange(0, len(q_U), _BLOCK)  # by blocks first, so that not all the sums so far are written down
    reached = np.cumsum(np.add.reduceat(q_U, starts, dtype=np.float64))
    goal = uniform * reached[-1]
    block = _first_above(reached, goal)
    before = reached[block - 1] if block else 0.0
    inside = np.cumsum(q_U[block * _BLOCK : (block + 1) * _BLOCK], dtype=np.float64)
    return block * _BLOCK + _first_above(inside, goal - before)


def _first_above(reached: Array, goal: float) -> int:
    """The first place that exceeds the goal, or where rounding let none, the first that reaches the end."""
    return int(min(np.searchsorted(reached, goal, side="right"), np.searchsorted(reached, reached[-1])))


class Purpose(IntEnum):
    """What a uniform number is for. Numbers for different purposes are independent.

    The values are part of what a seed means: changing one changes every text that is drawn.
    """

    PIECE = 0
    ACCEPTANCE = 2
    RESIDUAL = 3
    """Drawing another piece where a drafted one was not accepted."""
    MEMBER = 4


def uniform(seed: int, position: int, purpose: Purpose) -> float:
    """The uniform number of one place in one text, a multiple of 2^-53 in [0, 1).

    It is the output of a counter-based generator (Philox4x64-10: Salmon et al., SC 2011), so it depends on nothing but
    its arguments: not on the batch, nor on what was drawn before. The raw stream is taken because NumPy keeps it the
    same from version to version, which it does not promise of `random` (NEP 19). The seed, the generator's key, and the
    position, the number of pieces before, are below 2^64.
    """
    raw = np.random.Philox(key=seed, counter=position + (purpose << 64)).random_raw()
    return float((int(raw) >> 11) * 2.0**-53)


def accepts(p_U: Array, q_U: Array, column: int, uniform: float) -> bool:
    """Whether a drafted piece is accepted, which it is with probability ``min(1, q / p)``.

    The rule of speculative sampling (arXiv 2211.17192, section 2.3; arXiv 2302.01318, algorithm 2). ``p_U`` is what the
    piece was drawn from (a drafter that draws nothing has all its mass there), ``q_U`` what it should have been drawn
    from, and ``uniform`` is in [0, 1).
    """
    return uniform * float(p_U[column]) < float(q_U[column])


def residual(p_U: Array, q_U: Array) -> Array:
    """What to draw from where a drafted piece was not accepted: the positive part of ``q - p``, renormalised.

    Where there is none, the two differ by rounding only, and it is ``q_U``. With `accepts` it makes the
    piece that is written one drawn from ``q_U`` (arXiv 2211.17192, appendix A.1).
    """
    xp = array_namespace(q_U)
    more_U = xp.where(q_U > p_U, q_U - p_U, 0)
    total = xp.sum(more_U)
    if not total > 0:
        return q_U
    more_U /= total
    return more_U
