"""Sharpening: where a combined distribution is too smooth, what tokenizers scattered is brought together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from unisono.fusion.fold import Array

SMOOTH = 0.5
"""A combined distribution whose largest mass is below this is too smooth (SAFE, arXiv 2510.15346, section 3.3)."""


@dataclass(frozen=True, slots=True, eq=False)
class Prefixes:
    """Which pieces begin with which: sorted by their bytes, those that begin with one piece follow it."""

    order: NDArray[np.int64]
    """Columns sorted by the bytes of their pieces, without marks and END."""
    place_U: NDArray[np.int64]
    """Where each column stands in ``order``; for marks and END its length."""
    stop_U: NDArray[np.int64]
    """Where in ``order`` the pieces end that begin with that of each column."""


def plan_prefixes(pieces: Sequence[bytes], classes: int = 1) -> Prefixes:
    """Sort the pieces of a union for `sharpen`; so many columns follow, those of marks and END."""
    size = len(pieces) + classes
    order = sorted(range(len(pieces)), key=pieces.__getitem__)
    place_U = np.full(size, len(pieces))
    place_U[order] = np.arange(len(pieces))
    stop_U = np.full(size, len(pieces))
    open_columns: list[int] = []
    for place, column in enumerate(order):
        while open_columns and not pieces[column].startswith(pieces[open_columns[-1]]):
            stop_U[open_columns.pop()] = place
        open_columns.append(column)
    return Prefixes(np.array(order, np.int64), place_U, stop_U)


def sharpen(q_BU: Array, prefixes: Prefixes, share: float) -> Array:
    """Where a row is too smooth, move the mass of pieces that begin with a likely piece to that piece.

    SAFE's heuristic (arXiv 2510.15346, section 3.3): tokenizers split a word differently and so scatter its mass. Where
    the largest mass is below `SMOOTH`, a piece whose mass is above ``share`` (SAFE's λ, 0.1 there) takes the mass of
    all pieces that begin with its bytes. What differs:

    - SAFE adds the masses and leaves them where they were as well. Here they move, to the shortest likely prefix, so
      that the row keeps its sum; the largest mass is the same.
    - SAFE lets only pieces in the drafter's vocabulary take mass. Here any piece of the union can.

    ``q_BU`` is not changed; it is returned itself where no row is too smooth.
    """
    xp = array_namespace(q_BU)
    smooth = [row for row, mass in enumerate(xp.max(q_BU, axis=1)) if float(mass) < SMOOTH]
    sharp_BU = xp.asarray(q_BU, copy=True) if smooth else q_BU
    for row in smooth:
        [likely] = xp.nonzero(q_BU[row, :] > share)
        columns = sorted((int(column) for column in likely), key=lambda column: int(prefixes.place_U[column]))
        reach = 0
        for column in columns:
            start, stop = prefixes.place_U[column], prefixes.stop_U[column]
            if start < reach or start == stop:
                continue  # its mass has moved to a shorter piece already, or it is a mark or END
            run = xp.asarray(prefixes.order[start:stop], device=device(q_BU))
            sharp_BU[row, run] = 0
            sharp_BU[row, column] = xp.sum(q_BU[row, :][run])
            reach = stop
    return sharp_BU
