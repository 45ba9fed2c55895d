"""Weights and temperatures of members that suit given answers best: pure functions of what members say of their pieces.

Axes: N pieces, K members, T temperatures at which each was read, C columns that some member finds likely.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unisono.fusion.objectives import Choices, Likelihood, Objective
from unisono.fusion.rules import FLOOR

Floats = NDArray[np.float64]

NODES = tuple(2.0 ** (step / 2) for step in range(-4, 5))
"""Inverse temperatures at which pieces are read: from a quarter to four, so that temperatures are from four down."""
NONE = -1e3
"""What stands for the logarithm of no probability."""
DRAWN = 256
"""Columns that stand for all that no member finds likely."""
AT_ONCE = 2048  # pieces whose products are computed together: their columns are some megabytes
MOST_STEPS = 1000
ENOUGH = 1e-10  # nats: a step of EM that gains less is the last
LEAST_WEIGHT = 1e-6


class Shape(NamedTuple):
    """How members are combined."""

    weight_K: Floats
    """At least 0, with sum 1."""
    temperature_K: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Likely:
    """Of each piece, what members say of some columns, for sums over all.

    They are the asked one, which is the first, those that some members find likely, and some that are drawn from the
    others.
    """

    logp_NKC: NDArray[np.float32]
    """At temperature 1, before any calibration; `NONE` for no mass. At others a column of several ids counts as one."""
    logw_NC: NDArray[np.float32]
    """The logarithm of how many columns each stands for; minus infinity in places that are not used."""
    logprior_NKC: NDArray[np.float32] | None = None
    """Where members are calibrated: the logarithms, all below 0, of what their masses are divided by; 0 elsewhere. All
    columns that a calibration has are there."""


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """What members say of the pieces of reference answers."""

    logp_NKT: Floats
    """At the inverse temperatures `NODES`; `NONE` where a member gives no mass."""
    logz_NKT: Floats
    """The logarithm of the sum of a member's masses, each raised to the inverse temperature."""
    share_N: Floats
    """What a piece counts, of right answers; sums to the pieces a byte, so that a mean by it is in nats a byte."""
    likely: Likely | None = None
    """Where the weights of `geometric` are wanted."""
    choices: Choices | None = None
    """Where right answers are to be told from wrong ones."""

    @property
    def objective(self) -> Objective:
        return self.choices or Likelihood(self.share_N)


def weights_by_em(p_NK: Floats, share_N: Floats, start_K: Floats | None = None) -> Floats:
    """The weights under which a mixture makes pieces likeliest (Jelinek and Mercer, 1980; Dempster et al., 1977).

    The likelihood is concave in the weights, so it is the maximum whatever the start. A piece to which nobody gives
    mass says nothing of weights. Raises a `ValueError` where there is no other.
    """
    known = p_NK.sum(axis=1) > 0
    p_NK, share_N = p_NK[known], share_N[known]
    if not len(p_NK):
        raise ValueError("no member gives any piece mass")
    share_N = share_N / share_N.sum()
    weight_K = np.full(p_NK.shape[1], 1 / p_NK.shape[1]) if start_K is None else np.maximum(start_K, LEAST_WEIGHT)
    weight_K = np.asarray(weight_K / weight_K.sum())
    before = -np.inf
    for _ in range(MOST_STEPS):
        part_NK = p_NK * weight_K
        total_N = part_NK.sum(axis=1)
        now = float(share_N @ np.log(total_N))
        if now - before < ENOUGH:
            break
        before = now
        weight_K = share_N @ (part_NK / total_N[:, None])
    return weight_K


class Curves:
    """What members say of pieces as smooth functions of the inverse temperature."""

    def __init__(self, observed: Observed) -> None:
        """Lay cubic splines through the nodes, over the logarithm of the inverse temperature."""
        from unisono.fusion.minimizing import CubicSpline

        places = np.log(NODES)
        members = range(observed.logp_NKT.shape[1])
        self._logp_K = [CubicSpline(places, observed.logp_NKT[:, member].T) for member in members]
        self._logz_K = [CubicSpline(places, observed.logz_NKT[:, member].T) for member in members]

    def logp(self, temperature_K: Floats) -> Floats:
        """The logarithm of each member's probability of each piece, (N, K)."""
        return np.stack([at(-np.log(t)) for at, t in zip(self._logp_K, temperature_K, strict=True)], axis=1)

    def slope(self, temperature_K: Floats) -> Floats:
        """Its derivative by the logarithm of the temperature."""
        return np.stack([-at(-np.log(t), 1) for at, t in zip(self._logp_K, temperature_K, strict=True)], axis=1)

    def logz(self, temperature_K: Floats) -> Floats:
        return np.stack([at(-np.log(t)) for at, t in zip(self._logz_K, temperature_K, strict=True)], axis=1)


def fit_mean(observed: Observed, *, temperatures: bool) -> Shape:
    """Weights of `mean`, and temperatures if these are wanted: L-BFGS-B, and EM where likelihood is the objective."""
    count, objective = observed.logp_NKT.shape[1], observed.objective
    by_em = isinstance(objective, Likelihood)
    weight_K, temperature_K = weights_by_em(np.exp(at_node(observed, 1.0)), observed.share_N), np.ones(count)
    if by_em and not temperatures:
        return Shape(weight_K, temperature_K)
    curves = Curves(observed)

    def loss(point: Floats) -> tuple[float, Floats]:
        """The loss, and its derivatives by the logits of weights and the logarithms of temperatures."""
        weight_K, temperature_K = _read(point, count)
        part_NK = np.exp(np.maximum(curves.logp(temperature_K), NONE)) * weight_K
        total_N = np.maximum(part_NK.sum(axis=1), np.exp(NONE / 2))
        part_NK /= total_N[:, None]
        value, by_logp_N = objective(np.log(total_N))
        by_weight_K = by_logp_N @ (part_NK - weight_K)
        by_temperature_K = by_logp_N @ (part_NK * curves.slope(temperature_K))
        return value, np.concatenate([by_weight_K, by_temperature_K])[: len(point)]

    starts = [weight_K] if by_em else [weight_K, *_starts(count)]
    tried = [_minimize(loss, start_K, count, count if temperatures else 0, exact=True) for start_K in starts]
    found_K, temperature_K = _read(min(tried, key=lambda point: loss(point)[0]), count)
    if not by_em:
        return Shape(found_K, temperature_K)
    p_NK = np.exp(np.maximum(curves.logp(temperature_K), NONE))
    return Shape(weights_by_em(p_NK, observed.share_N, weight_K), temperature_K)


def _starts(count: int) -> list[Floats]:
    """Where a search that has several minima begins: with equal weights, and with nearly all for one member."""
    equal_K = np.full(count, 1 / count)
    return [equal_K, *(0.99 * one_K + 0.01 * equal_K for one_K in np.eye(count))]


def at_node(observed: Observed, inverse: float) -> Floats:
    """What members say at one of the nodes, (N, K)."""
    return observed.logp_NKT[:, :, NODES.index(inverse)]


def fit_geometric(observed: Observed, *, temperatures: bool) -> Shape:
    """Weights of `geometric`, and temperatures if these are wanted.

    The normaliser of a product is summed over the columns that some member finds likely, and estimated from drawn
    ones over the others.
    """
    assert observed.likely is not None, "likely columns are kept for this rule"
    count, likely, curves = observed.logp_NKT.shape[1], observed.likely, Curves(observed)
    objective = observed.objective

    def loss(point: Floats) -> float:
        return objective(log_product(likely, curves, *_read(point, count)))[0]

    start_K = weights_by_em(np.exp(at_node(observed, 1.0)), observed.share_N)
    found = _minimize(loss, np.maximum(start_K, 0.05), count, count if temperatures else 0, exact=False)
    return Shape(*_read(found, count))


def loss_of(observed: Observed, shape: Shape, rule: str) -> float:
    """The loss of answers by `mean` or `geometric` members of some weights and temperatures."""
    curves = Curves(observed)
    if rule == "geometric":
        assert observed.likely is not None, "likely columns are kept for this rule"
        logp_N = log_product(observed.likely, curves, shape.weight_K, shape.temperature_K)
    else:
        p_NK = np.exp(np.maximum(curves.logp(shape.temperature_K), NONE))
        logp_N = np.log(np.maximum(p_NK @ shape.weight_K, np.exp(NONE / 2)))
    return observed.objective(logp_N)[0]


def log_product(likely: Likely, curves: Curves, weight_K: Floats, temperature_K: Floats) -> Floats:
    """The logarithm of what `unisono.fusion.rules.geometric` gives each asked piece, (N,)."""
    logz_NK = curves.logz(temperature_K)
    parts = [slice(start, start + AT_ONCE) for start in range(0, len(logz_NK), AT_ONCE)]
    return np.concatenate(
        [
            _log_product(_tempered(likely, part, logz_NK[part], temperature_K), likely.logw_NC[part], weight_K)
            for part in parts
        ]
    )


def _tempered(likely: Likely, part: slice, logz_NK: Floats, temperature_K: Floats) -> Floats:
    """What members say of columns at their temperatures, calibrated after that, (N, K, C)."""
    tempered_NKC = likely.logp_NKC[part] / temperature_K[:, None] - logz_NK[:, :, None]
    if likely.logprior_NKC is None:
        return tempered_NKC
    logprior_NKC = likely.logprior_NKC[part]
    own_NKC = np.where(logprior_NKC < 0, tempered_NKC, -np.inf)
    divided_NKC = own_NKC - logprior_NKC
    kept_NK, total_NK = (np.logaddexp.reduce(x_NKC, axis=2) for x_NKC in (own_NKC, divided_NKC))
    scale_NK = np.where(np.isfinite(total_NK), kept_NK, 0.0) - np.where(np.isfinite(total_NK), total_NK, 0.0)
    return np.where(logprior_NKC < 0, divided_NKC + scale_NK[:, :, None], tempered_NKC)


def _log_product(tempered_NKC: Floats, logw_NC: NDArray[np.float32], weight_K: Floats) -> Floats:
    least = np.log(FLOOR)
    known_NC = (tempered_NKC > least).any(axis=1)  # the rule gives nothing to what nobody gives mass
    known_NC[:, 0] = True
    score_NC = np.einsum("nkc,k->nc", np.maximum(tempered_NKC, least), weight_K)
    all_NC = np.where(known_NC, score_NC + logw_NC, -np.inf)
    top_N = all_NC.max(axis=1)
    total_N = top_N + np.log(np.exp(all_NC - top_N[:, None]).sum(axis=1))
    return np.asarray(score_NC[:, 0] - total_N)


def draw_columns(p_U: Floats, generator: np.random.Generator) -> tuple[NDArray[np.int64], Floats]:
    """Some columns that have mass, and the logarithm of how many each stands for: all, where these are few.

    Half of the chance to be drawn is by mass, under which a product at temperature 1 has bounded terms, and half by the
    root of that, for higher temperatures. One is drawn from each of equal parts of the whole.
    """
    [columns] = np.nonzero(p_U)
    if len(columns) <= DRAWN:
        return columns, np.zeros(len(columns))
    p_N, root_N = p_U[columns], np.sqrt(p_U[columns])
    chance_N = (p_N / p_N.sum() + root_N / root_N.sum()) / 2
    points = (np.arange(DRAWN) + generator.random(DRAWN)) / DRAWN
    places = np.minimum(np.searchsorted(np.cumsum(chance_N), points), len(columns) - 1)
    found, counts = np.unique(places, return_counts=True)
    return columns[found], np.log(counts / (DRAWN * chance_N[found]))


def _read(point: Floats, count: int) -> tuple[Floats, Floats]:
    """Weights and temperatures of a point of the search."""
    logit_K = point[:count] - point[:count].max()
    weight_K = np.exp(logit_K) / np.exp(logit_K).sum()
    return weight_K, np.exp(point[count:]) if len(point) > count else np.ones(count)


def _minimize(loss: Callable[..., object], weight_K: Floats, count: int, temperatures: int, *, exact: bool) -> Floats:
    from unisono.fusion.minimizing import minimize

    start = np.concatenate([np.log(np.maximum(weight_K, 1e-3)), np.zeros(temperatures)])
    widest = np.log(NODES[-1])
    bounds = [(-12.0, 12.0)] * count + [(-widest, widest)] * temperatures
    found = minimize(loss, start, jac=exact, method="L-BFGS-B", bounds=bounds, options={"maxiter": 200})
    return np.asarray(found.x)
