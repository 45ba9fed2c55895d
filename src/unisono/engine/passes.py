"""One forward pass: what the members that share a model read in it, and what it says to each of them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from array_api_compat import array_namespace

from unisono.backends.base import Array, Feed
from unisono.engine.member import Ask, Cursor, Member
from unisono.engine.pace import Work
from unisono.engine.text import Text


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
    rows: list[list[int]]
    """For each ask, the row of each of its positions, among the member's own."""
    opening: frozenset[int]
    """The rows that are at the first piece of an answer."""
    work: Work


def make_block(member: Member, asks: Sequence[Ask]) -> Block:
    """What waits in every cursor up to the last position asked about.

    At every position's end something must be unread: a distribution is given once.
    """
    feeds = []
    rows: list[list[int]] = []
    opening: set[int] = set()
    row = 0
    for ask in asks:
        cursor = ask.cursor
        start, end = cursor.ends[ask.first], cursor.ends[ask.last]
        feeds.append(Feed(cursor.slot, cursor.ids[cursor.read : end], end - start + 1))
        rows.append([row + place - start for place in cursor.ends[ask.first : ask.last + 1]])
        if ask.opens_answer and ask.first == 0:
            opening.add(row)
        row += end - start + 1
    work = Work(len(feeds), sum(len(feed.ids) for feed in feeds), row)
    return Block(member, asks, feeds, rows, frozenset(opening), work)


class Pass(NamedTuple):
    """What one pass was, and gave."""

    readings: list[Reading]
    """One a block. Their rows hold until the next call on the model, whoever of its members makes it."""
    work: Work
    seconds: float


def run_pass(blocks: Sequence[Block]) -> Pass:
    """Read the blocks of members that share a model. The time is shared out by ids read."""
    logits_NV, spent = _advance(blocks[0].member, [feed for block in blocks for feed in block.feeds])
    work = Work.of_all([block.work for block in blocks])
    readings, row = [], 0
    for block in blocks:
        for ask in block.asks:
            ask.cursor.read = ask.cursor.ends[ask.last]
        seconds = spent * block.work.tokens / work.tokens
        block.member.seconds += seconds
        readings.append(Reading(block, logits_NV[row : row + block.work.rows], seconds))
        row += block.work.rows
    return Pass(readings, work, spent)


class Portion(NamedTuple):
    """What a member reads ahead of one text: no distribution is wanted of it."""

    text: Text
    member: Member
    cursor: Cursor
    ids: int
    """How many of those that wait, the last not among them."""


def read_ahead(portions: Sequence[Portion]) -> None:
    """Read portions of members that share a model, in one pass. The time is shared out by ids read."""
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

    def __init__(self, block: Block, logits_NV: Array, seconds: float) -> None:
        self.member = block.member
        self.rows = block.rows
        """For each ask, the row of each of its positions."""
        self.seconds = seconds
        """The member's part of the pass's time."""
        self._logits_NV = logits_NV
        self._opening = block.opening
        self._kept_NU: Array | None = None

    def keep(self) -> None:
        """Fold all rows now, to last until the step ends, the model's later passes notwithstanding."""
        if self._kept_NU is None:
            opening = [row in self._opening for row in range(self._logits_NV.shape[0])]
            self._kept_NU = self.member.fold(self._logits_NV, opening, keep=True)
            self._logits_NV = None

    def fold(self, rows: Sequence[int]) -> Array:
        """``p_BU`` of some rows; lasts until the next call."""
        if self._kept_NU is not None:
            return _select(self._kept_NU, rows)
        return self.member.fold(_select(self._logits_NV, rows), [row in self._opening for row in rows], keep=False)


def _select(array: Array, rows: Sequence[int]) -> Array:
    """Rows of an array: a view where they follow one another."""
    if list(rows) == list(range(rows[0], rows[0] + len(rows))):
        return array[rows[0] : rows[0] + len(rows)]
    return array_namespace(array).stack([array[row] for row in rows])
