"""Rules that make one distribution of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from unisono.fusion.fold import Array

CombineRule = Callable[[Sequence[Array], Sequence[float]], Array]
"""``(p_BU of each voter, its weight) -> q_BU``; the weights sum to 1."""


def mean(p_BU_K: Sequence[Array], weights: Sequence[float]) -> Array:
    """The weighted arithmetic mean, ``q = Σ w_i p_i`` (GaC, arXiv 2406.12585, section 3)."""
    q_BU = p_BU_K[0] * weights[0]
    for p_BU, weight in zip(p_BU_K[1:], weights[1:], strict=True):
        q_BU += p_BU * weight
    return q_BU


COMBINE_RULES: dict[str, CombineRule] = {"mean": mean}
"""By the name that a spec's ``combine`` uses."""
