"""Settings in which the same members speak: what each makes of the rows of a pass, computed while these are there."""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unisono.backends.base import Array
from unisono.chat.messages import Prompt
from unisono.config.sampling import Sampling
from unisono.engine.cutting import Cutting, Job, key_of
from unisono.engine.forward_output import select
from unisono.engine.member import Member
from unisono.engine.plan import Plan
from unisono.engine.request import PreparedRequest
from unisono.engine.sampler import no_numbers
from unisono.engine.token_boundary import first_inside
from unisono.fusion.fold import bring
from unisono.fusion.logits_processors import shape
from unisono.fusion.means import means_at
from unisono.fusion.sampling import greedy
from unisono.fusion.sharpen import Prefixes, plan_prefixes, sharpen
from unisono.records import PieceScore, Score
from unisono.vocab.union import UnionVocabulary

AT_ONCE = 16  # rows that are folded together
BY_POSITION = ("always", "certain", "every", "first")
"""Gates that look at no distribution."""


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """Members, joined in a union, and the method by which they score."""

    members: Sequence[Member]
    union: UnionVocabulary
    plan: Plan
    slots: int
    """How many texts its members read at once."""
    prepare: Callable[[Prompt, Plan], PreparedRequest]
    """Encodes a prompt for its members. Raises what `Preparer.prepare` raises."""

    @property
    def group_key(self) -> tuple[object, ...]:
        """Equal for settings that can be served by one `SettingGroup`."""
        members = [(key_of(each), each.temperature, each.calibration) for each in self.members]
        return (*members, id(self.union), self.plan.lead.name)


class SettingGroup:
    """Settings of the same members, shaped alike, in one union, with one lead. They may differ in all else."""

    def __init__(self, settings: Mapping[int, Setting]) -> None:
        """Serve settings by their numbers; all have the same `Setting.group_key`."""
        first = next(iter(settings.values()))
        self.settings = settings
        self.members, self.union, self.plan, self.prepare = first.members, first.union, first.plan, first.prepare
        self.weighs_prompt = any(setting.plan.weighs_prompt for setting in settings.values())
        self._weights = {number: [member.weight for member in setting.members] for number, setting in settings.items()}
        self._means = [number for number, setting in settings.items() if _is_mean(setting.plan)]
        self._others = [number for number in settings if number not in self._means]
        self._weight_SK = np.asarray([self._weights[number] for number in self._means], np.float32)
        self._scores: defaultdict[Cutting, dict[int, list[PieceScore | None]]] = defaultdict(dict)
        self._seconds: defaultdict[tuple[Cutting, int], float] = defaultdict(float)
        self._named = {member.name: place for place, member in enumerate(self.members)}

    def finish(self, cutting: Cutting, seconds: float) -> dict[int, Score]:
        """The scores of a text, by setting; its members' passes took so many ``seconds``."""
        found = {}
        for number, pieces in self._scores.pop(cutting).items():
            known = tuple(piece for piece in pieces if piece is not None)
            assert len(known) == len(cutting.columns), "every position is scored"
            found[number] = Score(known, cutting.prompt_tokens, seconds + self._seconds.pop((cutting, number), 0.0))
        return found

    def forget(self) -> None:
        """Drop what is not finished, after a failure."""
        self._scores.clear()
        self._seconds.clear()

    def score(self, jobs: Sequence[Job], logits_K: Sequence[Array]) -> None:
        """Score positions by all settings; ``logits_K`` has the rows of a pass of each member's model.

        Raises a `ModelError` where a member gave something else than numbers.
        """
        for start in range(0, len(jobs), AT_ONCE):
            some = jobs[start : start + AT_ONCE]
            began = time.perf_counter()
            special = [job for job in some if self._is_special(job)]
            self._fold(special, logits_K, list(self.settings))
            if plain := [job for job in some if not self._is_special(job)]:
                left = self._others if self._mean(plain, logits_K) else list(self.settings)
                self._fold(plain, logits_K, left)
            share = (time.perf_counter() - began) / len(some) / len(self.settings)
            for job, number in itertools.product(some, self.settings):
                self._seconds[job.cutting, number] += share

    def _is_special(self, job: Job) -> bool:
        """Whether members' ids mean something else there, or their answers are calibrated."""
        return not job.position and (bool(job.cutting.openings) or any(each.calibration for each in self.members))

    def _mean(self, jobs: Sequence[Job], logits_K: Sequence[Array]) -> bool:
        """Score by the settings that are means, without folding anything. Says whether that was possible."""
        if not self._means or not all(isinstance(logits_NV, np.ndarray) for logits_NV in logits_K):
            return not self._means
        p_K = [
            member.softmax(select(logits_K[place], [job.rows[place] for job in jobs]))
            for place, member in enumerate(self.members)
        ]
        found = means_at(p_K, self._all_weights, [job.column for job in jobs])
        if found is None:
            return False
        for row, job in enumerate(jobs):
            for place, number in enumerate(self._means):
                plan = self.settings[number].plan
                opens = not plan.is_gated or plan.gate.opens(plan.gate.score(None, [job.position])[0])
                its = place if opens else len(self._means) + self._named[plan.lead.name]
                q, likeliest = float(found.q_SB[its, row]), int(found.likeliest_SB[its, row])
                self._note(job, number, q, likeliest, opens=opens)
        return True

    @functools.cached_property
    def _all_weights(self) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        """Those of the means, then of each member alone, which speaks where a gate is shut."""
        return np.concatenate([self._weight_SK, np.eye(len(self.members), dtype=np.float32)])

    def _fold(self, jobs: Sequence[Job], logits_K: Sequence[Array], numbers: Sequence[int]) -> None:
        if not jobs or not numbers:
            return
        p_BU_K = self._folded(jobs, logits_K)
        for number in numbers:
            self._by(number, jobs, p_BU_K)

    def _folded(self, jobs: Sequence[Job], logits_K: Sequence[Array]) -> list[Array]:
        lead = self._named[self.plan.lead.name]
        p_BU_K: list[Array] = [None] * len(self.members)
        for place in [lead, *(place for place in range(len(self.members)) if place != lead)]:
            member = self.members[place]
            places = [
                member.place(None, inside=False, first=not job.position and member.name in job.cutting.openings)
                for job in jobs
            ]
            p_BU = member.fold(select(logits_K[place], [job.rows[place] for job in jobs]), places)
            if member.calibration is not None:
                p_BU = member.calibration(p_BU, [row for row, job in enumerate(jobs) if not job.position])
            p_BU_K[place] = p_BU if place == lead else bring(p_BU, p_BU_K[lead])
        return p_BU_K

    def _by(self, number: int, jobs: Sequence[Job], p_BU_K: Sequence[Array]) -> None:
        """Score rows by one setting, as a step would: its gate is read, and the rule applied where that is open."""
        plan, lead = self.settings[number].plan, self._named[self.plan.lead.name]
        open_B = self._gates(plan, jobs, p_BU_K[lead])
        own_BU_K = [self._of_member(plan, jobs, p_BU) for p_BU in p_BU_K]
        opened = [row for row, opens in enumerate(open_B) if opens]
        shut = [row for row, opens in enumerate(open_B) if not opens]
        if opened:
            q_BU = self._combined(number, [jobs[row] for row in opened], [select(p, opened) for p in own_BU_K])
            self._note_all([jobs[row] for row in opened], number, q_BU, opens=True)
        if shut:
            self._note_all([jobs[row] for row in shut], number, select(own_BU_K[lead], shut), opens=False)

    def _gates(self, plan: Plan, jobs: Sequence[Job], p_BU: Array) -> list[bool]:
        if not plan.is_gated:
            return [True] * len(jobs)
        open_B = [plan.gate.opens(score) for score in plan.gate.score(p_BU, [job.position for job in jobs])]
        if not plan.gate.boundary:
            return open_B
        spellers = {each.name: each.speller for each in self.members if each.name != plan.lead.name}
        next_B = [self.union.piece(column) or b"" for column in greedy(p_BU)]
        return [
            opens and first_inside(job.cutting.written(job.position), following, spellers) is None
            for opens, job, following in zip(open_B, jobs, next_B, strict=True)
        ]

    def _of_member(self, plan: Plan, jobs: Sequence[Job], p_BU: Array) -> Array:
        draw: Sampling | None = plan.member_draw
        if draw is None:
            return p_BU
        counts = [Counter(job.cutting.columns[: job.position]) for job in jobs]
        bias = plan.member_bias
        biases = [bias.at(job.cutting.written(job.position)) if bias else {} for job in jobs]
        return shape(p_BU, [draw] * len(jobs), counts, biases)

    def _combined(self, number: int, jobs: Sequence[Job], p_BU_K: Sequence[Array]) -> Array:
        rule = self.settings[number].plan.combine
        loss_KB = [[job.cutting.losses.get(member.name, 0.0) for job in jobs] for member in self.members]
        q_BU = rule(p_BU_K, self._weights[number], loss_KB)
        return q_BU if rule.sharpen is None else sharpen(q_BU, self._prefixes, rule.sharpen)

    @functools.cached_property
    def _prefixes(self) -> Prefixes:
        union = self.union
        return plan_prefixes([union.piece(column) or b"" for column in range(union.texts)], 1 + len(union.marks))

    def _note_all(self, jobs: Sequence[Job], number: int, q_BU: Array, *, opens: bool) -> None:
        for job, q_U, likeliest in zip(jobs, q_BU, greedy(q_BU), strict=True):
            if not math.isfinite(float(q_U[likeliest])):
                raise no_numbers([member.name for member in self.members])
            self._note(job, number, float(q_U[job.column]), likeliest, opens=opens)

    def _note(self, job: Job, number: int, q: float, likeliest: int, *, opens: bool) -> None:
        voted = tuple(self._named) if opens else (self.settings[number].plan.lead.name,)
        logp = math.log(q) if q > 0 else -math.inf
        score = PieceScore(self.union.piece(job.column), logp, likeliest == job.column, voted)
        its = self._scores[job.cutting]
        its.setdefault(number, [None] * len(job.cutting.columns))[job.position] = score


def _is_mean(plan: Plan) -> bool:
    """Whether a setting is the weighted mean of all that members say, or of some positions the lead alone."""
    rule, gate = plan.combine, plan.gate
    fixed = (rule.rule, rule.weights, rule.truncate, rule.sharpen) == ("mean", "fixed", None, None)
    return fixed and plan.member_draw is None and gate.kind in BY_POSITION and not gate.boundary
