"""Running members: one batched pass a model, side by side where models sit on different devices."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import NamedTuple

from unisono.backends.base import Array, Feed, Slot, TopLogprobs, dense
from unisono.engine.cursor import Cursor
from unisono.engine.draft_length import DraftLengthController, Work
from unisono.engine.forward_output import ForwardOutput
from unisono.engine.member import Member
from unisono.engine.sequence import TextSequence
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
        self._run((together[0].member, partial(_read_rows, together)) for together in passes.values())

    def ask_again(self, asked: Iterable[Again]) -> None:
        """Ask truncated members for more of what they told, in one pass a model; the new rows replace the old ones.

        A slot ends where it was asked: what a draft had beyond is read again as lag.
        """
        passes: defaultdict[int, list[Again]] = defaultdict(list)
        for again in asked:
            passes[again.member.model].append(again)
        self._run((together[0].member, partial(_ask_again, together)) for together in passes.values())

    def run_voters(self, states: Sequence[StepState], *, keep: bool) -> None:
        """Run every voter that was not run yet.

        The output has to last (``keep``) where a beam copies slots while states are settled; and where one of a
        mixture's members, or one of those that are asked in turn, may be lost, as others are run then.
        """
        keep = keep or (self.loses and any(state.plan.draw.mixture or state.plan.foresees for state in states))
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
        logits_NV, spent = _advance(member, ordered)
        row_by_slot, rows = {}, 0
        for feed in ordered:
            row_by_slot[feed.slot] = rows
            rows += feed.wanted
        tokens = sum([batch.tokens for batch in batches])
        for batch in batches:
            seconds = spent * batch.tokens / tokens
            batch.member.seconds += seconds
            _note_output(batch, logits_NV, row_by_slot, seconds)
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


@dataclass(slots=True)
class MemberBatch:
    """What one member reads in a pass: positions first to last of some sequences."""

    member: Member
    spans: list[tuple[StepState, int, int]]
    keep: bool = False
    """Whether its distributions outlast its model's next pass, or are looked at several times."""
    feeds: list[Feed] = field(default_factory=list)
    """One a span: its ids up to the last position that its slot has not read, of the first position one at least."""
    tokens: int = 0

    def fill(self) -> None:
        name = self.member.name
        for state, first, last in self.spans:
            cursor = state.text.cursors[name]
            start, end = cursor.ends[first], cursor.ends[last]
            self.member.reopen_before(cursor, start)
            self.feeds.append(Feed(cursor.slot, cursor.ids[cursor.read : end], end - start + 1))
            self.tokens += end - cursor.read


def _note_output(
    batch: MemberBatch, logits_NV: Array | TopLogprobs, row_by_slot: Mapping[Slot, int], seconds: float
) -> None:
    member, name = batch.member, batch.member.name
    output, own = ForwardOutput(member, logits_NV), list[int]()
    for state, first, last in batch.spans:
        cursor = state.text.cursors[name]
        cursor.read = cursor.ends[last]
        row = row_by_slot[cursor.slot]
        rows = [row] if first == last else [row + end - cursor.ends[first] for end in cursor.ends[first : last + 1]]
        for position, its in enumerate(rows, first):
            if place := state.place(member, position):
                output.places[its] = place
        noted = state.outputs.setdefault(name, [])
        noted += [None] * (first - len(noted))
        noted[first : last + 1] = [(output, row) for row in rows]
        state.text.member_seconds[name] += seconds
        own += rows
    if batch.keep:
        output.keep(own)


_slot_of = attrgetter("slot")


class Portion(NamedTuple):
    """What a member reads ahead of one text: no distribution is wanted of it."""

    text: TextSequence
    member: Member
    cursor: Cursor
    ids: int
    """How many of those that wait, without the last; fewer are read where its slot turns out to hold some of them."""


def read_ahead(portions: Sequence[Portion]) -> None:
    """Read portions of members that share a model, in one pass. The time is shared out by ids read.

    Texts go on without those that are lost at it; raises a `MemberUnavailable` where one cannot.
    """
    try:
        _read_ahead(portions)
    except MemberUnavailable:
        if not all(text.plan.spares(member) for text, member, _, _ in portions):
            raise
        for _, member, cursor, _ in portions:
            member.lose(cursor)


def _read_ahead(portions: Sequence[Portion]) -> None:
    for _, member, cursor, _ in portions:
        member.reopen(cursor)
    # A slot that was opened only now may hold a prefix: what that leaves may be less than was counted without it.
    portions = [each._replace(ids=min(each.ids, len(each.cursor.ids) - 1 - each.cursor.read)) for each in portions]
    portions = sorted([each for each in portions if each.ids > 0], key=lambda portion: portion.cursor.slot)
    if not portions:
        return
    feeds = [Feed(cursor.slot, cursor.ids[cursor.read : cursor.read + count], 0) for _, _, cursor, count in portions]
    _, spent = _advance(portions[0].member, feeds)
    total = sum(portion.ids for portion in portions)
    for text, member, cursor, ids in portions:
        cursor.read += ids
        member.seconds += spent * ids / total
        text.member_seconds[member.name] += spent * ids / total


class Row(NamedTuple):
    """What a member reads of one text to tell what follows it."""

    text: TextSequence
    member: Member
    cursor: Cursor
    take: Callable[[Array], None]
    """Is given ``logits_NV`` behind the cursor's last id, and behind each one ahead; they last until it returns."""
    ahead: Sequence[int] = ()
    """Ids that are read, too; the cursor then has them."""


def _read_rows(asked: Sequence[Row]) -> None:
    for row in asked:
        row.member.reopen_before(row.cursor, len(row.cursor.ids))
    asked = sorted(asked, key=lambda row: row.cursor.slot)
    member = asked[0].member
    feeds = [
        Feed(row.cursor.slot, [*row.cursor.ids[row.cursor.read :], *row.ahead], 1 + len(row.ahead)) for row in asked
    ]
    logits_NV, spent = _advance(member, feeds)
    total, first = sum(len(feed.ids) for feed in feeds), 0
    for feed, row in zip(feeds, asked, strict=True):
        row.cursor.read += len(feed.ids)
        share = spent * len(feed.ids) / total
        row.member.seconds += share
        row.text.member_seconds[row.member.name] += share
        row.cursor.ids += row.ahead
        row.take(dense(logits_NV)[first : first + feed.wanted])
        first += feed.wanted


class Again(NamedTuple):
    """A distribution of which a truncated member is to tell more."""

    state: StepState
    member: Member
    position: int
    top: int
    also: tuple[int, ...]


def _ask_again(asked: Sequence[Again]) -> None:
    """Ask members that share a model. What those told who are lost at it counts; the next step goes without them."""
    try:
        _tell_more(asked)
    except MemberUnavailable:
        if not all(state.plan.spares(member) for state, member, *_ in asked):
            raise
        for state, member, *_ in asked:
            member.lose(state.cursor(member))


def _tell_more(asked: Sequence[Again]) -> None:
    for state, member, position, _, _ in asked:
        cursor = state.cursor(member)
        member.reopen_before(cursor, cursor.ends[position])
    asked = sorted(asked, key=lambda again: again.state.cursor(again.member).slot)
    feeds = []
    for state, member, position, top, also in asked:
        cursor, end = state.cursor(member), state.cursor(member).ends[position]
        feeds.append(Feed(cursor.slot, cursor.ids[cursor.read : end], 1, top, also))
    told, spent = _advance(asked[0].member, feeds)
    for row, (state, member, position, _, _) in enumerate(asked):
        state.cursor(member).read = state.cursor(member).ends[position]
        output = ForwardOutput(member, told)
        if place := state.place(member, position):
            output.places[row] = place
        state.outputs[member.name][position] = (output, row)
        member.seconds += spent / len(asked)
        state.text.member_seconds[member.name] += spent / len(asked)


def _advance(member: Member, feeds: Sequence[Feed]) -> tuple[Array | TopLogprobs, float]:
    """One pass of a member's model, and the time that it took. A failure says whose it was."""
    began = time.perf_counter()
    try:
        logits_NV = member.advance(feeds)
    except Exception as error:
        error.add_note(f"unisono: this happened in a pass of member {member.name!r}, over {len(feeds)} texts")
        raise
    return logits_NV, time.perf_counter() - began
