"""What members say of the pieces of reference answers, as far as fitting their weights and temperatures needs it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from unisono.backends.base import Array
from unisono.engine.cutting import Cutting, Job
from unisono.engine.forward_output import select
from unisono.engine.member import Member
from unisono.engine.setting_group import Setting
from unisono.fusion.calibration import Calibration
from unisono.fusion.fitting import NODES, NONE, draw_columns
from unisono.fusion.fold import FoldPlan, bring, fold
from unisono.fusion.weights import top_columns

KEPT = 32  # likely columns of each member
SEED = 0
_HOST = np.empty(0, np.float32)
Rows = NDArray[np.float32]
Floats = NDArray[np.float64]
LikelyColumns = tuple[Rows, Rows, Rows | None]
"""Of one piece, what `Likely` has of many."""


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
                at_T, sum_T = self._special(job, member, logits_1V) or _plain(logits_1V[0], member.plan, job.column)
                at_KT.append(at_T)
                sum_KT.append(sum_T)
                if self._keep_likely:
                    p_KU.append(self._folded(job, member, logits_1V).copy())
            calibrations = [None if job.position else member.calibration for member in self.members]
            its = self._seen.setdefault(job.cutting, [None] * len(job.cutting.columns))
            likely = _likely(p_KU, job.column, _generator(job), calibrations) if self._keep_likely else None
            its[job.position] = Seen(np.stack(at_KT), np.stack(sum_KT), likely)

    def _special(self, job: Job, member: Member, logits_1V: Rows) -> tuple[Floats, Floats] | None:
        """At a first piece that a member reads in its own way, or whose answers are calibrated."""
        first, calibration = member.name in job.cutting.openings, member.calibration
        if job.position or not (first or calibration):
            return None
        plan = member.plan_at(member.place(None, inside=False, first=first))
        columns = [job.column, *(calibration.columns if calibration else ())]
        logp_CT, _ = _at_nodes(logits_1V[0], plan, columns)
        at_T = logp_CT[0]
        if calibration is not None and job.column in calibration.columns:
            at_T = _calibrated(logp_CT[1:], calibration)[calibration.columns.index(job.column)]
        p_U = self._folded(job, member, logits_1V).astype(np.float64)
        sum_T = np.log([float((p_U**inverse).sum()) for inverse in NODES])
        return np.where(np.isfinite(at_T), at_T, NONE), sum_T

    def _folded(self, job: Job, member: Member, logits_1V: Rows) -> Rows:
        """A member's distribution before it is calibrated: temperatures act before that."""
        first = not job.position and member.name in job.cutting.openings
        plan = member.plan_at(member.place(None, inside=False, first=first))
        return np.asarray(fold(logits_1V, plan)[0])


class Seen:
    """What members say of one piece; see `unisono.fusion.fitting.Observed`."""

    __slots__ = ("likely", "logp_KT", "logz_KT")

    def __init__(self, logp_KT: Floats, logz_KT: Floats, likely: LikelyColumns | None) -> None:
        self.logp_KT, self.logz_KT, self.likely = logp_KT, logz_KT, likely


def _plain(logits_V: Rows, plan: FoldPlan, column: int) -> tuple[Floats, Floats]:
    """What `Seen` keeps of one column."""
    logp_CT, logz_T = _at_nodes(logits_V, plan, [column])
    at_one = logz_T[NODES.index(1.0)]
    return np.where(np.isfinite(logp_CT[0]), logp_CT[0], NONE), logz_T - np.asarray(NODES) * at_one


def _at_nodes(logits_V: Rows, plan: FoldPlan, columns: Sequence[int]) -> tuple[Floats, Floats]:
    """The logarithms of columns' probabilities at each node, minus infinity where a column has no ids, and those of the
    sums of the powers of all logits above the highest.

    A column's are added as logarithms: as powers, float32 has none of what is less likely than e^-26 at the last node.
    """
    x_V = logits_V / np.float32(plan.temperature)
    x_V[plan.dropped[:-1]] = -np.inf
    x_V -= x_V.max()
    sum_T = np.empty(len(NODES))
    for start in (0, 1):  # every other node is twice the one before
        power_V = np.exp(x_V * np.float32(NODES[start]))
        sum_T[start] = power_V.sum()  # by pairs: to some 1e-7 of it
        for place in range(start + 2, len(NODES), 2):
            np.square(power_V, out=power_V)  # that of the highest is 1: what is lost counts for nothing
            sum_T[place] = power_V.sum()
    logz_T = np.log(sum_T)
    logp_CT = [_log_sum(np.outer(x_V[_ids(plan, each)].astype(np.float64), NODES)) - logz_T for each in columns]
    return np.stack(logp_CT), logz_T


def _ids(plan: FoldPlan, column: int) -> list[int]:
    """The ids of a column: none where the member does not know it."""
    has_one = column < len(plan.source) and plan.source[column] < len(plan.column_V)
    return [*([int(plan.source[column])] if has_one else ()), *plan.further.get(column, ())]


def _calibrated(logp_CT: Floats, calibration: Calibration) -> Floats:
    """What a calibration makes of the logarithms of its columns' probabilities."""
    divided_CT = logp_CT - np.log(calibration.priors)[:, None]
    kept_T, total_T = _log_sum(logp_CT), _log_sum(divided_CT)
    return np.where(np.isfinite(total_T), divided_CT + (kept_T - np.where(np.isfinite(total_T), total_T, 0)), logp_CT)


def _log_sum(x_NT: Floats) -> Floats:
    """The logarithms of sums along the first axis."""
    return np.asarray(np.logaddexp.reduce(x_NT, axis=0, initial=-np.inf))


def _generator(job: Job) -> np.random.Generator:
    """A draw has its place, whichever texts are read together."""
    return np.random.default_rng((SEED, job.cutting.text, job.position))


def _likely(
    p_KU: Sequence[Rows],
    column: int,
    generator: np.random.Generator,
    calibrations: Sequence[Calibration | None] = (),
) -> LikelyColumns:
    """What members say of the asked column, of likely and calibrated ones, and of drawn ones; see `Likely`."""
    calibrated = [np.asarray(each.columns, np.int64) for each in calibrations if each is not None]
    tops = np.unique(np.concatenate([*(top_columns(p_U, KEPT) for p_U in p_KU), *calibrated]))
    kept = np.concatenate([[column], tops[tops != column]]).astype(np.int64)
    rest_U = np.asarray(np.mean(p_KU, axis=0, dtype=np.float64))
    rest_U[kept] = 0
    drawn, logw_D = draw_columns(rest_U, generator)
    columns = np.concatenate([kept, drawn])
    with np.errstate(divide="ignore"):
        logp_KC = np.maximum(np.log(np.stack([p_U[columns] for p_U in p_KU])), np.float32(NONE))
    logw_C = np.concatenate([np.zeros(len(kept)), logw_D]).astype(np.float32)
    return logp_KC, logw_C, _logpriors(calibrations, columns) if calibrated else None


def _logpriors(calibrations: Sequence[Calibration | None], columns: NDArray[np.int64]) -> Rows:
    """What `Likely` has of calibrations: as only ratios matter, the largest is a half."""
    logprior_KC = np.zeros((len(calibrations), len(columns)), np.float32)
    for place, calibration in enumerate(calibrations):
        if calibration is not None:
            places = [int(np.flatnonzero(columns == each)[0]) for each in calibration.columns]
            logprior_KC[place, places] = np.log(np.asarray(calibration.priors) / max(calibration.priors) / 2)
    return logprior_KC
