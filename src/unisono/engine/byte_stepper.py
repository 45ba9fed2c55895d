"""Steps of texts in bytes: members are asked about cuts that are new, a pass a model, until each text has a piece."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from unisono.backends.base import Array
from unisono.engine.byte_cursor import ByteCursor, BytePath, Following
from unisono.engine.byte_member import ByteMember
from unisono.engine.byte_piece import ByteChoice
from unisono.engine.byte_walk import ByteWalk
from unisono.engine.group import SequenceGroup
from unisono.engine.member import Member
from unisono.engine.passes import Row
from unisono.engine.prefill import Prefill
from unisono.engine.runner import Runner
from unisono.engine.sequence import TextSequence
from unisono.engine.trace import TOP_MASS, about
from unisono.outcomes import outcome_of
from unisono.step_records import StepRecord, StepSeconds, TopPieces
from unisono.vocab.union import UnionVocabulary

NO_COLUMN = -1
"""Stands for the column of a piece that was written in bytes: nothing that counts columns goes with them."""


class ByteStepper:
    """Advances groups of texts in bytes, for an engine that owns them."""

    def __init__(self, members: Sequence[Member], union: UnionVocabulary, runner: Runner, prefill: Prefill) -> None:
        self._prefill = prefill
        self._members = members
        self._union = union
        self._runner = runner
        self._its = [ByteMember(member) for member in members]

    def step(self, groups: Sequence[SequenceGroup]) -> None:
        """Write one piece of each text, or its END. When a model fails, the next step goes on from where it was.

        A text stands back where its gate opens for a member that has too much to read.
        """
        began = time.perf_counter()
        group_of = {text: group for group in groups for text in group.open}
        before = {text: dict(text.member_seconds) for text in group_of}
        walks = {text: self.walk(text) for text in group_of}
        left = dict(walks)
        records: dict[TextSequence, list[StepRecord]] = {text: [] for text in group_of}
        try:
            while left:
                for text in [text for text, walk in left.items() if _is_full(walk)]:
                    for choice in left.pop(text).flush():
                        self._take(text, choice, records[text])
                    if text.finish is None:
                        text.end("context")
                for text in [text for text, walk in left.items() if self._stands_back(group_of[text], walk)]:
                    del left[text]
                self._runner.read_rows(row for walk in left.values() for row in rows(walk))
                for text, walk in list(left.items()):
                    if choices := walk.write():
                        for choice in choices:
                            self._take(text, choice, records[text])
                        del left[text]
        except BaseException:
            for walk in walks.values():
                walk.voters.restore()
            raise
        finally:
            for text, walk in walks.items():
                if text.finish is None and _is_full(walk):
                    text.end("context")
                walk.note_cursors()
                self._conclude(text, records[text], time.perf_counter() - began, before[text])

    def _stands_back(self, group: SequenceGroup, walk: ByteWalk) -> bool:
        """Whether a text has to wait while members that are asked read much of it, between steps."""
        far = [cursor.member for cursor in walk.voters.asked.values() if self._prefill.is_far(cursor.main)]
        if far:
            walk.note_cursors()
            self._prefill.await_all(group, far)
        return bool(far)

    def walk(self, text: TextSequence) -> ByteWalk:
        """What members follow of a text; it begins with what is written."""
        if isinstance(text.forks, ByteWalk):
            return text.forks
        return ByteWalk(text, self._its, text.begun_symbols)

    def _take(self, text: TextSequence, choice: ByteChoice, records: list[StepRecord]) -> None:
        if text.finish is not None:  # a stop string was completed before it
            return
        piece = self._piece(choice.following)
        mark = piece if isinstance(piece, str) else None
        if text.steps is not None:
            records.append(self._record(text, choice))
        if piece is None:
            text.end("end")
            return
        text.ensembled += len(choice.p_by_member) == len(self._members)
        text.parted = (text.parted or 0) + bool(choice.walked and mark is None)
        if mark is None:
            assert isinstance(piece, bytes)
            text.append(piece, NO_COLUMN)
        else:
            assert isinstance(choice.following, int)
            column = self._union.texts + choice.following
            text.append(b"", column, self._union.mark(column))
            text.open_behind(self._union.marks[choice.following], self._members)

    def _piece(self, following: Following) -> bytes | str | None:
        if isinstance(following, bytes):
            return following
        return self._union.marks[following] if following < len(self._union.marks) else None

    def _record(self, text: TextSequence, choice: ByteChoice) -> StepRecord:
        piece = self._piece(choice.following)
        return StepRecord(
            piece=b"" if isinstance(piece, str) else piece,
            mark=piece if isinstance(piece, str) else None,
            part=text.part,
            p=choice.p,
            voted=tuple(choice.p_by_member),
            members=dict(choice.p_by_member),
            top={name: self._top(cuts) for name, cuts in choice.cuts.items()} if text.request.trace else {},
            gate=choice.gate,
            lead=text.plan.lead.name,
            unasked=tuple(each.name for each in self._members if each.name not in choice.p_by_member),
            walked=choice.walked,
            winners=choice.winners,
            subtracted=text.plan.subtracted,
        )

    def _top(self, cuts: Sequence[tuple[Following, float]]) -> TopPieces:
        return tuple((self._piece(cut), p) for number, (cut, p) in enumerate(cuts) if not number or p >= TOP_MASS)

    def _conclude(
        self, text: TextSequence, records: Sequence[StepRecord], spent: float, before: Mapping[str, float]
    ) -> None:
        """Write the trace, after a step that took so long."""
        if text.steps is None or not records:
            return
        share = len(records)
        members = {name: (its - before[name]) / share for name, its in text.member_seconds.items()}
        seconds = StepSeconds(spent / share, {name: its for name, its in members.items() if its > 0})
        for each in records:
            head = None if text.steps else about(text.plan, self._members)
            if text.request.trace:
                outcome = outcome_of(each)
                each = replace(each, kind=outcome.kind, winners=outcome.winners, about=head)
            text.steps.append(replace(each, seconds=seconds))


def rows(walk: ByteWalk) -> Iterator[Row]:
    """What members have to be asked, of one text."""
    for cursor, path in walk.voters.unread():
        yield Row(walk.text, cursor.member, path.cursor, partial(_take_row, cursor, path))


def _take_row(cursor: ByteCursor, path: BytePath, logits_NV: Array) -> None:
    cursor.read(path, logits_NV[0])


def _is_full(walk: ByteWalk) -> bool:
    """Whether a member has no room left for any of its hypotheses; those alone that have none are dropped."""
    walk.voters.drop_full()
    return walk.voters.are_full
