"""How a piece is chosen from a distribution: the likeliest or a drawn one, and whether a draft is accepted."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from array_api_compat import array_namespace

from unisono.fusion.fold import Array, bring

_BLOCK = 1024
"""Masses that are added up before it is asked which half of them has what is drawn; a power of 2."""


def greedy(q_BU: Array) -> list[int]:
    """The column of the largest mass in each row; the lowest column on a tie."""
    xp = array_namespace(q_BU)
    return [int(column) for column in xp.argmax(q_BU, axis=1)]


class Purpose(IntEnum):
    """What random numbers are for. Numbers for different purposes are independent.

    The values are part of what a seed means: changing one changes every text that is drawn.
    """

    PIECE = 0
    ACCEPTANCE = 2
    RESIDUAL = 3
    """Drawing another piece where a drafted one was not accepted."""
    MEMBER = 4


class RandomNumbers:
    """The uniform numbers of one place in one text, multiples of 2^-53 in [0, 1), one after the other.

    They come from a counter-based generator (Philox4x64-10: Salmon et al., SC 2011), so they depend on nothing but the
    seed, the position and the purpose: not on the batch, nor on what was drawn before. The raw stream is taken because
    NumPy keeps it the same from version to version, which it does not promise of `random` (NEP 19). The seed, the
    generator's key, and the position, the number of pieces before, are below 2^64.
    """

    def __init__(self, seed: int, position: int, purpose: Purpose, again: int = 0) -> None:
        """``again`` counts what was drawn there for the same purpose, and then left."""
        self._words = np.random.Philox(key=seed, counter=(position << 64) + (purpose << 128) + (again << 192))

    def below(self, part: float, whole: float) -> bool:
        """Whether the next number, as a share of ``whole``, is less than ``part``: so it is by ``part / whole``."""
        return (int(self._words.random_raw()) >> 11) * 2.0**-53 * whole < part


def draw_from(q_U: Array, numbers: RandomNumbers) -> int:
    """Draw a column from masses, which need not sum to 1. A column without mass is never drawn.

    The columns are halved until one is left, with a number for each choice of a half. Where masses are almost the
    same, so is each choice, and almost always the column is: it changes about as seldom as halves change in mass. (The
    first column at which the sum of masses exceeds one number changes a hundred times as often: in a sum, the small
    changes before a column shift all those of less mass.) The masses are added up on the host, in float64.
    """
    masses = bring(q_U, np.empty(0))
    block = _descend(np.add.reduceat(masses, np.arange(0, len(masses), _BLOCK), dtype=np.float64), numbers)
    inside = masses[block * _BLOCK : (block + 1) * _BLOCK]
    return block * _BLOCK + _descend(inside.astype(np.float64), numbers)


def _descend(masses: Array, numbers: RandomNumbers) -> int:
    levels = [masses]
    while len(levels[-1]) > 1:
        levels.append(np.add.reduceat(levels[-1], np.arange(0, len(levels[-1]), 2)))
    place = 0
    for level in reversed(levels[:-1]):
        place *= 2
        left, right = level[place], level[place + 1] if place + 1 < len(level) else 0.0
        if not numbers.below(left, left + right) and right > 0:
            place += 1
    return place


def accepts(p_U: Array, q_U: Array, column: int, numbers: RandomNumbers) -> bool:
    """Whether a drafted piece is accepted, which it is with probability ``min(1, q / p)``.

    The rule of speculative sampling (arXiv 2211.17192, section 2.3; arXiv 2302.01318, algorithm 2). ``p_U`` is what the
    piece was drawn from (a drafter that draws nothing has all its mass there), ``q_U`` what it should have been drawn
    from.
    """
    return numbers.below(float(q_U[column]), float(p_U[column]))


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
