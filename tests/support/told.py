"""Small distributions of four ids over five columns, and what truncated members tell of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from unisono.backends.fake.backend import IMPOSSIBLE
from unisono.backends.truncated import top_logprobs
from unisono.fusion.fold_top import FoldedTop, TopPlan, fold_top, plan_top

END = 4
MAPS = [(0, 1, 2, END), (1, 1, 0, END), (-1, 2, 3, 0), (-1, 0, END, END), (3, -1, -1, 1)]
"""Columns of four ids: shared and not, END among them, several ids of one, ids that are dropped."""


def compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    for bars in itertools.combinations(range(total + parts - 1), parts - 1):
        ends = (-1, *bars, total + parts - 1)
        yield tuple(ends[part + 1] - ends[part] - 1 for part in range(parts))


def plan(columns: tuple[int, ...]) -> TopPlan:
    return plan_top(np.array(columns, np.int32), END + 1)


def told(masses: tuple[int, ...], columns: tuple[int, ...], k: int, also: tuple[int, ...] = ()) -> FoldedTop:
    logits_V = np.where(np.array(masses) > 0, np.log(np.maximum(masses, 1)), IMPOSSIBLE).astype(np.float32)
    row = top_logprobs(logits_V[None], [(k, also)])
    return fold_top(row.ids_NK[0], row.logp_NK[0], float(row.unseen_N[0]), float(row.kth_N[0]), plan(columns))


def dense(masses: tuple[int, ...], columns: tuple[int, ...]) -> np.ndarray:
    p_U = np.zeros(END + 1)
    for mass, column in zip(masses, columns, strict=True):
        if column >= 0:
            p_U[column] += mass
    return p_U / p_U.sum()


def has_kept(masses: tuple[int, ...], columns: tuple[int, ...]) -> bool:
    return any(mass for mass, column in zip(masses, columns, strict=True) if column >= 0)
