"""One forward pass: what the members that share a model read in it, and what it says to each of them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from array_api_compat import array_namespace

from unisono.backends.base import Array, Feed, Slot
from unisono.engine.draft_length import Work
from unisono.engine.member import Ask, Cursor, Member
from unisono.engine.sequence import TextSequence


def by_model(members: Iterable[Member]) -> list[list[Member]]:
    """Members in groups that share a model, and so a pass, in order."""
    groups: dict[int, list[Member]] = {}
    for member in members:
        groups.setdefault(member.model, []).append(member)
    return list(groups.values())


@dataclass(frozen=True, slots=True)
class Block:
    """What one member reads in a pass, over all texts."""

    member: Member
    asks: Sequence[Ask]
    feeds: list[Feed]
    """One for each ask: what waits in its cursor up to the last position asked about."""

    @property
    def work(self) -> Work:
        """How much that is."""
        return Work(len(self.feeds), sum(len(feed.ids) for feed in self.feeds), sum(feed.wanted for feed in self.feeds))


def make_block(member: Member, asks: Sequence[Ask]) -> Block:
    """Make the feeds. At every position's end something must be unread: a distribution is given once."""
    feeds = []
    for ask in asks:
        cursor = ask.cursor
        start, end = cursor.ends[ask.first], cursor.ends[ask.last]
        feeds.append(Feed(cursor.slot, cursor.ids[cursor.read : end], end - start + 1))
    return Block(member, asks, feeds)


class Pass(NamedTuple):
    """What one pass was, and gave."""

    readings: list[Reading]
    """One a block. Their rows hold until the next call on the model, whoever of its members makes it."""
    work: Work
    seconds: float


def run_pass(blocks: Sequence[Block]) -> Pass:
    """Read the blocks of members that share a model. The time is shared out by ids read."""
    # By slot: llama.cpp computes slots together only where they follow one another.
    feeds = sorted((feed for block in blocks for feed in block.feeds), key=lambda feed: feed.slot)
    logits_NV, spent = _advance(blocks[0].member, feeds)
    ends = itertools.accumulate((feed.wanted for feed in feeds), initial=0)
    row_by_slot = {feed.slot: row for feed, row in zip(feeds, ends, strict=False)}
    work = Work.of_all([block.work for block in blocks])
    readings = []
    for block in blocks:
        for ask in block.asks:
            ask.cursor.read = ask.cursor.ends[ask.last]
        seconds = spent * block.work.tokens / work.tokens
        block.member.seconds += seconds
        readings.append(Reading(block, logits_NV, row_by_slot, seconds))
    return Pass(readings, work, spent)


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


class Reading:
    """What a pass gave to one member. Its rows are folded when they are looked at, before the model's next call."""

    def __init__(self, block: Block, logits_NV: Array, row_by_slot: Mapping[Slot, int], seconds: float) -> None:
        self.member = block.member
        self.rows: list[list[int]] = []
        """For each ask, the row of each of its positions."""
        self.seconds = seconds
        """The member's part of the pass's time."""
        self._logits_NV = logits_NV
        self._opening: set[int] = set()
        self._kept: tuple[Array, dict[int, int]] | None = None
        for ask in block.asks:
            row, ends = row_by_slot[ask.cursor.slot], ask.cursor.ends[ask.first : ask.last + 1]
            self.rows.append([row + end - ends[0] for end in ends])
            if ask.opens_answer and ask.first == 0:
                self._opening.add(row)

    def keep(self) -> None:
        """Fold all rows now, to last until the step ends, the model's later passes notwithstanding."""
        if self._kept is None:
            own = list(itertools.chain(*self.rows))
            self._kept = self._fold(own, keep=True), {row: place for place, row in enumerate(own)}
            self._logits_NV = None

    def fold(self, rows: Sequence[int]) -> Array:
        """``p_BU`` of some rows; lasts until the next call."""
        if self._kept is None:
            return self._fold(rows, keep=False)
        p_NU, place_by_row = self._kept
        return _select(p_NU, [place_by_row[row] for row in rows])

    def _fold(self, rows: Sequence[int], *, keep: bool) -> Array:
        opening = [row in self._opening for row in rows]
        return self.member.fold(_select(self._logits_NV, rows), opening, keep=keep)


def _select(array: Array, rows: Sequence[int]) -> Array:
    """Rows of an array: a view where they are evenly spaced."""
    step = rows[1] - rows[0] if len(rows) > 1 else 1
    if step > 0 and list(rows) == list(range(rows[0], rows[-1] + 1, step)):
        return array[rows[0] : rows[-1] + 1 : step]
    return array_namespace(array).stack([array[row] for row in rows])
