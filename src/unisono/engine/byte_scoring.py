"""Scoring given texts in bytes: the log-probability of each byte, however the text is cut."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from unisono.backends.base import Array
from unisono.chat.messages import Prompt
from unisono.engine.byte_cursor import ByteCursor, BytePath
from unisono.engine.byte_stepper import ByteStepper
from unisono.engine.byte_walk import ByteWalk
from unisono.engine.given import ids_of
from unisono.engine.runner import Row, Runner
from unisono.engine.scoring import check_room
from unisono.engine.sequence import TextSequence
from unisono.fusion.byte_beam import Hypothesis
from unisono.records import PieceScore

AT_ONCE = 32  # ids that are read ahead of a hypothesis, whose distributions are kept


class ByteScoring:
    """Scores what follows texts that have been begun.

    A member reads its own cut of a text in blocks, and other cuts as their hypotheses come up; so a text of one block
    takes one pass a member, but for those.
    """

    def __init__(self, stepper: ByteStepper, runner: Runner) -> None:
        self._stepper = stepper
        self._runner = runner

    def score(
        self, given: Mapping[TextSequence, tuple[Prompt, Sequence[bytes]]]
    ) -> dict[TextSequence, list[PieceScore]]:
        """Compute how likely texts are, byte by byte; ``given`` has by text its prompt, and the pieces to tell them by.

        Raises a `PromptError` where a member's context cannot hold a text.
        """
        left = {text: _Given(self._stepper.walk(text), prompt, pieces) for text, (prompt, pieces) in given.items()}
        scored = dict(left)
        while left:
            self._runner.read_rows(row for its in left.values() for row in its.rows())
            left = {text: its for text, its in left.items() if not its.consume()}
        return {text: its.scores for text, its in scored.items()}


@dataclass(slots=True)
class _Ahead:
    """The ids in which a member's tokenizer cuts a text, and what the member says behind the first of them."""

    begin: int
    """How many ids stand before the text."""
    ids: list[int]
    told: dict[tuple[int, ...], Hypothesis] = field(default_factory=dict)


class _Given:
    """One text that is scored, and how far it has come."""

    def __init__(self, walk: ByteWalk, prompt: Prompt, pieces: Sequence[bytes]) -> None:
        self.scores: list[PieceScore] = []
        self._walk = walk
        self._pieces = pieces
        self._data = b"".join(pieces)
        self._place, self._end = 0, len(pieces[0])
        self._logp, self._is_likeliest = 0.0, True
        self._expected = b""
        """What greedy would write next, as far as the members' cuts agreed on it."""
        self._ahead: dict[str, _Ahead] = {}
        for name, cursor in walk.cursors.items():
            begin = len(cursor.main.ids)
            ids = list(ids_of(cursor.member, prompt, self._data))
            check_room(cursor.member, begin + max(0, len(ids) - 1))
            self._ahead[name] = _Ahead(begin, ids)

    def rows(self) -> Iterator[Row]:
        """What members have to be asked, with the ids that their tokenizers have next."""
        for name, cursor in self._walk.cursors.items():
            its = self._ahead[name]
            for path in cursor.unread():
                check_room(cursor.member, len(path.cursor.ids))
                done = path.cursor.ids[its.begin :]
                following = its.ids[: len(done)] == done
                ahead = its.ids[len(done) : len(done) + AT_ONCE][:-1] if following else []
                yield Row(self._walk.text, cursor.member, path.cursor, partial(_take, its, cursor, path, ahead), ahead)

    def consume(self) -> bool:
        """Go on as far as what has been read reaches; return whether the text is at its end."""
        while self._place < len(self._data):
            self._look_up()
            if any(cursor.unread() for cursor in self._walk.cursors.values()):
                return False
            self._score_byte(self._data[self._place])
        return True

    def _look_up(self) -> None:
        """Let hypotheses have what was read ahead."""
        for name, cursor in self._walk.cursors.items():
            its = self._ahead[name]
            for path in cursor.unread():
                if (told := its.told.get(tuple(path.cursor.ids[its.begin :]))) is not None:
                    path.hypothesis = Hypothesis(path.hypothesis.weight, told.heard)

    def _score_byte(self, byte: int) -> None:
        q_C, _ = self._walk.next_symbols()
        p = float(q_C[byte])
        self._logp += math.log(p) if p > 0 else -math.inf
        if not self._expected:
            self._expected = self._walk.would_write(q_C)
        self._is_likeliest = self._is_likeliest and self._expected[:1] == bytes([byte])
        self._expected = self._expected[1:] if self._is_likeliest else b""
        self._place += 1
        if self._place < len(self._data):
            self._walk.take_byte(byte)
        if self._place == self._end:
            self._end_piece()

    def _end_piece(self) -> None:
        piece = self._pieces[len(self.scores)]
        self.scores.append(PieceScore(piece, self._logp, self._is_likeliest, tuple(self._walk.cursors)))
        self._logp, self._is_likeliest = 0.0, True
        if len(self.scores) < len(self._pieces):
            self._end += len(self._pieces[len(self.scores)])


def _take(its: _Ahead, cursor: ByteCursor, path: BytePath, ahead: Sequence[int], logits_NV: Array) -> None:
    cursor.read(path, logits_NV[0])
    done = path.cursor.ids[its.begin :]
    if ahead:
        its.told = {(*done, *ahead[:count]): cursor.told(logits_V) for count, logits_V in enumerate(logits_NV[1:], 1)}
