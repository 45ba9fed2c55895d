"""Tells the k likeliest ids of another backend's distributions, as serving engines do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisono.backends.base import Array, Backend, Feed, Slot, TopLogprobs, Truncation, check_top, dense

_PART = 512
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
    with np.errstate(invalid="ignore"):  # of no numbers: the record refuses them
        rows = [_told(row_V, top, also) for row_V, (top, also) in zip(host_NV, asked, strict=True)]
    width = max((len(ids) for ids, *_ in rows), default=0)
    ids_NK, logp_NK = np.full((len(rows), width), -1, np.int32), np.full((len(rows), width), -np.inf, np.float32)
    for row, (ids, logp, _, _) in enumerate(rows):
        ids_NK[row, : len(ids)], logp_NK[row, : len(ids)] = ids, logp
    unseen_N, kth_N = (np.array([row[place] for row in rows], np.float64) for place in (2, 3))
    return TopLogprobs(ids_NK, logp_NK, unseen_N, kth_N, host_NV.shape[1])


def _told(
    logits_V: NDArray[Any], top: int, also: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.float64], float, float]:
    """The ids that are told of one row, the likeliest first, their log-probabilities, the unseen mass and the k-th."""
    width = len(logits_V)
    among_V = _largest(logits_V, top)
    bound = np.partition(among_V, len(among_V) - top)[len(among_V) - top]
    above, equal = np.flatnonzero(logits_V > bound), np.flatnonzero(logits_V == bound)
    ids = np.concatenate([above, equal[: top - len(above)]])
    if len(also):
        ids = np.concatenate([ids, np.setdiff1d(np.asarray(also, np.int64), ids)])
    ids = ids[np.argsort(-logits_V[ids], kind="stable")]
    most = logits_V.max()
    mass_V = np.exp(logits_V - most)  # each to float32's precision, and summed to float64's
    told = mass_V[ids].sum(dtype=np.float64)
    mass_V[ids] = 0
    untold = mass_V.sum(dtype=np.float64)
    whole = told + untold
    logp = logits_V[ids].astype(np.float64) - float(most) - np.log(whole)
    unseen = 0.0 if len(ids) == width else max(float(untold / whole), _NEXT_TO_NOTHING)
    return ids, logp, unseen, float(np.exp(float(bound) - float(most)) / whole)


def _largest(logits_V: NDArray[Any], top: int) -> NDArray[Any]:
    """Some of the logits, the ``top`` largest among them: those that reach as many parts' largest ones do."""
    parts = len(logits_V) // _PART
    if parts < top:
        return logits_V
    largest = np.maximum.reduceat(logits_V, range(0, parts * _PART, _PART))
    found = logits_V[logits_V >= np.partition(largest, parts - top)[parts - top]]
    return found if len(found) >= top else logits_V  # of no numbers
