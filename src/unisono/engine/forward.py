"""One forward pass: what the members that share a model read in it, and what it says to each of them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

from array_api_compat import array_namespace

from unisono.backends.base import Array, Feed, Slot
from unisono.engine.draft_length import Work
from unisono.engine.member import Cursor, ForwardOutput, Member
from unisono.engine.sequence import TextSequence
from unisono.engine.step_state import StepState


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
    """One a span: what waits in its cursor up to the last position. Something does: a distribution is given once."""
    tokens: int = 0

    def fill(self) -> None:
        """Make the feeds."""
        name = self.member.name
        for state, first, last in self.spans:
            cursor = state.text.cursors[name]
            start, end = cursor.ends[first], cursor.ends[last]
            self.feeds.append(Feed(cursor.slot, cursor.ids[cursor.read : end], end - start + 1))
            self.tokens += end - cursor.read


def run_pass(batches: Sequence[MemberBatch]) -> tuple[Work, float]:
    """Run members that share a model in one pass; the states note the output. The time is shared out by ids read.

    Returns:
        What was read, and how many seconds it took.
    """
    for batch in batches:
        batch.fill()
    feeds = batches[0].feeds if len(batches) == 1 else [feed for batch in batches for feed in batch.feeds]
    # By slot: llama.cpp computes slots together only where they follow one another.
    ordered = sorted(feeds, key=_slot_of) if len(feeds) > 1 else feeds
    logits_NV, spent = _advance(batches[0].member, ordered)
    row_by_slot, rows = {}, 0
    for feed in ordered:
        row_by_slot[feed.slot] = rows
        rows += feed.wanted
    tokens = sum([batch.tokens for batch in batches])
    for batch in batches:
        seconds = spent * batch.tokens / tokens
        batch.member.seconds += seconds
        _note_output(batch, logits_NV, row_by_slot, seconds)
    return Work(len(feeds), tokens, rows), spent


def _note_output(batch: MemberBatch, logits_NV: Array, row_by_slot: Mapping[Slot, int], seconds: float) -> None:
    """Tell every state of a batch where its rows are."""
    member, name = batch.member, batch.member.name
    output, own = ForwardOutput(member, logits_NV), list[int]()
    for state, first, last in batch.spans:
        cursor = state.text.cursors[name]
        cursor.read = cursor.ends[last]
        row = row_by_slot[cursor.slot]
        if first == 0 and state.opens_answer and member.leading_space:
            output.opening.add(row)
        rows = [row] if first == last else [row + end - cursor.ends[first] for end in cursor.ends[first : last + 1]]
        if first or name in state.outputs:
            state.add_output(member, output, rows, first)
        else:
            state.outputs[name] = [(output, row) for row in rows]
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
    """How many of those that wait, the last not among them."""


def read_ahead(portions: Sequence[Portion]) -> None:
    """Read portions of members that share a model, in one pass. The time is shared out by ids read."""
    portions = sorted(portions, key=lambda portion: portion.cursor.slot)
    feeds = [Feed(cursor.slot, cursor.ids[cursor.read : cursor.read + count], 0) for _, _, cursor, count in portions]
    _, spent = _advance(portions[0].member, feeds)
    total = sum(portion.ids for portion in portions)
    for text, member, cursor, ids in portions:
        cursor.read += ids
        member.seconds += spent * ids / total
        text.member_seconds[member.name] += spent * ids / total


def _advance(member: Member, feeds: Sequence[Feed]) -> tuple[Array, float]:
    """One pass of a member's model, and the time that it took. A failure says whose it was."""
    began = time.perf_counter()
    try:
        logits_NV = member.backend.advance(feeds)
    except Exception as error:
        error.add_note(f"unisono: this happened in a pass of member {member.name!r}, over {len(feeds)} texts")
        raise
    return logits_NV, time.perf_counter() - began


def rows_at(states: Sequence[StepState], member: Member, position: int) -> Array:
    """A member's distributions ``p_BU`` at one position of several sequences, from whichever passes have them."""
    found = [state.where(member, position) for state in states]
    output = found[0][0]
    if all(other is output for other, _ in found):
        return output.fold([row for _, row in found])
    folded: list[Array] = [None] * len(found)
    for output in {id(output): output for output, _ in found}.values():
        places = [place for place, (other, _) in enumerate(found) if other is output]
        p_NU = output.fold([found[place][1] for place in places])
        for place, p_U in zip(places, p_NU, strict=True):
            folded[place] = p_U
    return array_namespace(folded[0]).stack(folded)
