"""The members of one text in bytes: who is asked, what they say together, and what all of them read."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from unisono.engine.byte_cursor import ByteCursor, BytePath, Cut, Following
from unisono.engine.plan import Plan
from unisono.engine.token_boundary import first_inside
from unisono.errors import ModelError
from unisono.fusion.byte_beam import Ahead
from unisono.fusion.logits_processors import Allowed
from unisono.step_records import GateReading
from unisono.vocab.byte_trie import BYTES

Symbols = NDArray[np.float64]
"""A distribution over 256 bytes, marks and END."""


class ByteVoters:
    """The cursors of all members. Who is not asked misses what is written."""

    def __init__(self, cursors: Mapping[str, ByteCursor], plan: Plan, losses: Mapping[str, float]) -> None:
        """Ask all; ``losses`` tells by member how unlikely it finds the prompt, where weights follow from that."""
        self.cursors = cursors
        self.asked = cursors
        """Those of the members that are asked."""
        self.lead = cursors[plan.lead.name]
        self._plan = plan
        self._losses = losses

    @property
    def are_gated(self) -> bool:
        return self._plan.is_gated and len(self.cursors) > 1

    def ask_lead(self) -> None:
        """Ask the lead alone from here on."""
        self.asked = {self.lead.member.name: self.lead}

    def ask_all(self) -> None:
        """Ask all; those that missed something cut it, and have to be read."""
        for cursor in self.cursors.values():
            cursor.catch_up()
        self.asked = self.cursors

    @property
    def others(self) -> list[ByteCursor]:
        """Those that are not asked."""
        return [cursor for name, cursor in self.cursors.items() if name not in self.asked]

    def unread(self) -> Iterator[tuple[ByteCursor, BytePath]]:
        """The hypotheses of those that are asked of which the models have still to be asked."""
        return ((cursor, path) for cursor in self.asked.values() for path in cursor.unread())

    @property
    def are_read(self) -> bool:
        return not any(True for _ in self.unread())

    def read_gate(self, position: int, tail: bytes, allowed_C: Allowed | None, *, ends: bool) -> GateReading:
        """Whether all are asked at a position, from what the lead's heaviest hypothesis says is next.

        ``tail`` is the end of the text. The gate opens, too, where the lead is blind.
        """
        gate, cut = self._plan.gate, self.lead.next_cut(ends=ends)
        score = gate.score(self.lead.own_next()[None], [position])[0]
        is_blind = cut is None or self.is_blind(allowed_C, ends=ends)
        asked, inside = gate.opens(score) or is_blind, None
        if asked and gate.boundary and cut is not None and not is_blind:
            spellers = {name: its.member.speller for name, its in self.cursors.items() if its is not self.lead}
            inside = first_inside(tail, cut.following if isinstance(cut.following, bytes) else b"", spellers)
        return GateReading(score, gate.parameter or 0.0, asked and inside is None, inside)

    def is_blind(self, allowed_C: Allowed | None, *, ends: bool) -> bool:
        """Whether the lead gives no mass to any byte, mark or END that is allowed and that all can spell."""
        feasible_C = self.feasible(BYTES + len(self.lead.its.marks) + 1)
        masks = [mask_C for mask_C in (allowed_C, feasible_C) if mask_C is not None]
        if ends and not masks:
            return False  # a distribution has mass
        q_C = np.multiply.reduce([self.lead.next_symbols(), *masks])
        return not (q_C if ends else q_C[:-1]).any()

    def next_symbols(self) -> tuple[Symbols, list[Symbols]]:
        """The combined distribution, and each member's that is asked.

        Raises a `ModelError` where nothing is left that has mass.
        """
        q_KC = [cursor.next_symbols() for cursor in self.asked.values()]
        feasible_C = self.feasible(len(q_KC[0]))
        if feasible_C is not None and len(self.cursors) > 1:
            q_KC = [_within(q_C, feasible_C) for q_C in q_KC]
        q_C = self.combined(q_KC)
        if not math.isfinite(total := float(q_C.sum())) or not total > 0:
            raise ModelError(
                "members give mass to no byte that all can spell", hint="`unisono doctor` lists those bytes"
            )
        if feasible_C is not None:
            q_C = q_C / total  # a member may give no mass to what all can spell
        return q_C, q_KC

    def combined(self, q_KC: Sequence[Symbols]) -> Symbols:
        """What those that are asked make together; one that is asked alone decides alone."""
        if len(q_KC) < len(self.cursors):
            return q_KC[0]
        loss_KB = [[self._losses.get(name, 0.0)] for name in self.cursors]
        weights = [self._plan.weights[name] for name in self.cursors]
        return np.asarray(self._plan.combine([its_C[None] for its_C in q_KC], weights, loss_KB)[0])

    def next_cuts(self, *, ends: bool) -> list[Cut] | None:
        """The next cuts of those that are asked, where all write the same, and the others can spell it."""
        cuts: list[Cut] = []
        for cursor in self.asked.values():
            cut = cursor.next_cut(ends=ends)
            if cut is None or (cuts and cut.following != cuts[0].following):
                return None
            cuts.append(cut)
        following = cuts[0].following
        can_read = not isinstance(following, bytes) or all(cursor.can_read(following) for cursor in self.others)
        return cuts if can_read else None

    def would_write(self, symbol: int, *, ends: bool) -> list[str]:
        """Those that are asked and would write a byte, mark or END, were they alone."""
        cuts = {name: cursor.next_cut(ends=ends) for name, cursor in self.asked.items()}
        return [name for name, cut in cuts.items() if cut is not None and cut.first_symbol == symbol]

    def cuts(self, count: int) -> dict[str, list[tuple[Following, float]]]:
        """What each that is asked would write up to its next cut, for a trace."""
        return {name: cursor.cuts(count) for name, cursor in self.asked.items()}

    def feasible(self, size: int) -> Allowed | None:
        """The bytes, marks and END that all members can read next; ``None`` for all."""
        asked = [cursor.feasible() for cursor in self.asked.values()]
        masks = [mask for mask in (*asked, *(each.feasible(later=True) for each in self.others)) if mask is not None]
        if not masks:
            return None
        feasible_C = np.ones(size, np.bool_)
        feasible_C[:BYTES] = np.logical_and.reduce(masks)
        return feasible_C

    def take_byte(self, byte: int, ahead: Ahead | None, *, on_top: bool = False) -> None:
        """Go on behind one more byte; for ``ahead`` and ``on_top`` see `pruned`."""
        for cursor in self.asked.values():
            cursor.take_byte(byte, ahead, on_top=on_top)
        for cursor in self.others:
            cursor.miss(bytes([byte]))

    def take_cuts(self, cuts: Sequence[Cut]) -> None:
        """Go on behind the next cuts of those that are asked."""
        for cursor, cut in zip(self.asked.values(), cuts, strict=True):
            cursor.take_cut(cut)
        for cursor in self.others:
            assert isinstance(cuts[0].following, bytes), "marks are read by all"
            cursor.miss(cuts[0].following)

    def take_mark(self, place: int) -> None:
        """Go on behind a mark, by its place among the classes: all read it, asked or not."""
        for cursor in self.cursors.values():
            cursor.take_mark(place)

    def drop_full(self) -> None:
        """Drop hypotheses that fill their members' contexts, where these have others."""
        for cursor in self.asked.values():
            cursor.drop_full()

    @property
    def are_full(self) -> bool:
        """Whether one of those that are asked cannot be asked any more, as its context is full."""
        return any(cursor.is_full for cursor in self.asked.values())

    def restore(self) -> None:
        """Forget what a failed pass has left."""
        for cursor in self.cursors.values():
            cursor.restore()

    def close_others(self) -> None:
        """Leave each member one slot, that of its heaviest hypothesis."""
        with contextlib.ExitStack() as closing:
            for cursor in self.cursors.values():
                closing.callback(cursor.close_others)


def _within(q_C: Symbols, spelled: Allowed) -> Symbols:
    """A distribution without the bytes that somebody cannot spell."""
    kept_C = q_C * spelled
    total = float(kept_C.sum())
    return kept_C / total if total > 0 else kept_C
