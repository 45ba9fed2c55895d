"""Calls about more texts than a model has slots: answered in portions, whose distributions are put together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unisono.backends.base import Array
from unisono.backends.endpoint.adapter import Question
from unisono.backends.top_logprobs import TopLogprobs


def portions_of(questions: Sequence[Question], slots: int) -> list[Sequence[Question]]:
    """A call without questions is one portion, too."""
    return [questions[at : at + slots] for at in range(0, max(1, len(questions)), slots)]


def kept(rows: Array | TopLogprobs) -> Array | TopLogprobs:
    """Distributions that outlive the model's next pass."""
    if isinstance(rows, TopLogprobs):
        return rows
    return np.array(rows.detach().cpu() if hasattr(rows, "detach") else rows, np.float32)


def joined(parts: Sequence[Array | TopLogprobs]) -> Array | TopLogprobs:
    if len(parts) == 1:
        return parts[0]
    told = [part for part in parts if isinstance(part, TopLogprobs)]
    if not told:
        whole: list[Array] = list(parts)
        return np.concatenate(whole)
    width = max(part.ids_NK.shape[1] for part in told)
    return TopLogprobs(
        np.concatenate([_widened(part.ids_NK, width, -1) for part in told]),
        np.concatenate([_widened(part.logp_NK, width, -np.inf) for part in told]),
        np.concatenate([part.unseen_N for part in told]),
        np.concatenate([part.kth_N for part in told]),
        told[0].rows,
    )


def _widened(array_NK: Array, width: int, filling: float) -> Array:
    return np.pad(array_NK, ((0, 0), (0, width - array_NK.shape[1])), constant_values=filling)
