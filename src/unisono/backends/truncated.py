"""Tells the k likeliest ids of another backend's distributions, as serving engines do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisono.backends.base import Array, Backend, Feed, Slot, Truncation, dense
from unisono.backends.feed_checks import check_top
from unisono.backends.top_logprobs import TopLogprobs

_CLASSES = 2048
"""Ids that are alike modulo this are a class: one pass over contiguous numbers finds the largest logit of each."""
_SUMMED = 512
"""Numbers that are summed in their own precision; their sums are summed in float64."""
_PLAIN = (0.0, 80.0)
"""A largest logit between these: the exponential function takes logits as they are, and no mass is lost."""
_NEXT_TO_NOTHING = 1e-300  # what is not told is not known to be impossible


class TruncatedBackend:
    """Wraps a dense backend. What it holds and reads is the wrapped one's business."""

    def __init__(self, backend: Backend, truncation: Truncation) -> None:
        rows = backend.facts.rows
        own = Truncation(min(truncation.top, rows), min(truncation.most, rows), min(truncation.also, rows))
        self.facts = replace(backend.facts, truncated=own)
        self._backend = backend
        self._truncation = own

    def open(self, copy_of: Slot | None = None) -> Slot:
        return self._backend.open(copy_of)

    def advance(self, feeds: Sequence[Feed]) -> TopLogprobs:
        check_top(feeds, self.facts.rows, self._truncation)
        logits_NV = dense(self._backend.advance(feeds))
        asked = [(feed.top or self._truncation.top, feed.also) for feed in feeds for _ in range(feed.wanted)]
        return top_logprobs(logits_NV, asked)

    def rewind(self, slot: Slot, length: int) -> None:
        self._backend.rewind(slot, length)

    def close(self, slot: Slot) -> None:
        self._backend.close(slot)

    def unload(self) -> None:
        self._backend.unload()


def top_logprobs(logits_NV: Array, asked: Sequence[tuple[int, Sequence[int]]]) -> TopLogprobs:
    """The likeliest ids of rows of logits: of each as many as are asked for, and those asked for by number."""
    host_NV = np.asarray(logits_NV.detach().cpu() if hasattr(logits_NV, "detach") else logits_NV)
    mass_V = np.empty(host_NV.shape[1], host_NV.dtype)  # overwritten by each row
    with np.errstate(invalid="ignore"):  # of no numbers: the record refuses them
        rows = [_told(row_V, top, also, mass_V) for row_V, (top, also) in zip(host_NV, asked, strict=True)]
    width = max((len(ids) for ids, *_ in rows), default=0)
    ids_NK, logp_NK = np.full((len(rows), width), -1, np.int32), np.full((len(rows), width), -np.inf, np.float32)
    for row, (ids, logp, _, _) in enumerate(rows):
        ids_NK[row, : len(ids)], logp_NK[row, : len(ids)] = ids, logp
    unseen_N, kth_N = (np.array([row[place] for row in rows], np.float64) for place in (2, 3))
    return TopLogprobs(ids_NK, logp_NK, unseen_N, kth_N, host_NV.shape[1])


def _told(
    logits_V: NDArray[Any], top: int, also: Sequence[int], mass_V: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.float64], float, float]:
    """The ids that are told of one row, the likeliest first, their log-probabilities, the unseen mass and the k-th."""
    near = _nearest(logits_V, top)
    near_logits = logits_V[near]
    first = np.argsort(-near_logits, kind="stable")[:top]
    ids, most, bound = near[first], near_logits[first[0]], near_logits[first[-1]]
    if len(also):
        ids = np.concatenate([ids, np.setdiff1d(np.asarray(also, np.int64), ids)])
        ids = ids[np.argsort(-logits_V[ids], kind="stable")]
    shift = 0.0 if _PLAIN[0] <= most <= _PLAIN[1] else float(most)
    np.exp(logits_V if not shift else np.subtract(logits_V, most, out=mass_V), out=mass_V)
    told = mass_V[ids].sum(dtype=np.float64)
    mass_V[ids] = 0
    untold = _sum(mass_V)
    whole = told + untold
    logp = logits_V[ids].astype(np.float64) - shift - np.log(whole)
    unseen = 0.0 if len(ids) == len(logits_V) else max(float(untold / whole), _NEXT_TO_NOTHING)
    return ids, logp, unseen, float(np.exp(float(bound) - shift) / whole)


def _nearest(logits_V: NDArray[Any], top: int) -> NDArray[np.int64]:
    """Some of the ids, ascending, and among them all that are as likely as the ``top`` likeliest: those that are as
    likely as the likeliest ids of ``top`` classes are, or, of more than there are classes, as the last of them.
    """
    rows = len(logits_V)
    if not top < rows:
        return np.arange(rows)
    rest = rows // _CLASSES * _CLASSES
    if top > _CLASSES or not rest:
        found = np.flatnonzero(logits_V >= np.partition(logits_V, rows - top)[rows - top])
        return found if len(found) >= top else np.arange(rows)  # of no numbers
    logits_QC = logits_V[:rest].reshape(-1, _CLASSES)
    largest_C = logits_QC.max(axis=0)
    bound = np.partition(largest_C, _CLASSES - top)[_CLASSES - top]
    chosen = np.flatnonzero(largest_C >= bound)
    round_, place = np.nonzero(logits_QC[:, chosen] >= bound)  # ascending, as classes are
    found = np.concatenate([round_ * _CLASSES + chosen[place], rest + np.flatnonzero(logits_V[rest:] >= bound)])
    return found if len(found) >= top else np.arange(rows)


def _sum(mass_V: NDArray[Any]) -> np.float64:
    rest = len(mass_V) // _SUMMED * _SUMMED
    parts = np.einsum("ps->p", mass_V[:rest].reshape(-1, _SUMMED))  # three times as fast as its method
    return np.float64(parts.sum(dtype=np.float64) + mass_V[rest:].sum(dtype=np.float64))
