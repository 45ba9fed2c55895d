"""One text in bytes: where all members' next cuts agree they are written, else one byte after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from unisono.constraints.grammar import Parse
from unisono.engine.byte_cursor import ByteCursor, Cut, Following
from unisono.engine.byte_member import ByteMember
from unisono.engine.byte_piece import ByteChoice, PieceInMaking
from unisono.engine.byte_voters import ByteVoters, Symbols
from unisono.engine.sequence import TextSequence
from unisono.engine.token_boundary import LONGEST_CHARACTER, REACH
from unisono.errors import ModelError
from unisono.fusion.byte_beam import ahead_of_bytes, ahead_of_text
from unisono.fusion.logits_processors import Allowed, confine
from unisono.fusion.sampling import Purpose, RandomNumbers, draw_from
from unisono.step_records import GateReading
from unisono.vocab.byte_trie import BYTES

TOP_CUTS = 10  # of each member, in a trace
TAIL = REACH + LONGEST_CHARACTER
MOST_WALKED = 64
"""Bytes that a step walks at most, as members' cuts may interleave without end. The next step goes on from there."""


class ByteWalk:
    """A text that goes on in bytes, and the beams of its members."""

    def __init__(self, text: TextSequence, members: Sequence[ByteMember], position: int) -> None:
        """Go on from where the text is; ``position`` counts the bytes and marks before it, for what is drawn."""
        plan, vocabulary = text.plan, text.plan.vocabulary
        self.text = text
        self.position = position
        self.parse: Parse | None = text.parse
        text.parse = None  # the text itself is written in pieces
        text.forks = self
        text.parted = text.parted or 0
        draw = plan.member_draw
        cursors = {
            its.member.name: ByteCursor(
                its,
                text.cursors[its.member.name],
                vocabulary.beam,
                vocabulary.least,
                opening=its.member.name in text.openings,
                draw=draw,
            )
            for its in members
        }
        self.voters = ByteVoters(cursors, plan, text.losses)
        self._gate: GateReading | None = None
        self._pieces = text.pieces
        self._tail = text.tail(TAIL)
        self._failed: Exception | None = None
        self._piece = PieceInMaking({})
        self._begin_piece()

    def note_cursors(self) -> None:
        """Let the text's cursors be those of the heaviest hypotheses."""
        self.text.cursors = {name: cursor.main for name, cursor in self.voters.cursors.items()}

    def close_forks(self) -> None:
        """Leave each member one slot, that of its heaviest hypothesis."""
        self.note_cursors()
        self.voters.close_others()

    def settle(self) -> bool:
        """Read the gate where it is to be read; return whether all that are asked have been read.

        A shut gate opens within a piece, too, where the lead gives no mass to what can be written.
        """
        if not self.voters.are_read:
            return False
        if not self.voters.are_gated or (self._gate is not None and self._gate.asked):
            return True
        if self._gate is None:
            self._gate = self.voters.read_gate(self._pieces, self._tail, self._allowed(), ends=self._may_end)
        elif self.voters.is_blind(self._allowed(), ends=self._may_end):
            self._gate = replace(self._gate, asked=True, inside=None)
        if self._gate.asked:
            self.voters.ask_all()
        return self.voters.are_read

    def write(self) -> list[ByteChoice]:
        """Go on as far as a piece, mark or END, or until members have to be read first: then there is none.

        What has failed on the way fails again: some members may be a byte ahead of others.
        """
        if self._failed is not None:
            raise self._failed
        try:
            return self._write()
        except Exception as error:
            self._failed = error
            raise

    def _write(self) -> list[ByteChoice]:
        while self.settle():
            if not self._piece.data:
                self._piece = self._new_piece()
            if (cuts := self._agreed()) is not None:
                return self._take_cuts(cuts)
            q_C, q_KC = self.voters.next_symbols()
            symbol = self._choose(q_C)
            p, p_K = float(q_C[symbol]), [float(its_C[symbol]) for its_C in q_KC]
            self.position += 1
            if symbol >= BYTES:
                return self._take_class(symbol - BYTES, p, p_K)
            self._count(symbol, p, p_K)
            self._piece.walked += 1
            self.take_byte(symbol)
            if self.voters.lead.is_at_cut or self._piece.walked >= MOST_WALKED:
                return [self._finish()]
        return []

    def flush(self) -> list[ByteChoice]:
        """What stands of a piece so far."""
        return [self._finish()] if self._piece.data else []

    def would_write(self, q_C: Symbols) -> bytes:
        """What greedy would write from here, ``q_C`` being the combined distribution; nothing for a mark or END."""
        if (cuts := self._agreed()) is not None:
            return cuts[0].following if isinstance(cuts[0].following, bytes) else b""
        symbol = int(np.argmax(q_C))
        return bytes([symbol]) if symbol < BYTES else b""

    def take_given(self, byte: int, rest: bytes) -> None:
        """Go on behind a byte that is given, as the ``rest`` behind it is: no beam holds a slot.

        A piece ends where the lead's heaviest hypothesis completes a token.
        """
        self._piece.data.append(byte)
        self.voters.take_byte(byte, ahead_of_text(rest), on_top=True)
        if self.voters.lead.is_at_cut:
            self._finish()

    def take_byte(self, byte: int) -> None:
        self._piece.data.append(byte)
        if self.parse is not None:
            self.parse.consume(byte)
        self.voters.take_byte(byte, None if self.parse is None else ahead_of_bytes(partial(_allowed_by, self.parse)))

    def _allowed(self) -> Allowed | None:
        return None if self.parse is None else _allowed_by(self.parse)

    def _choose(self, q_C: Symbols) -> int:
        allowed_C = self._allowed()
        if not self._may_end:
            going_on_C = q_C > 0 if allowed_C is None else allowed_C & (q_C > 0)
            going_on_C[:BYTES] = True if allowed_C is None else allowed_C[:BYTES]
            going_on_C[-1] = False
            allowed_C = going_on_C if going_on_C.any() else allowed_C
        if allowed_C is not None and (feasible_C := self.voters.feasible(len(q_C))) is not None:
            allowed_C = allowed_C & feasible_C
            if not allowed_C.any():
                raise ModelError(
                    "no byte that all members can spell fits what the text has to be",
                    hint="`unisono doctor` lists the bytes that are missing",
                )
        shaped_C = confine(q_C[None], [allowed_C])[0]
        if self.text.plan.is_greedy:
            return int(np.argmax(shaped_C))
        return draw_from(shaped_C, RandomNumbers(self.text.seed, self.position, Purpose.PIECE))

    @property
    def _may_end(self) -> bool:
        return self.text.written >= self.text.request.limits.min_new_tokens

    def _agreed(self) -> list[Cut] | None:
        """The next cuts, where all write the same and it is allowed; greedy alone asks for them."""
        cuts = self.voters.next_cuts(ends=self._may_end) if self.text.plan.is_greedy else None
        return cuts if cuts is not None and self._allows(cuts[0].following) else None

    def _allows(self, following: Following) -> bool:
        if self.parse is None:
            return True
        if isinstance(following, int):
            return bool(self.parse.allowed(())[BYTES + following])
        ahead = self.parse.copy()
        for byte in following:
            if not ahead.accepts(byte):
                return False
            ahead.consume(byte)
        return True

    def _take_cuts(self, cuts: Sequence[Cut]) -> list[ByteChoice]:
        following, p_K = cuts[0].following, [cut.p for cut in cuts]
        p = float(self.voters.combined([np.array([p, max(0.0, 1 - p)]) for p in p_K])[0])
        if isinstance(following, int):
            self.position += 1
            return self._take_class(following, p, p_K)
        self._count(following[0], p, p_K)
        self.position += len(following)
        self._piece.data += following
        self.voters.take_cuts(cuts)
        for byte in following if self.parse is not None else b"":
            assert self.parse is not None
            self.parse.consume(byte)
        return [self._finish()]

    def _take_class(self, place: int, p: float, p_K: Sequence[float]) -> list[ByteChoice]:
        """Write a mark or END; what stands of a piece before it is a piece."""
        chosen = self._new_piece()
        written, self._piece = [self._piece.choice(self._gate)] if self._piece.data else [], chosen
        self._pieces += len(written)
        self._count(BYTES + place, p, p_K)
        is_end = place == len(self.voters.lead.its.marks)
        if self.parse is not None and not is_end:
            self.parse.consume(BYTES + place)
        if not is_end:
            self.voters.take_mark(place)
        return [*written, self._finish(place)]

    def _new_piece(self) -> PieceInMaking:
        return PieceInMaking({} if self.text.steps is None else self.voters.cuts(TOP_CUTS))

    def _count(self, symbol: int, p: float, p_K: Sequence[float]) -> None:
        """Count in what was chosen, by its first byte, or as a mark or END."""
        p_by_member = dict(zip(self.voters.asked, p_K, strict=True))
        traced = self.text.request.trace
        self._piece.count(p, p_by_member, self.voters.would_write(symbol, ends=self._may_end) if traced else ())

    def _finish(self, place: int | None = None) -> ByteChoice:
        choice = self._piece.choice(self._gate, place)
        self._tail = (self._tail + self._piece.data)[-TAIL:] if place is None else b""
        self._pieces += 1
        self._begin_piece()
        return choice

    def _begin_piece(self) -> None:
        """Begin a piece. Its gate is read where the lead begins a token; else those that were asked go on."""
        self._piece = PieceInMaking({})
        if self.voters.are_gated and self.voters.lead.is_at_cut:
            self._gate = None
            self.voters.ask_lead()


def _allowed_by(parse: Parse) -> Allowed:
    return np.array(parse.allowed(()), np.bool_)
