"""Scoring given texts in bytes: the log-probability of each byte, however the text is cut."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence

from unisono.chat.messages import Prompt
from unisono.engine.byte_line import ByteLine
from unisono.engine.byte_stepper import ByteStepper
from unisono.engine.cursor import Cursor
from unisono.engine.member import Member
from unisono.engine.passes import Row
from unisono.engine.runner import Runner
from unisono.engine.scoring import check_room
from unisono.engine.sequence import TextSequence
from unisono.records import PieceScore

AT_ONCE = 32  # ids of a text that a member reads in one pass, at most
ROW_BYTES = 128 << 20  # of the rows of one pass of a member, about


class ByteScoring:
    """Scores what follows texts that have been begun, all of them in the same passes (`ByteLine`)."""

    def __init__(self, stepper: ByteStepper, runner: Runner) -> None:
        self._stepper = stepper
        self._runner = runner

    def score(
        self, given: Mapping[TextSequence, tuple[Prompt, Sequence[bytes]]], spare: int
    ) -> dict[TextSequence, list[PieceScore]]:
        """Compute how likely texts are, byte by byte; ``given`` has by text its prompt, and the pieces to tell them by.

        Each has one slot of each member; ``spare`` ones are free for more. Raises a `PromptError` where a member's
        context cannot hold a text.
        """
        slots = {text: text.cursors for text in given}
        try:
            for text, cursors in slots.items():
                text.cursors = {name: Cursor(None, list(cursor.ids)) for name, cursor in cursors.items()}
            texts = {
                text: _Given(self._stepper, text, slots[text], prompt, pieces)
                for text, (prompt, pieces) in given.items()
            }
            left = list(texts.values())
            while left := [its for its in left if not its.consume()]:
                self._read(left, spare)
        finally:
            for text, cursors in slots.items():
                text.cursors, text.forks = cursors, None
        return {text: its.scores for text, its in texts.items()}

    def _read(self, left: Sequence[_Given], spare: int) -> None:
        copies: list[tuple[Member, Cursor]] = []
        try:
            rows = []
            for number, its in enumerate(left):
                for line in its.waiting():
                    free = spare - sum(member is line.member for member, _ in copies)
                    most = min(free, max(1, free // (len(left) - number)))
                    if most or not spare or line.goes_on:  # else it waits for a copy in the next pass
                        rows += its.rows(line, len(left), most, copies)
            self._runner.read_rows(rows)
        finally:
            with contextlib.ExitStack() as closing:
                for member, cursor in copies:
                    closing.callback(member.close, cursor, for_good=True)


class _Given:
    """One text that is scored, and how far it has come."""

    def __init__(
        self,
        stepper: ByteStepper,
        text: TextSequence,
        slots: Mapping[str, Cursor],
        prompt: Prompt,
        pieces: Sequence[bytes],
    ) -> None:
        self.scores: list[PieceScore] = []
        self._walk = stepper.walk(text)
        self._pieces = pieces
        self._data = b"".join(pieces)
        self._place, self._end = 0, len(pieces[0])
        self._logp, self._is_likeliest, self._voted = 0.0, True, set[str]()
        self._expected = b""
        """What greedy would write next, as far as the members' cuts agreed on it."""
        self._lines = {
            name: ByteLine(text, beam, slots[name], prompt, self._data)
            for name, beam in self._walk.voters.cursors.items()
        }

    def waiting(self) -> Iterator[ByteLine]:
        """Of the members that are asked and have to be read."""
        return (self._lines[name] for name, beam in self._walk.voters.asked.items() if beam.unread())

    def rows(self, line: ByteLine, texts: int, most: int, copies: list[tuple[Member, Cursor]]) -> list[Row]:
        """What a member has to read in a pass over so many texts, and at ``most`` so many copies of its slot."""
        block = max(1, min(AT_ONCE, ROW_BYTES // (4 * line.member.backend.facts.rows * texts)))
        own: list[Cursor] = []
        try:
            return list(line.rows(self._data[self._place :], block, own, most))
        finally:
            copies += [(line.member, cursor) for cursor in own]

    def consume(self) -> bool:
        """Go on as far as what has been read reaches; return whether the text is at its end."""
        voters = self._walk.voters
        while self._place < len(self._data):
            voters.drop_full()
            for cursor in voters.asked.values():
                if cursor.is_full:
                    check_room(cursor.member, len(cursor.main.ids))
            heard = [self._lines[name].look_up() for name in voters.asked]
            if not all(heard):
                return False
            if self._walk.settle():
                self._score_byte(self._data[self._place])
        return True

    def _score_byte(self, byte: int) -> None:
        q_C, _ = self._walk.voters.next_symbols()
        p = float(q_C[byte])
        self._logp += math.log(p) if p > 0 else -math.inf
        self._voted |= self._walk.voters.asked.keys()
        if self._is_likeliest:
            self._expected = self._expected or self._walk.would_write(q_C)
            self._is_likeliest = self._expected[:1] == bytes([byte])
        self._expected = self._expected[1:] if self._is_likeliest else b""
        self._place += 1
        if self._place < len(self._data):
            self._walk.take_given(byte, self._data[self._place :])
        if self._place == self._end:
            self._end_piece()

    def _end_piece(self) -> None:
        piece = self._pieces[len(self.scores)]
        voted = tuple(name for name in self._walk.voters.cursors if name in self._voted)
        self.scores.append(PieceScore(piece, self._logp, self._is_likeliest, voted))
        self._logp, self._is_likeliest, self._voted = 0.0, True, set()
        if len(self.scores) < len(self._pieces):
            self._end += len(self._pieces[len(self.scores)])
