"""Confining a distribution to the columns that something else allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from unisono.fusion.fold import Array

Allowed = NDArray[np.bool_]
"""By column, whether it is allowed; on the host."""


def confine(q_BU: Array, allowed_B: Sequence[Allowed | None]) -> Array:
    """Take the mass of columns that are not allowed away, and renormalise what is left.

    Where all that is allowed has no mass together (a rule that truncates leaves most columns none), every allowed
    column gets the same: greedy then takes the lowest of them. ``allowed_B`` has of each row the columns, one at least,
    or ``None`` for all.

    Returns distributions of the same shape, on the same device; ``q_BU`` itself where everything is allowed.
    """
    if all(allowed_U is None or allowed_U.all() for allowed_U in allowed_B):
        return q_BU
    rows = [
        q_U if allowed_U is None else _confine(q_U, allowed_U) for q_U, allowed_U in zip(q_BU, allowed_B, strict=True)
    ]
    return rows[0][None, :] if len(rows) == 1 else array_namespace(q_BU).stack(rows)


def _confine(q_U: Array, allowed_U: NDArray[Any]) -> Array:
    if allowed_U.all():
        return q_U
    xp = array_namespace(q_U)
    there_U = xp.asarray(allowed_U, device=device(q_U))
    kept_U = q_U * there_U
    total = float(xp.sum(kept_U))
    if total == 0:
        kept_U = xp.astype(there_U, q_U.dtype)
        total = float(xp.sum(kept_U))
    kept_U /= total
    return kept_U
