"""What a pass gave to one member, until it is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from unisono.backends.base import Array, TopLogprobs
from unisono.engine.member import Member, Place
from unisono.fusion.fold import Softmax
from unisono.fusion.fold_top import FoldedTop, fold_top


class ForwardOutput:
    """What a pass gave to one member. Its rows are folded when they are looked at, before the model's next call.

    Truncated ones outlast that; what they tell is read by `top`.
    """

    def __init__(self, member: Member, logits_NV: Array | TopLogprobs) -> None:
        self.places: dict[int, Place] = {}
        """Of rows where the member's ids mean something else."""
        self._member = member
        self._logits_NV: Any = logits_NV
        self._kept: tuple[Array, dict[int, int]] | None = None

    def keep(self, rows: Sequence[int]) -> None:
        """Fold the member's rows now, to last until the step ends, the model's later passes notwithstanding."""
        if self._member.is_truncated:
            return
        self._kept = self._fold(rows, keep=True), {row: place for place, row in enumerate(rows)}
        self._logits_NV = None

    def fold(self, rows: Sequence[int]) -> Array:
        """``p_BU`` of some rows; lasts until the next call."""
        if self._kept is None:
            return self._fold(rows, keep=False)
        p_NU, place_by_row = self._kept
        return select(p_NU, [place_by_row[row] for row in rows])

    def top(self, row: int) -> FoldedTop:
        """What a row of a truncated member tells of the union's columns."""
        told: TopLogprobs = self._logits_NV
        plan = self._member.top_plans[self.places.get(row)]
        unseen, kth = float(told.unseen_N[row]), float(told.kth_N[row])
        return fold_top(told.ids_NK[row], told.logp_NK[row], unseen, kth, plan, told.slack)

    def softmax(self, rows: Sequence[int]) -> Softmax | None:
        """What some rows give the member's own ids, until the next call; ``None`` where folding is as good."""
        logits_NV = self._logits_NV
        if self._kept is not None or self.places or not isinstance(logits_NV, np.ndarray):
            return None
        return self._member.softmax(select(logits_NV, rows))

    def _fold(self, rows: Sequence[int], *, keep: bool) -> Array:
        places = list(map(self.places.get, rows)) if self.places else ()
        return self._member.fold(select(self._logits_NV, rows), places, keep=keep)


def select(array: Array, rows: Sequence[int]) -> Array:
    """Rows of an array: a view where they are evenly spaced."""
    if len(rows) == 1:
        return array[rows[0] : rows[0] + 1]
    step = rows[1] - rows[0]
    if step > 0 and list(rows) == list(range(rows[0], rows[-1] + 1, step)):
        return array[rows[0] : rows[-1] + 1 : step]
    return array_namespace(array).stack([array[row] for row in rows])
