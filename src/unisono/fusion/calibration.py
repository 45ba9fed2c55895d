"""Contextual calibration: what a member prefers before it has read any question is divided out of its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from array_api_compat import array_namespace, device

from unisono.fusion.fold import Array


@dataclass(frozen=True, slots=True)
class Calibration:
    """The pieces of some answers, and how likely a member finds each where the question says nothing.

    The masses of the pieces are divided by these (Zhao et al., Calibrate Before Use, arXiv 2102.09690, section 5: a
    diagonal matrix, no offset) and scaled so that together they keep what they had: no other piece's mass changes.
    """

    columns: tuple[int, ...]
    priors: tuple[float, ...]
    """One a column, above 0; only their ratios matter."""

    def __call__(self, p_BU: Array, rows: Sequence[int]) -> Array:
        """Calibrate some rows; ``p_BU`` is not changed, and returned itself where there are none."""
        if not rows:
            return p_BU
        xp, where = array_namespace(p_BU), device(p_BU)
        calibrated_BU = xp.asarray(p_BU, copy=True)
        columns = xp.asarray(list(self.columns), device=where)
        priors_N = xp.asarray(list(self.priors), dtype=p_BU.dtype, device=where)
        for row in rows:
            mass_N = p_BU[row, :][columns]
            divided_N = mass_N / priors_N
            total = xp.sum(divided_N)
            if float(total) > 0:
                calibrated_BU[row, columns] = divided_N * (xp.sum(mass_N) / total)
        return calibrated_BU
