"""One pass of a model: what members read in it of several texts, and what becomes of its output."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from unisono.backends.base import Array, Feed, Slot, TopLogprobs, dense
from unisono.engine.cursor import Cursor
from unisono.engine.forward_output import ForwardOutput
from unisono.engine.member import Member
from unisono.engine.sequence import TextSequence
from unisono.engine.step_state import StepState
from unisono.errors import MemberUnavailable


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


def note_output(
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
        _read_on(portions)
    except MemberUnavailable:
        if not all(text.plan.spares(member) for text, member, _, _ in portions):
            raise
        for _, member, cursor, _ in portions:
            member.lose(cursor)


def _read_on(portions: Sequence[Portion]) -> None:
    for _, member, cursor, _ in portions:
        member.reopen(cursor)
    # A slot that was opened only now may hold a prefix: what that leaves may be less than was counted without it.
    portions = [each._replace(ids=min(each.ids, len(each.cursor.ids) - 1 - each.cursor.read)) for each in portions]
    portions = sorted([each for each in portions if each.ids > 0], key=lambda portion: portion.cursor.slot)
    if not portions:
        return
    feeds = [Feed(cursor.slot, cursor.ids[cursor.read : cursor.read + count], 0) for _, _, cursor, count in portions]
    _, spent = advance(portions[0].member, feeds)
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


def read_rows(asked: Sequence[Row]) -> None:
    for row in asked:
        row.member.reopen_before(row.cursor, len(row.cursor.ids))
    asked = sorted(asked, key=lambda row: row.cursor.slot)
    member = asked[0].member
    feeds = [
        Feed(row.cursor.slot, [*row.cursor.ids[row.cursor.read :], *row.ahead], 1 + len(row.ahead)) for row in asked
    ]
    logits_NV, spent = advance(member, feeds)
    total, first = sum(len(feed.ids) for feed in feeds), 0
    for feed, row in zip(feeds, asked, strict=True):
        row.cursor.read += len(feed.ids)
        share = spent * len(feed.ids) / total
        row.member.seconds += share
        row.text.member_seconds[row.member.name] += share
        row.cursor.ids += row.ahead
        row.take(dense(logits_NV)[first : first + feed.wanted])
        first += feed.wanted


class FurtherQuestion(NamedTuple):
    """A distribution of which a truncated member is to tell more."""

    state: StepState
    member: Member
    position: int
    top: int
    also: tuple[int, ...]


def ask_again(asked: Sequence[FurtherQuestion]) -> None:
    """Ask members that share a model. What those told who are lost at it counts; the next step goes without them."""
    try:
        _tell_more(asked)
    except MemberUnavailable:
        if not all(state.plan.spares(member) for state, member, *_ in asked):
            raise
        for state, member, *_ in asked:
            member.lose(state.cursor(member))


def _tell_more(asked: Sequence[FurtherQuestion]) -> None:
    for state, member, position, _, _ in asked:
        cursor = state.cursor(member)
        member.reopen_before(cursor, cursor.ends[position])
    asked = sorted(asked, key=lambda again: again.state.cursor(again.member).slot)
    feeds = []
    for state, member, position, top, also in asked:
        cursor, end = state.cursor(member), state.cursor(member).ends[position]
        feeds.append(Feed(cursor.slot, cursor.ids[cursor.read : end], 1, top, also))
    told, spent = advance(asked[0].member, feeds)
    for row, (state, member, position, _, _) in enumerate(asked):
        state.cursor(member).read = state.cursor(member).ends[position]
        output = ForwardOutput(member, told)
        if place := state.place(member, position):
            output.places[row] = place
        state.outputs[member.name][position] = (output, row)
        member.seconds += spent / len(asked)
        state.text.member_seconds[member.name] += spent / len(asked)


def advance(member: Member, feeds: Sequence[Feed]) -> tuple[Array | TopLogprobs, float]:
    """One pass of a member's model, and the time that it took. A failure says whose it was."""
    began = time.perf_counter()
    try:
        logits_NV = member.advance(feeds)
    except Exception as error:
        error.add_note(f"unisono: this happened in a pass of member {member.name!r}, over {len(feeds)} texts")
        raise
    return logits_NV, time.perf_counter() - began
