"""What a truncated backend tells of distributions, checked where it comes in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unisono.errors import ModelError

ROUNDING = 1e-4
"""How much more than 1 masses may sum to."""


@dataclass(frozen=True, slots=True, eq=False)
class TopLogprobs:
    """What a truncated backend tells of N distributions. It outlives the backend's next call.

    Raises a `ModelError` where these are no distributions.
    """

    ids_NK: NDArray[np.int32]
    """The ids that are told; short rows end in -1."""
    logp_NK: NDArray[np.float32]
    """Their log-probabilities, by the softmax over all V ids."""
    unseen_N: NDArray[np.float64]
    """The mass of all ids that are not in the row; 0 only where all V are."""
    kth_N: NDArray[np.float64]
    """The least probability among the k likeliest ids: no untold id has more."""
    rows: int
    """V."""
    slack: float = 0.0
    """By how much ``unseen_N`` may be too large, beyond rounding; the masses may sum to so much more than 1."""

    def __post_init__(self) -> None:
        told_NK = self.ids_NK >= 0
        logp_NK = np.where(told_NK, self.logp_NK, -np.inf)
        mass_N = np.exp(logp_NK.astype(np.float64)).sum(axis=1) + self.unseen_N
        in_order_NK = np.sort(self.ids_NK, axis=1)
        again_NK = (in_order_NK[:, 1:] == in_order_NK[:, :-1]) & (in_order_NK[:, 1:] >= 0)
        for wrong, words in (
            (not np.isfinite(mass_N).all() or not np.isfinite(self.kth_N).all(), "numbers that are no probabilities"),
            ((self.ids_NK < -1).any() or (self.ids_NK >= self.rows).any(), f"ids beyond the model's {self.rows} rows"),
            (again_NK.any(), "an id twice in one distribution"),
            ((self.unseen_N < 0).any() or (self.kth_N < 0).any(), "a negative mass"),
            ((mass_N > 1 + ROUNDING + self.slack).any(), f"more mass than 1: {mass_N.max(initial=0):.6g}"),
            (((self.unseen_N == 0) & (told_NK.sum(axis=1) < self.rows)).any(), "no mass for ids that it does not tell"),
        ):
            if wrong:
                raise ModelError(
                    f"a truncated backend gave {words}", hint="its weights are damaged, or it is not read as it answers"
                )

    def __len__(self) -> int:
        return len(self.unseen_N)

    @property
    def shape(self) -> tuple[int, int]:
        """N and V, as dense logits have it."""
        return len(self), self.rows
