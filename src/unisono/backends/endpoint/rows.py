"""Rows of likeliest ids, as engines tell them in JSON, as a `TopLogprobs`."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from unisono.backends.endpoint.adapter import Question
from unisono.backends.endpoint.caller import together
from unisono.backends.top_logprobs import TopLogprobs
from unisono.errors import ModelError, shown

SLACK = 2e-6
"""Added to the mass that is not told: what engines tell is rounded to float32, whose sums are that far from 1."""
_ABOVE_ONE = 1e-3  # a log-probability that no rounding explains
_LEAST = -1e38  # whose probability is 0
_LEAST_MASS, _PADDED = 0.9, 2  # what rounding leaves of 1; the most rows that a model has, in those of its tokenizer


@dataclass(frozen=True, slots=True)
class Row:
    """One distribution: the likeliest ids, and others that were asked for by number."""

    ids: Sequence[int]
    logp: Sequence[float]
    kth: float
    """The least probability among the k likeliest."""


class Due(Protocol):
    @property
    def is_due(self) -> bool:
        """Whether the engine may have other weights than when that was last looked at."""
        ...


async def rows_of(
    questions: Sequence[Question],
    ask: Callable[[Question], Coroutine[Any, Any, list[Row]]],
    check_model: Callable[[], Coroutine[Any, Any, None]],
    weights: Due,
) -> list[Row]:
    """Ask about slots side by side, for their rows in order. Where a text begins, the model is checked meanwhile.

    Where the engine was lost meanwhile, it is checked again before what it told counts.
    """

    async def checked() -> list[Row]:
        await check_model()
        return []

    asked = [ask(question) for question in questions]
    if any(not question.held for question in questions):  # the engine may be another than before
        asked.append(checked())
    told = [row for rows in await together(asked) for row in rows]
    if weights.is_due:
        await check_model()
    return told


def read_row(
    likeliest: Iterable[tuple[object, object]],
    top: int,
    rows: int,
    also: Iterable[tuple[object, object]] = (),
    asked: Iterable[int] = (),
) -> Row:
    """A row of what an engine tells: pairs of an id and its log-probability, in any order.

    ``likeliest`` are those that it tells by rank, ``top`` or more; ``also`` those that were ``asked`` for by number.
    Raises a `ModelError` where ids are missing, are no ids, or come twice, and where too little mass is told for a
    distribution. Ids that the tokenizer does not have are left out: their mass counts as not told.
    """
    by_rank, by_number = _read(likeliest), _read(also)
    if len(by_rank) < min(top, rows):
        raise ModelError(f"it told {len(by_rank)} ids where the {top} likeliest were asked for")
    if missing := set(asked) - by_number.keys() - by_rank.keys():
        raise ModelError(f"it did not tell the id {min(missing)}, which was asked for")
    ordered = sorted(by_rank, key=lambda token: (-by_rank[token], token))
    kth = math.exp(by_rank[ordered[top - 1]]) if len(ordered) >= top else 0.0
    if top <= len(ordered):
        _check_mass(sum(map(math.exp, by_rank.values())), kth, rows)
    kept = [token for token in ordered if token < rows]
    rest = sorted(token for token in set(asked) - by_rank.keys())
    logp = [by_rank[token] for token in kept] + [by_number[token] for token in rest]
    return Row([*kept, *rest], logp, kth)


def _check_mass(told: float, kth: float, rows: int) -> None:
    """Raise a `ModelError` where all ids together cannot have a mass of 1: none that is not told is above the k-th."""
    if (most := told + kth * _PADDED * rows) < _LEAST_MASS:
        raise ModelError(
            f"what it tells is no distribution: its ids have a mass of {most:.2g} at most, and not of 1; it tells "
            "logits, perhaps (vLLM: leave --logprobs-mode out)"
        )


def _read(entries: Iterable[tuple[object, object]]) -> dict[int, float]:
    told: dict[int, float] = {}
    for token, logp in entries:
        if not isinstance(token, int) or isinstance(token, bool) or token < 0:
            raise ModelError(f"it told a token without an id ({shown(token)})")
        if not isinstance(logp, int | float) or isinstance(logp, bool) or not logp <= _ABOVE_ONE:
            raise ModelError(f"it told {shown(logp)} as the log-probability of the id {token}")
        if token in told:
            raise ModelError(f"it told the id {token} twice in one distribution")
        told[token] = float(max(logp, _LEAST))  # a whole number may be beyond all floats
    return told


def top_rows(told: Sequence[Row], rows: int, excess: float = 0.0, off: float = 0.0) -> TopLogprobs:
    """The record of rows of a model with this many ids. Masses that are not told are computed in float64.

    Rows with more mass than 1, by no more than ``excess``, are scaled to 1: an engine that adds up many small masses in
    float32 divides by too little. All masses together are then 1 within ``off`` only, so more may be untold than 1 less
    what is told; but no more than if each untold id had the k-th probability.
    """
    width = max((len(row.ids) for row in told), default=0)
    ids_NK, logp_NK = np.full((len(told), width), -1, np.int32), np.full((len(told), width), -np.inf, np.float32)
    unseen_N, kth_N = np.zeros(len(told)), np.zeros(len(told))
    for place, row in enumerate(told):
        logp_K = np.asarray(row.logp, np.float64)
        mass = float(np.exp(logp_K).sum())
        scale = mass if 1 < mass <= 1 + excess else 1.0
        ids_NK[place, : len(row.ids)], logp_NK[place, : len(row.ids)] = row.ids, logp_K - math.log(scale)
        if untold := max(0, rows - len(row.ids)):
            most = min(1.0 + off - mass, row.kth * untold)
            unseen_N[place] = max(0.0, 1.0 - mass, most) / scale + SLACK
        kth_N[place] = row.kth / scale
    return TopLogprobs(ids_NK, logp_NK, unseen_N, kth_N, rows, slack=2 * off)
