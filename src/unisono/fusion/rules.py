"""Rules that make one distribution of several."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from array_api_compat import array_namespace, device

from unisono.fusion.fold import Array
from unisono.fusion.weights import Weight, per_row, top_columns

CombineRule = Callable[[Sequence[Array], Sequence[Weight]], Array]
"""``(p_BU of each voter, its weight) -> q_BU``; in each row the weights sum to 1, and so does ``q_BU``."""

FLOOR = 1e-10  # what a mass counts at least where masses are multiplied
ALPHA = 0.1
"""The share of the largest mass at which a piece is plausible (both papers of `contrastive`)."""
BARELY = 1.001
"""Above what rounding makes of a product of floors, relative to the floor."""


def mean(p_BU_K: Sequence[Array], weights: Sequence[Weight]) -> Array:
    """The weighted arithmetic mean, ``q = Σ w_i p_i`` (GaC, arXiv 2406.12585, section 3)."""
    q_BU = p_BU_K[0] * per_row(weights[0])
    for p_BU, weight in zip(p_BU_K[1:], weights[1:], strict=True):
        q_BU += p_BU * per_row(weight)
    return q_BU


def geometric(p_BU_K: Sequence[Array], weights: Sequence[Weight], floor: float = FLOOR) -> Array:
    """The weighted geometric mean, ``q ∝ Π max(p_i, floor)^w_i``.

    A product of experts (Hinton, Neural Computation 14, 2002), or logarithmic opinion pool (Genest and Zidek,
    Statistical Science 1, 1986); SAFE (arXiv 2510.15346, section 3.3) has it as its second way of sharpening. A piece
    stays likely only if all find it likely. One that a member lacks, or gives next to no mass, takes the floor from
    that member: the smaller the floor, the less chance have pieces that not all members have. A piece whose product is
    no more than the floor is one that nobody gives mass; its q is 0, unless that holds of all pieces.
    """
    xp = array_namespace(p_BU_K[0])
    q_BU = _floored_log(p_BU_K[0], floor)
    q_BU *= per_row(weights[0])
    for p_BU, weight in zip(p_BU_K[1:], weights[1:], strict=True):
        logp_BU = _floored_log(p_BU, floor)
        logp_BU *= per_row(weight)
        q_BU += logp_BU
    xp.exp(q_BU, out=q_BU)
    unknown_BU = q_BU <= floor * BARELY
    q_BU *= ~(unknown_BU & ~xp.all(unknown_BU, axis=1, keepdims=True))
    return _normalise(q_BU)


def largest(p_BU_K: Sequence[Array], weights: Sequence[Weight]) -> Array:
    """The largest weighted mass, ``q ∝ max_i w_i p_i``.

    The max rule of classifier combination (Kittler, Hatef, Duin and Matas, IEEE PAMI 20, 1998); the
    weights are ours. A piece is as likely as the member that is surest of it says.
    """
    xp = array_namespace(p_BU_K[0])
    q_BU = p_BU_K[0] * per_row(weights[0])
    for p_BU, weight in zip(p_BU_K[1:], weights[1:], strict=True):
        q_BU = xp.maximum(q_BU, p_BU * per_row(weight))
    return _normalise(q_BU)


def minimum(p_BU_K: Sequence[Array], weights: Sequence[Weight], floor: float = FLOOR) -> Array:
    """What all find likely, ``q ∝ min_i p_i^(w_i / max w)``: with equal weights the least mass that any member gives.

    The min rule of classifier combination (Kittler, Hatef, Duin and Matas, IEEE PAMI 20, 1998). Weights count as the
    importance of criteria does (Yager, Fuzzy Sets and Systems 1, 1978): the largest is 1, and 0 is absence. What is no
    more than the floor is nothing; in a row in which all pieces are that, nothing is agreed on, and the `mean` decides.
    """
    xp = array_namespace(p_BU_K[0])
    most = weights[0]
    for weight in weights[1:]:
        most = max(most, weight) if isinstance(weight, (int, float)) else xp.maximum(most, weight)
    q_BU = _power(p_BU_K[0], weights[0] / most)
    for p_BU, weight in zip(p_BU_K[1:], weights[1:], strict=True):
        q_BU = xp.minimum(q_BU, _power(p_BU, weight / most))
    q_BU = q_BU * ~(q_BU <= floor)
    is_empty_B1 = xp.sum(q_BU, axis=1, keepdims=True) == 0
    if bool(xp.any(is_empty_B1)):
        q_BU = xp.where(is_empty_B1, mean(p_BU_K, weights), q_BU)
    return _normalise(q_BU)


def logits(p_BU_K: Sequence[Array], weights: Sequence[float], floor: float = FLOOR) -> Array:
    """Log-linear with signed weights, ``q ∝ exp(Σ w_i log max(p_i, floor))``, the weights scaled to sum 1.

    Log-probabilities and logits differ by a constant, so these are sums of logits. Weights of 1, 1 and -1 of a base, an
    expert and an anti-expert are proxy tuning (Liu et al., arXiv 2401.08565) and, with 1, α and -α, DExperts (Liu et
    al., arXiv 2105.03023). Where no weight is negative this is `geometric`. The weights' sum has to be above 0.

    The papers' members share a vocabulary. Here a piece can be one that some give no mass: they lack it, or float32 has
    nothing for it (e^-104 and less), which is treated alike. Their weights are added up:
    if they sum to more than 0, the piece counts as the floor for that weight, a veto; if not, they are left out of it,
    and the weights of the rest scaled to sum 1. So an anti-expert that lacks a piece makes it no likelier than the
    others find it, and what an expert lacks together with its anti-expert is left to the base. At 0 the two agree.
    A piece that no member of positive weight gives more than the floor has a q of 0, unless that holds of all.
    """
    if any(getattr(weight, "ndim", 0) for weight in weights):  # of each row, by a scheme: none is negative
        return geometric(p_BU_K, weights, floor)
    xp = array_namespace(p_BU_K[0])
    total = sum(float(weight) for weight in weights)
    score_BU = xp.zeros_like(p_BU_K[0])
    lacking_BU = xp.zeros_like(p_BU_K[0])
    unknown_BU = xp.ones_like(p_BU_K[0], dtype=xp.bool)
    for p_BU, weight in zip(p_BU_K, weights, strict=True):
        share, lacks_BU = float(weight) / total, p_BU == 0
        logp_BU = _floored_log(p_BU, floor)
        logp_BU *= share
        logp_BU *= ~lacks_BU
        score_BU += logp_BU
        lacking_BU += lacks_BU * xp.asarray(share, dtype=p_BU.dtype, device=device(p_BU))
        if weight > 0:
            unknown_BU = unknown_BU & (p_BU <= floor * BARELY)
    veto_BU = lacking_BU * (lacking_BU > 0)
    score_BU = (score_BU + veto_BU * math.log(floor)) / (1 - lacking_BU + veto_BU)
    unknown_BU = unknown_BU & ~xp.all(unknown_BU, axis=1, keepdims=True)
    nothing = xp.asarray(-math.inf, dtype=score_BU.dtype, device=device(score_BU))
    score_BU = xp.where(unknown_BU, nothing, score_BU)
    return _normalise(xp.exp(score_BU - xp.max(score_BU, axis=1, keepdims=True)))


def contrastive(p_BU_K: Sequence[Array], weights: Sequence[float], alpha: float = ALPHA, floor: float = FLOOR) -> Array:
    """What experts find likelier than amateurs do: ``q ∝ exp(Σ w_i log max(p_i, floor))`` over plausible pieces.

    Members with a negative weight are amateurs. A piece is plausible where the experts' mean mass is at least ``alpha``
    times its maximum; elsewhere q is 0. Weights are numbers; those of the experts sum to 1, and an amateur's is
    relative to that (`scaled` makes them so). An expert of 1 and an amateur of -1 give ``p_e / p_a`` (Li et al., arXiv
    2210.15097). 1.5 and -0.5, scaled to 1 and -1/3, choose as ``p_e (p_e / p_a)^0.5`` does (O'Brien and Lewis, arXiv
    2309.09117, β = 0.5): q is its power 2/3. Of an amateur that is the expert, q is a flatter expert without what is
    implausible.

    The papers' members share a vocabulary. Here an amateur can lack a piece, and no mass, also where float32 has none
    for what is less than e^-104, is then no opinion: it counts
    as one that agrees with the experts, else all pieces that it lacks would win.
    """
    xp = array_namespace(p_BU_K[0])
    voters = [(p_BU, float(weight)) for p_BU, weight in zip(p_BU_K, weights, strict=True)]
    experts = [voter for voter in voters if voter[1] > 0]
    q_BU = mean(*zip(*experts, strict=True))
    implausible_BU = q_BU < xp.max(q_BU, axis=1, keepdims=True) * alpha
    for row in range(q_BU.shape[0]):
        [columns] = xp.nonzero(~implausible_BU[row, :])
        expert_N = sum(_floored_log(p_BU[row, :][columns], floor) * weight for p_BU, weight in experts)
        score_N = expert_N
        for p_BU, weight in voters:
            if weight < 0:
                p_N = p_BU[row, :][columns]
                score_N = score_N + xp.where(p_N == 0, expert_N, _floored_log(p_N, floor)) * weight
        q_BU[row, :] = 0
        q_BU[row, columns] = xp.exp(score_N - xp.max(score_N))
    return _normalise(q_BU)


def truncate(p_BU_K: Sequence[Array], k: int) -> list[Array]:
    """Keep only the pieces that are among the k likeliest of some member, and renormalise each member (new arrays).

    The union of UniTE (arXiv 2410.03777): for a piece that another member brought in, a member's own mass counts. UniTE
    gives a piece that a member lacks the mass of its first token there; here it has none, as everywhere. Of equal
    masses the lowest column is kept; a mass of 0 never is. So even a member alone loses what is not among its k
    likeliest.
    """
    xp = array_namespace(p_BU_K[0])
    cut_BU_K = [xp.zeros_like(p_BU) for p_BU in p_BU_K]
    for row in range(p_BU_K[0].shape[0]):
        columns = xp.unique_values(xp.concat([top_columns(p_BU[row, :], k) for p_BU in p_BU_K]))
        for p_BU, cut_BU in zip(p_BU_K, cut_BU_K, strict=True):
            kept = p_BU[row, :][columns]
            cut_BU[row, columns] = kept / xp.sum(kept)
    return cut_BU_K


COMBINE_RULES: dict[str, CombineRule] = {
    "mean": mean,
    "geometric": geometric,
    "max": largest,
    "minimum": minimum,
    "logits": logits,
    "contrastive": contrastive,
}
"""By the name that a spec's ``combine`` uses."""
SIGNED = ("logits", "contrastive")
"""The rules in which members may have negative weights; these are fixed ones."""


def _power(p_BU: Array, exponent: Weight) -> Array:
    return p_BU if isinstance(exponent, float) and exponent == 1 else p_BU ** per_row(exponent)


def _floored_log(p_BU: Array, floor: float) -> Array:
    xp = array_namespace(p_BU)
    logp_BU = xp.maximum(p_BU, xp.asarray(floor, dtype=p_BU.dtype, device=device(p_BU)))
    return xp.log(logp_BU, out=logp_BU)


def _normalise(q_BU: Array) -> Array:
    """Scale rows to sum 1, in place."""
    q_BU /= array_namespace(q_BU).sum(q_BU, axis=1, keepdims=True)
    return q_BU
