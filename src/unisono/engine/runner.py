"""Running members: one batched pass a model, side by side where models sit on different devices."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from operator import attrgetter

from unisono.engine.draft_length import DraftLengthController, Work
from unisono.engine.member import Member
from unisono.engine.passes import (
    FurtherQuestion,
    MemberBatch,
    Portion,
    Row,
    advance,
    ask_again,
    note_output,
    read_ahead,
    read_rows,
)
from unisono.engine.slow_passes import SlowPasses
from unisono.engine.step_state import StepState
from unisono.errors import MemberUnavailable

_LOSING = threading.Lock()
"""Held while texts lose members: several models may be lost at once, each in the thread of its device."""


class Runner:
    """Runs passes; the states note their output."""

    def __init__(self, members: Sequence[Member], draft_length: DraftLengthController) -> None:
        self.members = members
        self._draft_length = draft_length
        devices = {member.backend.facts.device for member in members}
        self._slow = SlowPasses()
        self.loses = any(member.degrades for member in members)
        self._pool = ThreadPoolExecutor(len(devices)) if len(devices) > 1 else None

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def run(self, batches: Sequence[MemberBatch]) -> None:
        """Run members: those that share a model in one pass, models that share a device one after the other."""
        passes: dict[int, list[MemberBatch]] = {}
        for batch in batches:
            if batch.spans:
                passes.setdefault(batch.member.model, []).append(batch)
        if self._pool is None:
            for together in passes.values():
                self._run_pass(together)
        else:
            self._run([(together[0].member, partial(self._run_pass, together)) for together in passes.values()])

    def read_ahead(self, portions: Iterable[Portion]) -> None:
        """Let members read on without any output, in one pass a model too."""
        passes: defaultdict[int, list[Portion]] = defaultdict(list)
        for portion in portions:
            passes[portion.member.model].append(portion)
        self._run((together[0].member, partial(read_ahead, together)) for together in passes.values())

    def read_rows(self, asked: Iterable[Row]) -> None:
        """Let members read what waits of cursors, in one pass a model, and take the row that follows each."""
        passes: defaultdict[int, list[Row]] = defaultdict(list)
        for row in asked:
            passes[row.member.model].append(row)
        self._run((together[0].member, partial(read_rows, together)) for together in passes.values())

    def ask_again(self, asked: Iterable[FurtherQuestion]) -> None:
        """Ask truncated members for more of what they told, in one pass a model; the new rows replace the old ones.

        A slot ends where it was asked: what a draft had beyond is read again as lag.
        """
        passes: defaultdict[int, list[FurtherQuestion]] = defaultdict(list)
        for again in asked:
            passes[again.member.model].append(again)
        self._run((together[0].member, partial(ask_again, together)) for together in passes.values())

    def run_voters(self, states: Sequence[StepState], *, keep: bool) -> None:
        """Run every voter that was not run yet.

        The output has to last (``keep``) where a beam copies slots while states are settled; and where one of a
        mixture's members, or one of those that are asked in turn, may be lost, as others are run then.
        """
        keep = keep or (self.loses and any(state.plan.draw.mixture or state.plan.asks_in_turn for state in states))
        fresh = [state for state in states if state.plan.asks_all and not state.outputs and not state.absent]
        others = [] if len(fresh) == len(states) else [state for state in states if state not in fresh]
        everybody = [(state, 0, len(state.drafted)) for state in fresh]
        batches = []
        for member in self.members:
            spans = [(state, *span) for state in others if (span := state.span(member))]
            batches.append(MemberBatch(member, everybody + spans, keep))
        self.run(batches)
        if lost := [state for state in others + fresh if state.absent and any(map(state.span, self.members))]:
            self.run_voters(lost, keep=keep)  # others are asked: see above

    def _run(self, passes: Iterable[tuple[Member, Callable[[], None]]]) -> None:
        """Run passes: those of one device one after the other, devices side by side."""
        groups: defaultdict[str, list[Callable[[], None]]] = defaultdict(list)
        for member, run in passes:
            groups[member.backend.facts.device].append(run)
        if self._pool is None or len(groups) < 2:
            for group in groups.values():
                _run_all(group)
            return
        running = [self._pool.submit(_run_all, group) for group in groups.values()]
        try:
            wait(running)
        except BaseException:  # Ctrl-C: a pass that has begun ends before anything is undone
            wait(running)
            raise
        for answer in running:
            answer.result()

    def _run_pass(self, batches: Sequence[MemberBatch]) -> None:
        """Run members that share a model in one pass; its time is shared out by ids read.

        Texts go on without those that are lost at it; raises a `MemberUnavailable` where one cannot.
        """
        try:
            self._pass(batches)
        except MemberUnavailable as error:
            _lose([(state, batch.member) for batch in batches for state, _, _ in batch.spans], error)

    def _pass(self, batches: Sequence[MemberBatch]) -> None:
        for batch in batches:
            batch.fill()
        feeds = batches[0].feeds if len(batches) == 1 else [feed for batch in batches for feed in batch.feeds]
        # By slot: llama.cpp computes slots together only where they follow one another.
        ordered = sorted(feeds, key=_slot_of) if len(feeds) > 1 else feeds
        member = batches[0].member
        logits_NV, spent = advance(member, ordered)
        row_by_slot, rows = {}, 0
        for feed in ordered:
            row_by_slot[feed.slot] = rows
            rows += feed.wanted
        tokens = sum([batch.tokens for batch in batches])
        for batch in batches:
            seconds = spent * batch.tokens / tokens
            batch.member.seconds += seconds
            note_output(batch, logits_NV, row_by_slot, seconds)
        work = Work(len(feeds), tokens, rows)
        if self._draft_length.in_use or self._draft_length.is_timing:
            self._draft_length.learn_pass(member.model, work, spent)
        if member.backend.facts.device == "cpu":
            self._slow.note(member.name, member.model, work, spent)


def _lose(lost: Iterable[tuple[StepState, Member]], error: MemberUnavailable) -> None:
    with _LOSING:
        for state, member in lost:
            state.lose(member, error)


def _run_all(passes: Sequence[Callable[[], None]]) -> None:
    for run in passes:
        run()


def by_model(members: Iterable[Member]) -> list[list[Member]]:
    """Members in groups that share a model, and so a pass, in order."""
    groups: dict[int, list[Member]] = {}
    for member in members:
        groups.setdefault(member.model, []).append(member)
    return list(groups.values())


_slot_of = attrgetter("slot")
