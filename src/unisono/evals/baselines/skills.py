"""Learns judges' reliability without labels.

Axes: N items, K judges, D context numbers, the first of them 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unisono.evals.baselines.base import Case
from unisono.evals.baselines.options import options
from unisono.fusion.minimizing import expit, minimize, rankdata, xlogy

Floats = NDArray[np.float64]
USUAL = 1.0
"""Prior skill of a judge, as a logit: 0.73."""
HELD = 4.0
"""How many answers outweigh the prior."""
LARGEST = 30.0
"""Largest logit: no probability is 0 or 1."""


@dataclass(frozen=True, eq=False)
class Skills:
    layer_D: Floats
    """Weights of the layer that predicts from the context whether an answer is right."""
    right_K: Floats
    """How often a judge calls a right answer right."""
    wrong_K: Floats
    """How often a judge calls a wrong answer wrong."""

    def posterior(self, said_NK: Floats, context_ND: Floats) -> Floats:
        """Probability that each answer is right, given its context and the judges; NaN is a missing judgement."""
        yes_K = np.log(self.right_K / (1 - self.wrong_K))
        no_K = np.log((1 - self.right_K) / self.wrong_K)
        told_NK = np.nan_to_num(said_NK * yes_K + (1 - said_NK) * no_K, nan=0.0)
        right_N: Floats = expit(context_ND @ self.layer_D + told_NK.sum(axis=1))
        return right_N


def learn(said_NK: Floats, context_ND: Floats) -> Skills:
    """Fit layer and skills together to predict the judgements (L-BFGS-B); NaN is a missing judgement."""
    layers, judges = context_ND.shape[1], said_NK.shape[1]
    usual = np.concatenate([np.zeros(layers), np.full(2 * judges, USUAL)])

    def held(values: Floats) -> tuple[float, Floats]:
        loss, slope = cross_entropy(values, said_NK, context_ND)
        away, weight = values - usual, HELD / len(said_NK)
        return loss + weight / 2 * float(away @ away), slope + weight * away

    bounds = [(-LARGEST, LARGEST)] * len(usual)
    found = minimize(held, usual, jac=True, bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10})
    right_K, wrong_K = np.split(expit(found.x[layers:]), 2)
    return Skills(found.x[:layers], right_K, wrong_K)


def cross_entropy(values: Floats, said_NK: Floats, context_ND: Floats) -> tuple[float, Floats]:
    """Cross-entropy of the judgements, mean over items and sum over judges, and its gradient.

    `values` holds the layer's weights, then the logits of the judges' skills on right and on wrong answers.
    """
    layers = context_ND.shape[1]
    p_N1 = expit(context_ND @ values[:layers])[:, None]
    right_K, wrong_K = np.split(expit(values[layers:]), 2)
    expected_NK = p_N1 * right_K + (1 - p_N1) * (1 - wrong_K)
    loss = -np.nansum(xlogy(said_NK, expected_NK) + xlogy(1 - said_NK, 1 - expected_NK)) / len(said_NK)
    miss_NK = np.nan_to_num((expected_NK - said_NK) / (expected_NK * (1 - expected_NK)), nan=0.0) / len(said_NK)
    by_p_N = (miss_NK * (right_K + wrong_K - 1)).sum(axis=1)
    by_layer_D = context_ND.T @ (by_p_N * (p_N1 * (1 - p_N1))[:, 0])
    by_right_K = (miss_NK * p_N1).sum(axis=0) * right_K * (1 - right_K)
    by_wrong_K = -(miss_NK * (1 - p_N1)).sum(axis=0) * wrong_K * (1 - wrong_K)
    return float(loss), np.concatenate([by_layer_D, by_right_K, by_wrong_K])


def tabulate(cases: Sequence[Case]) -> tuple[Floats, Floats, list[str]]:
    """Judgements as ranks from 0 to 1, the items' context, and the judges' names; items are in `options`' order."""
    judges = list(dict.fromkeys(judge for case in cases for judge in case.evidence.get("yes", {})))
    said, context = [], []
    for case in cases:
        told = case.evidence.get("yes", {})
        for option, members in options(case.candidates).items():
            said.append([told.get(judge, {}).get(option, np.nan) for judge in judges])
            sure = sorted(case.candidates[name].confidence for name in members)
            context.append([len(members) / len(case.candidates), sum(sure) / len(sure)])
    said_NK = np.asarray(said, dtype=np.float64).reshape(len(said), len(judges))
    heard_K = np.maximum(1, (~np.isnan(said_NK)).sum(axis=0))
    ranked_NK = (rankdata(said_NK, axis=0, nan_policy="omit") - 0.5) / heard_K if judges else said_NK
    context_ND = np.asarray(context, dtype=np.float64)
    spread_D = context_ND.std(axis=0)
    known_ND = (context_ND - context_ND.mean(axis=0)) / np.where(spread_D > 1e-9, spread_D, np.inf)
    return ranked_NK, np.concatenate([np.ones((len(said), 1)), known_ND], axis=1), judges
