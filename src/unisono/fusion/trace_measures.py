"""What a trace measures of distributions at every step: host arrays are read in parts that fit a processor's cache."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from unisono.fusion import gate_scores
from unisono.fusion.fold import Array

PART = 32_768  # columns
FEW = 512  # columns, up to which they are looked for one by one
TINY = 1e-30  # 0 log 0 is 0


def entropy(p_U: Array) -> float:
    """The entropy ``-Σ p log p``, in nats, as `gate_scores.entropy` has it, to rounding."""
    if not isinstance(p_U, np.ndarray):
        return gate_scores.entropy(p_U[None], ())[0]
    scratch, total = np.empty(min(PART, len(p_U)), p_U.dtype), 0.0
    for start in range(0, len(p_U), PART):
        part = p_U[start : start + PART]
        logs = np.add(part, TINY, out=scratch[: len(part)])
        total += float(np.vdot(part, np.log(logs, out=logs)))
    return max(0.0, -total)


def variation(p_U_K: Sequence[Array]) -> float:
    """How far apart voters are: the largest total variation of two, half the sum of their masses' differences."""
    return max((_distance(*pair) for pair in itertools.combinations(p_U_K, 2)), default=0.0)


def _distance(p_U: Array, other_U: Array) -> float:
    if not (isinstance(p_U, np.ndarray) and isinstance(other_U, np.ndarray)):
        return 0.5 * float(array_namespace(p_U).sum(abs(p_U - other_U)))
    scratch, total = np.empty(min(PART, len(p_U)), p_U.dtype), 0.0
    for start in range(0, len(p_U), PART):
        part = p_U[start : start + PART]
        apart = np.subtract(part, other_U[start : start + PART], out=scratch[: len(part)])
        total += float(np.abs(apart, out=apart).sum())
    return 0.5 * total


def columns_of_mass(p_U: Array, bound: float) -> Array:
    """The columns of at least so much mass, in their order."""
    found_U = p_U >= bound
    if not isinstance(found_U, np.ndarray):
        return array_namespace(p_U).nonzero(found_U)[0]
    return _few(found_U.tobytes()) if np.count_nonzero(found_U) <= FEW else np.flatnonzero(found_U)


def _few(found_U: bytes) -> NDArray[np.intp]:
    """The places of ones among zeros. Where they are few, it is several times faster than numpy's own search."""
    places = []
    place = found_U.find(1)
    while place >= 0:
        places.append(place)
        place = found_U.find(1, place + 1)
    return np.array(places, np.intp)
