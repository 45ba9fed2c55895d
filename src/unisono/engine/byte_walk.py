"""One text in bytes: where all members' next cuts agree they are written, else one byte after the other."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unisono.constraints.grammar import Parse
from unisono.engine.byte_cursor import ByteCursor, Cut, Following
from unisono.engine.byte_member import ByteMember
from unisono.engine.sequence import TextSequence
from unisono.errors import ModelError
from unisono.fusion.logits_processors import Allowed, confine
from unisono.fusion.sampling import Purpose, RandomNumbers, draw_from
from unisono.vocab.byte_trie import BYTES

Symbols = NDArray[np.float64]
"""A distribution over 256 bytes, marks and END."""
TOP_CUTS = 10  # of each member, in a trace


class ByteChoice(NamedTuple):
    """What was written: a piece, or a mark or END by its place among the classes."""

    following: Following
    walked: int
    """How many of its bytes were chosen one by one; 0 where the cuts agreed."""
    p: float
    """Its combined probability; of a cut that agreed, of two classes: it, or anything else."""
    p_by_member: Mapping[str, float]
    cuts: Mapping[str, Sequence[tuple[Following, float]]]
    """By member, what it would have written at the beginning of the piece; in a trace only."""


class ByteWalk:
    """A text that goes on in bytes, and the beams of its members."""

    def __init__(self, text: TextSequence, members: Sequence[ByteMember], position: int) -> None:
        """Go on from where the text is; ``position`` counts the bytes before it, for what is drawn."""
        plan, vocabulary = text.plan, text.plan.vocabulary
        self.text = text
        self.position = position
        self.parse: Parse | None = text.parse
        text.parse = None  # the text itself is written in pieces
        text.forks = self
        text.parted = text.parted or 0
        draw = plan.member_draw
        self.cursors = {
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
        self._lead = self.cursors[plan.lead.name]
        self._weights = [plan.weights[name] for name in self.cursors]
        self._failed: Exception | None = None
        self._cuts: dict[str, list[tuple[Following, float]]] = {}
        self._begin_piece()

    def note_cursors(self) -> None:
        """Let the text's cursors be those of the heaviest hypotheses."""
        self.text.cursors = {name: cursor.main for name, cursor in self.cursors.items()}

    def restore(self) -> None:
        """Forget what a failed pass has left."""
        for cursor in self.cursors.values():
            cursor.restore()

    def close_forks(self) -> None:
        """Leave each member one slot, that of its heaviest hypothesis."""
        self.note_cursors()
        with contextlib.ExitStack() as closing:
            for cursor in self.cursors.values():
                closing.callback(cursor.close_others)

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
        while not any(cursor.unread() for cursor in self.cursors.values()):
            if not self._piece:
                self._note_cuts()
            if (cuts := self._agreed()) is not None:
                return self._take_cuts(cuts)
            q_C, q_KC = self.next_symbols()
            symbol = self._choose(q_C)
            p, p_K = float(q_C[symbol]), [float(its_C[symbol]) for its_C in q_KC]
            self.position += 1
            if symbol >= BYTES:
                return self._take_class(symbol - BYTES, p, p_K)
            self._count(p, p_K)
            self._walked += 1
            self.take_byte(symbol)
            if self._lead.is_at_cut:
                return [self._finish()]
        return []

    def next_symbols(self) -> tuple[Symbols, list[Symbols]]:
        """The combined distribution, and each member's. Raises a `ModelError` where nothing is left that has mass."""
        q_KC = [cursor.next_symbols() for cursor in self.cursors.values()]
        feasible_C = self._feasible(len(q_KC[0]))
        if feasible_C is not None and len(q_KC) > 1:
            q_KC = [_within(q_C, feasible_C) for q_C in q_KC]
        loss_KB = [[self.text.losses.get(name, 0.0)] for name in self.cursors]
        q_C = self.text.plan.combine([its_C[None] for its_C in q_KC], self._weights, loss_KB)[0]
        if not math.isfinite(total := float(q_C.sum())) or not total > 0:
            raise ModelError(
                "members give mass to no byte that all can spell", hint="`unisono doctor` lists those bytes"
            )
        return q_C, q_KC

    @property
    def is_full(self) -> bool:
        """Whether a member cannot be asked any more, as its context is full."""
        return any(cursor.member.is_full(path.cursor) for cursor in self.cursors.values() for path in cursor.unread())

    def flush(self) -> list[ByteChoice]:
        """What stands of a piece so far."""
        return [self._finish()] if self._piece else []

    def would_write(self, q_C: Symbols) -> bytes:
        """What greedy would write from here, ``q_C`` being what `next_symbols` gives; nothing for a mark or END."""
        if (cuts := self._agreed()) is not None:
            return cuts[0].following if isinstance(cuts[0].following, bytes) else b""
        symbol = int(np.argmax(q_C))
        return bytes([symbol]) if symbol < BYTES else b""

    def take_byte(self, byte: int) -> None:
        self._piece.append(byte)
        if self.parse is not None:
            self.parse.consume(byte)
        for cursor in self.cursors.values():
            cursor.take_byte(byte)

    def _feasible(self, size: int) -> Allowed | None:
        """The bytes, marks and END that all members can read next; ``None`` for all."""
        masks = [mask for cursor in self.cursors.values() if (mask := cursor.feasible()) is not None]
        if not masks:
            return None
        feasible_C = np.ones(size, np.bool_)
        feasible_C[:BYTES] = np.logical_and.reduce(masks)
        return feasible_C

    def _choose(self, q_C: Symbols) -> int:
        allowed_C = None if self.parse is None else np.array(self.parse.allowed(()), np.bool_)
        if not self._may_end:
            going_on_C = q_C > 0 if allowed_C is None else allowed_C & (q_C > 0)
            going_on_C[:BYTES] = True if allowed_C is None else allowed_C[:BYTES]
            going_on_C[-1] = False
            allowed_C = going_on_C if going_on_C.any() else allowed_C
        if allowed_C is not None and (feasible_C := self._feasible(len(q_C))) is not None:
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
        """The members' next cuts, where all write the same and it is allowed; greedy alone asks for them."""
        if not self.text.plan.is_greedy:
            return None
        cuts: list[Cut] = []
        for cursor in self.cursors.values():
            cut = cursor.next_cut(ends=self._may_end)
            if cut is None or (cuts and cut.following != cuts[0].following):
                return None
            cuts.append(cut)
        return cuts if self._allows(cuts[0].following) else None

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
        following = cuts[0].following
        p_K = [cut.p for cut in cuts]
        two_KB2 = [np.array([[p, max(0.0, 1 - p)]]) for p in p_K]
        loss_KB = [[self.text.losses.get(name, 0.0)] for name in self.cursors]
        p = float(self.text.plan.combine(two_KB2, self._weights, loss_KB)[0, 0])
        if isinstance(following, int):
            self.position += 1
            return self._take_class(following, p, p_K)
        self._count(p, p_K)
        self.position += len(following)
        self._piece += following
        for cursor, cut in zip(self.cursors.values(), cuts, strict=True):
            cursor.take_cut(cut)
        for byte in following if self.parse is not None else b"":
            assert self.parse is not None
            self.parse.consume(byte)
        return [self._finish()]

    def _take_class(self, place: int, p: float, p_K: Sequence[float]) -> list[ByteChoice]:
        """Write a mark or END; what stands of a piece before it is a piece."""
        written = self.flush()
        self._note_cuts()
        self._count(p, p_K)
        chosen = self._finish(place)
        is_end = place == len(self._lead.its.marks)
        if self.parse is not None and not is_end:
            self.parse.consume(BYTES + place)
        for cursor in () if is_end else self.cursors.values():
            cursor.take_mark(place)
        return [*written, chosen]

    def _note_cuts(self) -> None:
        if self.text.steps is not None:
            self._cuts = {name: cursor.cuts(TOP_CUTS) for name, cursor in self.cursors.items()}

    def _count(self, p: float, p_K: Sequence[float]) -> None:
        self._p *= p
        for name, its in zip(self.cursors, p_K, strict=True):
            self._p_by_member[name] *= its

    def _finish(self, place: int | None = None) -> ByteChoice:
        following = bytes(self._piece) if place is None else place
        choice = ByteChoice(following, self._walked, self._p, self._p_by_member, self._cuts)
        self._begin_piece()
        return choice

    def _begin_piece(self) -> None:
        self._piece = bytearray()
        self._walked = 0
        self._p = 1.0
        self._p_by_member = dict.fromkeys(self.cursors, 1.0)
        self._cuts = {}


def _within(q_C: Symbols, spelled: Allowed) -> Symbols:
    """A distribution without the bytes that somebody cannot spell."""
    kept_C = q_C * spelled
    total = float(kept_C.sum())
    return kept_C / total if total > 0 else kept_C
