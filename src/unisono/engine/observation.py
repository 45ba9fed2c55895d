"""What members say of the pieces of reference answers, as far as fitting their weights and temperatures needs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from unisono.backends.base import Array
from unisono.engine.company import Setting
from unisono.engine.cutting import Cutting, Job
from unisono.engine.forward_output import select
from unisono.engine.member import Member
from unisono.fusion.fitting import NODES, NONE
from unisono.fusion.fold import FoldPlan, bring, fold
from unisono.fusion.weights import top_columns

KEPT = 32  # likely columns of each member
_HOST = np.empty(0, np.float32)
Rows = NDArray[np.float32]


class Observer:
    """Listens to a reading; see `Listener`. What it saw of a text is taken by `finish`."""

    weighs_prompt = False

    def __init__(self, setting: Setting, *, keep_likely: bool) -> None:
        """Look at what the members of a setting say; ``keep_likely`` keeps what they say of likely columns, too."""
        self.members, self.union, self.plan, self.prepare = (
            setting.members,
            setting.union,
            setting.plan,
            setting.prepare,
        )
        self._keep_likely = keep_likely
        self._seen: dict[Cutting, list[Seen | None]] = {}

    def finish(self, cutting: Cutting) -> list[Seen]:
        """What was seen of a text's pieces, in order."""
        seen = [each for each in self._seen.pop(cutting) if each is not None]
        assert len(seen) == len(cutting.columns), "every position is seen"
        return seen

    def score(self, jobs: Sequence[Job], logits_K: Sequence[Array]) -> None:
        for job in jobs:
            at_KT, sum_KT, p_KU = [], [], []
            for place, member in enumerate(self.members):
                logits_1V = np.asarray(bring(select(logits_K[place], [job.rows[place]]), _HOST))
                found = self._special(job, member, logits_1V) or _at_nodes(logits_1V[0], member.plan, job.column)
                at_KT.append(found[0])
                sum_KT.append(found[1])
                if self._keep_likely:
                    p_KU.append(self._folded(job, member, logits_1V, 1.0).copy())
            its = self._seen.setdefault(job.cutting, [None] * len(job.cutting.columns))
            likely_KC = _likely(p_KU, job.column) if self._keep_likely else None
            its[job.position] = Seen(np.stack(at_KT), np.stack(sum_KT), likely_KC)

    def _special(self, job: Job, member: Member, logits_1V: Rows) -> tuple[Rows, Rows] | None:
        """At a first piece that a member reads in its own way, all of it is folded at each temperature."""
        if job.position or (member.name not in job.cutting.openings and member.calibration is None):
            return None
        p_TU = [self._folded(job, member, logits_1V, inverse) for inverse in NODES]
        p_U = p_TU[NODES.index(1.0)]
        with np.errstate(divide="ignore"):
            at_T = np.maximum(np.log([p[job.column] for p in p_TU]), NONE)
            sum_T = np.log([float((p_U**inverse).sum()) for inverse in NODES])
        return at_T, sum_T

    def _folded(self, job: Job, member: Member, logits_1V: Rows, inverse: float) -> Rows:
        first = not job.position and member.name in job.cutting.openings
        plan = member.plan_at(member.place(None, inside=False, first=first))
        p_BU = fold(logits_1V, replace(plan, temperature=plan.temperature / inverse))
        if member.calibration is not None and not job.position:
            p_BU = member.calibration(p_BU, [0])
        return np.asarray(p_BU[0])


class Seen:
    """What members say of one piece; see `unisono.fusion.fitting.Observed`."""

    __slots__ = ("likely_KC", "logp_KT", "logz_KT")

    def __init__(self, logp_KT: Rows, logz_KT: Rows, likely_KC: Rows | None) -> None:
        self.logp_KT, self.logz_KT, self.likely_KC = logp_KT, logz_KT, likely_KC


def _at_nodes(logits_V: Rows, plan: FoldPlan, column: int) -> tuple[Rows, Rows]:
    """The logarithms of a column's probability at each node, and of the sum of all powers of those at temperature 1."""
    x_V = logits_V / np.float32(plan.temperature)
    x_V[plan.dropped[:-1]] = -np.inf
    x_V -= x_V.max()
    ids = [plan.source[column]] if column < len(plan.source) and plan.source[column] < len(x_V) else []
    ids = [*ids, *plan.further.get(column, ())]
    sum_T, mass_T = np.empty(len(NODES)), np.empty(len(NODES))
    for start in (0, 1):  # every other node is twice the one before
        power_V = np.exp(x_V * np.float32(NODES[start]))
        for place in range(start, len(NODES), 2):
            sum_T[place], mass_T[place] = power_V.sum(dtype=np.float64), power_V[ids].sum(dtype=np.float64)
            np.square(power_V, out=power_V)
    logz_T = np.log(sum_T)
    if len(ids) == 1:
        at_T = float(x_V[ids[0]]) * np.asarray(NODES) - logz_T
    else:
        with np.errstate(divide="ignore"):
            at_T = np.log(mass_T) - logz_T
    at_one = logz_T[NODES.index(1.0)]
    return np.maximum(at_T, NONE), logz_T - np.asarray(NODES) * at_one


def _likely(p_KU: Sequence[Rows], column: int) -> Rows:
    """What members say of the asked column and of the others that some of them find likely, each once."""
    tops = np.unique(np.concatenate([top_columns(p_U, KEPT) for p_U in p_KU]))
    columns = np.concatenate([[column], tops[tops != column]]).astype(np.int64)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.stack([p_U[columns] for p_U in p_KU])))
