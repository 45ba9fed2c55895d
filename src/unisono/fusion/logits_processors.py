"""Reshaping the distributions that pieces are drawn from: a grammar's mask, bias, penalties, temperature, and cuts.

Rows are worked on one by one: each text has a `Sampling` and a history of its own, and what is drawn for one
cannot depend, by so much as a rounding, on which others share its batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, inf, log
from typing import Protocol

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from unisono.errors import SpecError
from unisono.fusion.fold import Array


class Shaping(Protocol):
    """The options that `shape` reads; `unisono.config.sampling.Sampling` says what each may be."""

    @property
    def is_greedy(self) -> bool: ...
    @property
    def temperature(self) -> float: ...
    @property
    def top_k(self) -> int | None: ...
    @property
    def top_p(self) -> float: ...
    @property
    def min_p(self) -> float: ...
    @property
    def typical_p(self) -> float: ...
    @property
    def repetition_penalty(self) -> float: ...
    @property
    def presence_penalty(self) -> float: ...
    @property
    def frequency_penalty(self) -> float: ...


Allowed = NDArray[np.bool_]
"""By column, whether it is allowed; on the host."""

_SORTED = 4096  # masses that are sorted at once


def confine(q_BU: Array, allowed_B: Sequence[Allowed | None]) -> Array:
    """Take the mass of columns that are not allowed away, and renormalise what is left.

    Where all that is allowed has no mass together (a rule that truncates leaves most columns none), every allowed
    column gets the same: greedy then takes the lowest of them. ``allowed_B`` has of each row the columns, one at least,
    or ``None`` for all.

    Returns distributions of the same shape, on the same device; ``q_BU`` itself where everything is allowed.
    """
    if all(allowed_U is None or allowed_U.all() for allowed_U in allowed_B):
        return q_BU
    return _stacked([_confine(q_U, allowed_U) for q_U, allowed_U in zip(q_BU, allowed_B, strict=True)])


def _confine(q_U: Array, allowed_U: Allowed | None) -> Array:
    if allowed_U is None or allowed_U.all():
        return q_U
    xp = array_namespace(q_U)
    there_U = xp.asarray(allowed_U, device=device(q_U))
    kept_U = q_U * there_U
    total = float(xp.sum(kept_U))
    if total == 0:
        kept_U = xp.astype(there_U, q_U.dtype)
        total = float(xp.sum(kept_U))
    if total == 0:
        raise SpecError("the constraint allows nothing any more", hint="make it simpler")
    kept_U /= total
    return kept_U


def has_mass(q_U: Array, allowed_U: Allowed) -> bool:
    """Whether any allowed column has mass."""
    xp = array_namespace(q_U)
    return bool(xp.any(q_U * xp.asarray(allowed_U, device=device(q_U)) > 0))


def shape(
    q_BU: Array,
    draws: Sequence[Shaping],
    counts: Sequence[Mapping[int, int]],
    biases: Sequence[Mapping[int, float]],
) -> Array:
    """The distributions that pieces are drawn from, or that greedy takes the largest mass of.

    Each option makes a distribution of a distribution, in this order: bias, repetition penalty, presence and frequency
    penalty, temperature, top-k, top-p, min-p, typical. That is the order of transformers, with the penalties of the
    OpenAI API where vLLM has them. (vLLM has min-p before top-k. llama.cpp has typical before top-p, and the
    temperature last, where it does not change which pieces are left.) At temperature 0 the bias and the penalties act
    and nothing else.

    ``q_BU``, float32, is not changed; the result lies on the same device, and of one row that nothing changes it is a
    view. The other arguments are of each row. ``counts`` tells how many times which columns were written, without the
    prompt (with transformers and vLLM it counts, for the repetition penalty): members read it in ids of their own.
    ``biases`` are added to the log-masses of columns: its `Sampling.bias` looked up.
    """
    return _stacked([_shape(*row) for row in zip(q_BU, draws, counts, biases, strict=True)])


def _shape(q_U: Array, draw: Shaping, counts: Mapping[int, int], bias: Mapping[int, float]) -> Array:
    q_U = add_bias(q_U, bias)
    q_U = penalise_repetition(q_U, counts, draw.repetition_penalty)
    q_U = penalise_counts(q_U, counts, draw.presence_penalty, draw.frequency_penalty)
    if draw.is_greedy:
        return q_U
    q_U = temper(q_U, draw.temperature)
    q_U = top_k(q_U, draw.top_k)
    q_U = top_p(q_U, draw.top_p)
    q_U = min_p(q_U, draw.min_p)
    return typical_p(q_U, draw.typical_p)


def _stacked(rows: list[Array]) -> Array:
    return rows[0][None, :] if len(rows) == 1 else array_namespace(rows[0]).stack(rows)


def add_bias(q_U: Array, bias: Mapping[int, float]) -> Array:
    """Add to the log-masses of some columns (``logit_bias`` of the OpenAI API), whose bias is finite.

    The masses become ``q_U * exp(bias)``, renormalised. A column without mass gets none.
    """
    if not bias:
        return q_U
    xp = array_namespace(q_U)
    columns = xp.asarray(list(bias), device=device(q_U))
    rest_U = xp.asarray(q_U, copy=True)
    rest_U[columns] = 0
    rest = float(xp.sum(rest_U))
    # In logarithms, on the host: where the bias is large, the masses themselves would be 0 or infinite.
    masses = q_U[columns].tolist()
    raised = [log(mass) + more if mass else -inf for mass, more in zip(masses, bias.values(), strict=True)]
    raised.append(log(rest) if rest else -inf)
    highest = max(raised)
    parts = [exp(value - highest) for value in raised]
    total = sum(parts)
    shares = [part / total for part in parts]
    if rest:
        rest_U /= rest
        rest_U *= shares[-1]
    rest_U[columns] = xp.asarray(shares[:-1], dtype=q_U.dtype, device=device(q_U))
    return rest_U


def penalise_repetition(q_U: Array, counts: Mapping[int, int], penalty: float) -> Array:
    """Multiply the log-masses of columns that were written by a penalty (CTRL, arXiv 1909.05858, section 4.1).

    The masses become ``q_U ** penalty``, renormalised. transformers divides logits above 0 and multiplies those below,
    so there the result depends on what a model happens to add to all its logits, which no distribution shows; a mean of
    distributions has no logits at all. Log-masses are never above 0, so here they are multiplied, as transformers does
    with scores that are log-probabilities (in beam search, or after a normalisation). The same number therefore does
    less here to likely pieces: 1.2 makes 0.9 into 0.88 before renormalising, and a piece that has all the mass keeps
    it. To push away likely pieces, use the presence or frequency penalty.
    """
    written = [column for column, count in counts.items() if count]
    if penalty == 1 or not written:
        return q_U
    masses = q_U[array_namespace(q_U).asarray(written, device=device(q_U))].tolist()
    return add_bias(
        q_U, {column: (penalty - 1) * log(mass) for column, mass in zip(written, masses, strict=True) if mass}
    )


def penalise_counts(q_U: Array, counts: Mapping[int, int], presence: float, frequency: float) -> Array:
    """Take from the log-mass of a column that was written ``presence``, and ``frequency`` for each time.

    The definition of the OpenAI API, where the two are taken from logits; what is additive means the same for
    log-masses.
    """
    if not presence and not frequency:
        return q_U
    return add_bias(q_U, {column: -presence - frequency * count for column, count in counts.items() if count})


def temper(q_U: Array, temperature: float) -> Array:
    """Raise the masses to the power ``1 / temperature`` and renormalise: the logits divided by it."""
    if temperature == 1:
        return q_U
    xp = array_namespace(q_U)
    raised_U = q_U / xp.max(q_U)  # the largest stays 1: nothing overflows, nor do all vanish
    raised_U **= min(1 / temperature, float(xp.finfo(q_U.dtype).max))
    raised_U /= xp.sum(raised_U)
    return raised_U


def top_k(q_U: Array, k: int | None) -> Array:
    """Keep the k likeliest columns, and all that are as likely as the k-th (Fan et al., arXiv 1805.04833)."""
    if k is None or k >= q_U.shape[0]:
        return q_U
    some = _where(q_U, q_U > 1e-6)
    some = some if some.shape[0] >= k else q_U  # where k columns are above a mass, the likeliest k are
    kth = np.partition(some, -k)[-k] if isinstance(some, np.ndarray) else array_namespace(some).topk(some, k)[0][-1]
    return _keep(q_U, q_U >= kth)


def top_p(q_U: Array, p: float) -> Array:
    """Keep the likeliest columns, as few as have mass p together (Holtzman et al., arXiv 1904.09751, section 3.1).

    Columns as likely as the last one kept are kept as well. transformers keeps of these as few as it can, whichever its
    sorting puts last; here the numbering of columns, and so the order of members, has no say in what can be drawn.
    """
    if p >= 1:
        return q_U
    some = _where(q_U, q_U >= _negligible(q_U, p))
    return _keep(q_U, q_U >= -_reaching(-some, some, p))


def min_p(q_U: Array, share: float) -> Array:
    """Keep the columns that have at least this share of the largest mass (Nguyen et al., arXiv 2407.01082)."""
    if share == 0:
        return q_U
    return _keep(q_U, q_U >= array_namespace(q_U).max(q_U) * share)


def typical_p(q_U: Array, p: float) -> Array:
    """Keep the most typical columns, as few as have mass p together (Meister et al., arXiv 2202.00666).

    Typical are those whose surprise, ``-log q``, is near the entropy. Columns as typical as the last one
    kept are kept as well, as in transformers.
    """
    if p >= 1:
        return q_U
    xp = array_namespace(q_U)
    some = _where(q_U, q_U > 0)
    logs = xp.log(some)
    logs -= xp.sum(some * logs)
    distance = xp.abs(logs, out=logs)
    # Columns that are not negligible have mass p together, so no less typical one than these is needed.
    near = distance <= xp.max(_where(distance, some >= _negligible(q_U, p)))
    some, distance = _where(some, near), _where(distance, near)
    kept = _where(some, distance <= _reaching(distance, some, p))
    # Surprises within a distance of the entropy are masses between two bounds.
    return _keep(q_U, (q_U >= xp.min(kept)) & (q_U <= xp.max(kept)))


def _negligible(q_U: Array, p: float) -> float:
    """A mass below which columns are not needed for mass p: together they have half of what p leaves at most."""
    return (1 - p) / 2 / int(q_U.shape[0])


def _reaching(key_U: Array, q_U: Array, p: float) -> Array:
    """The least key at which the columns with that key or a lesser one have mass p together; else the largest.

    Masses are added up in float64. What p loses by the rounding of the masses themselves is not missed,
    so that a mass of 0.9 reaches 0.9.
    """
    xp = array_namespace(q_U)
    goal = p * (1 - float(xp.finfo(q_U.dtype).eps) / 2)
    while (size := int(key_U.shape[0])) > _SORTED:  # halve them: sorting them all would take longer
        low = key_U <= xp.sort(key_U[:: size // 256], stable=False)[128]
        if bool(xp.all(low)):
            break
        mass = float(xp.sum(q_U * low, dtype=xp.float64))
        if mass < goal:
            goal, low = goal - mass, ~low
        key_U, q_U = _where(key_U, low), _where(q_U, low)
    order = xp.argsort(key_U, stable=False)
    reached = xp.cumulative_sum(xp.astype(q_U[order], xp.float64))
    return key_U[order][min(int(xp.sum(reached < goal)), size - 1)]


def _where(array: Array, chosen: Array) -> Array:
    """``array[chosen]``, which NumPy's `compress` does several times as fast."""
    return np.compress(chosen, array) if isinstance(array, np.ndarray) else array[chosen]


def _keep(q_U: Array, kept_U: Array) -> Array:
    q_U = q_U * kept_U
    q_U /= array_namespace(q_U).sum(q_U)  # in place, as elsewhere here: fresh megabytes cost page faults
    return q_U
