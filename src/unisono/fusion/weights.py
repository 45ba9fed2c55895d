"""Weight schemes: what each member's vote counts, at this step or for this text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from array_api_compat import array_namespace, device

from unisono.fusion.fold import Array
from unisono.fusion.gate_scores import entropy as entropies

Weight = Array
"""A number for all rows, or one array of shape (B,) on the device of the distributions."""
WeightScheme = Callable[[Sequence[float], Sequence[Array], Sequence[Sequence[float]]], list[Weight]]
"""``(base weight of each voter, its p_BU, its loss_B) -> its weight``; the weights of a row sum to 1.

The base weights are those of the spec: at least 0, with sum 1. Every scheme multiplies them by what it measures and
scales to sum 1, so that a voter of weight 0 stays at 0, and voters in whom it sees no difference keep the ratio of
their base weights. Only `perplexity` reads the losses; for the others they may be empty.
"""

LEAST_ENTROPY = 0.01
"""In nats. Members surer than this are equally sure: the inverse of an entropy has no upper bound."""
KEPT = 10  # pieces of each member that `consistency` looks at
STEEPNESS = 2.0  # how fast consistency falls with the disparity
TEMPERATURE = 1.0  # of `perplexity`
_BLOCK = 512
_SORTED = 4096
"""Masses that are sorted as they are; of more, the largest are picked first."""


def fixed(base: Sequence[float], p_BU_K: Sequence[Array], loss_KB: Sequence[Sequence[float]] = ()) -> list[Weight]:
    """The base weights themselves, as numbers."""
    return list(base)


def entropy(base: Sequence[float], p_BU_K: Sequence[Array], loss_KB: Sequence[Sequence[float]] = ()) -> list[Weight]:
    """A member that is surer counts more, ``w_i ∝ base_i / max(H(p_i), LEAST_ENTROPY)``.

    Inverse entropy weighting (Misra, Bourlard and Tyagi, ICASSP 2003, who combine classifiers of speech
    sounds). The lower bound is ours.
    """
    score_KB = [[1 / max(measured, LEAST_ENTROPY) for measured in entropies(p_BU, ())] for p_BU in p_BU_K]
    return _shares(base, score_KB, p_BU_K[0])


def consistency(
    base: Sequence[float], p_BU_K: Sequence[Array], loss_KB: Sequence[Sequence[float]] = ()
) -> list[Weight]:
    """A member that is sure and agrees with the others counts more (CoRE, arXiv 2510.13855).

    CoRE's model-level consistency, ``w_i ∝ base_i Σ_v s_i(v) / H(p_i)``, where ``s_i`` is the token-level
    consistency of `agreement`. As there, the distributions are first cut to each member's ten likeliest
    pieces and renormalised. What differs:

    - All members are treated alike. CoRE has a main model, whose weight is raised to that of all others
      together, and which takes no part in what follows.
    - The sum runs over the pieces that are among the ten likeliest of any member, the same for all.
      CoRE leaves out those to which neither the member nor the main model gives mass.
    - The entropy has the lower bound `LEAST_ENTROPY`.
    - CoRE also multiplies each assistant's masses by ``s_i``, which is no weight: it is left to who combines.
    """
    voters = [voter for voter, weight in enumerate(base) if weight]
    score_KB = [[0.0] * p_BU.shape[0] for p_BU in p_BU_K]
    for row in range(p_BU_K[0].shape[0]):
        p_1N_K = _own_tops([p_BU_K[voter][row, :] for voter in voters])
        s_1N_K = agreement([base[voter] for voter in voters], p_1N_K)
        for voter, p_1N, s_1N in zip(voters, p_1N_K, s_1N_K, strict=True):
            agreed = float(array_namespace(s_1N).sum(s_1N))
            score_KB[voter][row] = agreed / max(*entropies(p_1N, ()), LEAST_ENTROPY)
    return _shares(base, score_KB, p_BU_K[0])


def agreement(base: Sequence[float], p_BU_K: Sequence[Array]) -> list[Array]:
    """How far each member agrees with all on each piece, from 1 down to 0 for a disparity of 1.

    CoRE's token-level consistency, a low-pass filter of the disparity ``δ = |p_i - p*|``:
    ``s_i = (e^(-2δ) - e^(-2)) / (1 - e^(-2))``, the kernel of its published code. ``p*`` is the mean by
    base weights; CoRE's counts all members the same.

    Returns:
        ``s_BU`` of each member.
    """
    xp = array_namespace(p_BU_K[0])
    mean_BU = p_BU_K[0] * base[0]
    for p_BU, weight in zip(p_BU_K[1:], base[1:], strict=True):
        mean_BU += p_BU * weight
    least = math.exp(-STEEPNESS)
    return [(xp.exp(xp.abs(p_BU - mean_BU) * -STEEPNESS) - least) / (1 - least) for p_BU in p_BU_K]


def perplexity(
    base: Sequence[float],
    p_BU_K: Sequence[Array],
    loss_KB: Sequence[Sequence[float]] = (),
    temperature: float = TEMPERATURE,
) -> list[Weight]:
    """A member that finds the prompt likelier counts more, ``w_i ∝ base_i exp(-loss_i / temperature)``.

    PackLLM-sim (arXiv 2404.11531): the softmax of the negative logarithm of each member's perplexity, computed once for
    a text. PackLLM scores the prompt in the tokens of one reference tokenizer; the means of members with different
    tokenizers can be compared only if all divide by the same count, such as that of the prompt's bytes.

    ``loss_KB`` has of each voter the mean negative log-likelihood of the prompt of each row's text, in nats per unit;
    finite. The temperature is 1 in PackLLM's published code; higher draws the weights towards the base.
    """
    if len(loss_KB) != len(base):
        raise ValueError(f"{len(loss_KB)} members have a loss, but {len(base)} vote")
    best_B = [math.inf] * p_BU_K[0].shape[0]
    for loss_B, weight in zip(loss_KB, base, strict=True):
        if weight:
            best_B = [min(pair) for pair in zip(best_B, loss_B, strict=True)]
    score_KB = [
        [math.exp(min(best - loss, 0) / temperature) for best, loss in zip(best_B, loss_B, strict=True)]
        for loss_B in loss_KB
    ]
    return _shares(base, score_KB, p_BU_K[0])


WEIGHT_SCHEMES: dict[str, WeightScheme] = {
    "fixed": fixed,
    "entropy": entropy,
    "consistency": consistency,
    "perplexity": perplexity,
}
"""By the name that a spec uses."""


def scaled(weights: Sequence[float]) -> list[float]:
    """Divide weights by the sum of the positive ones, which then sum to 1; negative ones keep their ratio to it."""
    total = sum(weight for weight in weights if weight > 0)
    return [weight / total for weight in weights]


def per_row(weight: Weight) -> Array:
    """A weight in the form that multiplies (B, U): a plain number, or shape (B, 1)."""
    return float(weight) if isinstance(weight, (int, float)) else weight[:, None]


def top_columns(p_U: Array, k: int) -> Array:
    """The columns of the k largest masses, the largest first and of equal ones the lowest first.

    A mass of 0 is never among them, so there can be fewer.
    """
    xp = array_namespace(p_U)
    width, bound = min(_BLOCK, p_U.shape[0] // (2 * k)), 0.0
    if width > 1:
        # The k-th largest of the blocks' maxima: k masses at least are as large, and few others.
        blocks = p_U.shape[0] // width
        peaks = xp.max(xp.reshape(p_U[: blocks * width], (blocks, width)), axis=1)
        bound = float(xp.sort(peaks)[blocks - k])
    # Asked the other way round, what is no number gets through and comes to light later.
    [columns] = xp.nonzero(~(p_U < bound)) if bound > 0 else xp.nonzero(~(p_U <= 0))
    masses = p_U[columns]
    if isinstance(masses, np.ndarray) and len(masses) > _SORTED + k:  # fewer blocks than k have mass: most of it goes
        likely = ~(masses < np.partition(masses, -k)[-k])
        columns, masses = columns[likely], masses[likely]
    return columns[xp.argsort(-masses, stable=True)[:k]]


def _own_tops(p_U_K: Sequence[Array]) -> list[Array]:
    """Cut each member to its `KEPT` likeliest pieces, renormalised; shape (1, N) over the pieces of all of them."""
    xp = array_namespace(p_U_K[0])
    own_K = [top_columns(p_U, KEPT) for p_U in p_U_K]
    columns_N = xp.unique_values(xp.concat(own_K))
    p_1N_K = []
    for p_U, own in zip(p_U_K, own_K, strict=True):
        p_N = xp.zeros_like(p_U[columns_N])
        p_N[xp.searchsorted(columns_N, own)] = p_U[own]
        p_1N_K.append((p_N / xp.sum(p_N))[None, :])
    return p_1N_K


def _shares(base: Sequence[float], score_KB: Sequence[Sequence[float]], like: Array) -> list[Weight]:
    """Base weights times scores, scaled to sum 1 in each row, as arrays of the kind of ``like``."""
    raw_KB = [[weight * score for score in score_B] for weight, score_B in zip(base, score_KB, strict=True)]
    total_B = [sum(raw_K) for raw_K in zip(*raw_KB, strict=True)]
    xp = array_namespace(like)
    share_KB = [[raw / total for raw, total in zip(raw_B, total_B, strict=True)] for raw_B in raw_KB]
    return [xp.asarray(share_B, dtype=like.dtype, device=device(like)) for share_B in share_KB]
