"""What one step looks at of one text: the place of its next piece, and those behind drafted pieces."""

from __future__ import annotations

import copy
from collections import Counter

from unisono.engine.calls import Calls
from unisono.engine.member import Member, Place
from unisono.engine.plan import Bias
from unisono.engine.sequence import TextSequence
from unisono.engine.token_boundary import LONGEST_CHARACTER, REACH, ends_inside_token
from unisono.engine.voting import Asked
from unisono.errors import MemberUnavailable
from unisono.fusion.logits_processors import Allowed
from unisono.step_records import GateReading, StepRecord
from unisono.vocab.union import UnionVocabulary


class StepState(Asked):
    """Positions of one text: 0 follows what is written, j follows j drafted pieces more."""

    def __init__(self, text: TextSequence, members: tuple[Member, ...], union: UnionVocabulary) -> None:
        super().__init__(text, members)
        self.drafter: str | None = None
        self.sure = 1.0  # the estimated chance that all drafted pieces hold
        self.guesses: list[tuple[int, float]] = []  # by position, the drafter's own choice and its mass
        self.found: list[int] = []
        """Columns that followed the same pieces earlier in the text; ``matched`` pieces were the same."""
        self.matched = 0
        self.lead_choices: list[int] = []
        self.accepted = 0  # drafted pieces that were chosen
        self.choice: int | None = None
        """The column chosen after them; ``None`` where a chosen draft ended the text."""
        self.alive = True
        """Whether the position after the accepted pieces is still to be settled."""
        self.stood_back = False
        """Whether it chose nothing, as who could is away."""
        self.settled = 0  # positions at which something was chosen
        self.piece: bytes | None = None
        self.opening = not text.written  # prompts are read
        self._openings = text.openings
        self._calls = text.calls
        self._committed: set[str] = set()
        self.records: list[StepRecord] = []  # of what was chosen, until its time is known; see `trace`
        self.seconds_before = None if text.steps is None else dict(text.member_seconds)
        self._union = union
        self._allowed: dict[int, Allowed] = {}
        self.asked_again: dict[tuple[str, int], tuple[int, tuple[int, ...]]] = {}
        """By truncated member and position, how many of its likeliest ids, and which others, it was asked for again."""
        for cursor in text.cursors.values():
            cursor.ends = [len(cursor.ids)]

    def branch(self, text: TextSequence) -> StepState:
        """The same for a text that is a copy of this one's, before anything is settled."""
        twin = copy.copy(self)
        twin.text, twin._committed, twin.records, twin._allowed = text, set(), [], dict(self._allowed)
        for cursor in text.cursors.values():
            cursor.ends = [len(cursor.ids)]
        return twin

    @property
    def awaits_lead(self) -> bool:
        """Whether the lead has still to be heard before anybody knows who is asked."""
        return self.is_gated and self.drafter != self.plan.lead.name

    @property
    def reads_gate(self) -> bool:
        """Whether the lead drafts, and its gate is read on the way: what it writes at a shut one is certain."""
        return self.is_gated and self.drafter == self.plan.lead.name

    @property
    def waits(self) -> bool:
        """Whether others have to be asked before the text can go on."""
        if self.plan.draw.mixture:
            return not all(self.settles(position) for position in range(self.last + 1))
        return not self.reads_gate or any(gate.asked for gate in self.gates)

    def unread(self, member: Member) -> int:
        cursor = self.cursor(member)
        return len(cursor.ids) - cursor.read

    @property
    def rows_wanted(self) -> int:
        """How many distributions the others would be asked for if the draft ended here."""
        if not self.reads_gate:
            return self.last + 1
        asked = [position for position, gate in enumerate(self.gates) if gate.asked]
        return asked[-1] - asked[0] + 1 if asked else 0

    def fits(self, column: int) -> bool:
        """Whether one more drafted piece is allowed and leaves room, in the limit and in every member's context."""
        if self.last + 1 >= self.text.room:
            return False
        allowed_U = self.allowed(self.last)
        if allowed_U is not None and not allowed_U[column]:
            return False
        return all(
            len(self.cursor(member).ids) + len(self._spell(member, column)) <= member.backend.facts.context
            for member in self.members
        )

    def draft(self, column: int) -> None:
        for member in self.members:
            cursor = self.cursor(member)
            cursor.ids += self._spell(member, column)
            cursor.ends.append(len(cursor.ids))
        self.drafted.append(column)

    def read_gate(
        self, score: float, likeliest: int | None, choice: int, *, certain: bool = True, blind: bool = False
    ) -> None:
        """Settle from the lead's distribution whether the others are asked at the next position.

        ``likeliest`` is ``None`` where that is not certain: a boundary is then not seen. ``choice`` is the column that
        the lead would write, if it were alone; it is ``blind`` where it gives no mass to what the grammar allows, and
        the gate then opens.
        """
        gate = self.plan.gate
        asked, inside = gate.opens(score) or self.awaits_end or blind, None
        if asked and gate.boundary and likeliest is not None and not blind:
            inside = self.inside(likeliest)
        self.gates.append(GateReading(score, gate.parameter or 0.0, asked and inside is None, inside, certain))
        self.lead_choices.append(choice)

    def is_certified(self, position: int) -> bool:
        """Whether the likeliest column is wanted of voters of which one tells its likeliest ids only."""
        return self.plan.is_greedy and any(voter.is_truncated for voter in self.voters(position))

    def is_gate_certain(self, position: int) -> bool:
        return not self.is_gated or self.gates[position].certain

    @property
    def awaits_end(self) -> bool:
        """Whether others have to be asked, because the text is in reasoning, which the lead cannot end."""
        ends = self.plan.lead.ends_reasoning or "reasoning_end" not in self._union.marks
        return self._inside_reasoning and not ends

    def drop_draft(self) -> None:
        """Forget what a member drafted that was lost at it."""
        for member in self.members:
            cursor = self.cursor(member)
            member.cut(cursor, cursor.ends[0])
            del cursor.ends[1:]
        for its in (self.drafted, self.guesses, self.gates, self.lead_choices):
            its.clear()
        self.outputs.pop(str(self.drafter), None)
        self._allowed, self.asked_again = {}, {}
        self.drafter, self.sure = None, 1.0

    def settles(self, position: int) -> bool:
        """Whether the drafting member alone is asked at a position, so that its draft is what is written."""
        known = not self.is_gated or position < len(self.gates)
        return known and not self.combines(position) and self.voters(position)[0].name == self.drafter

    def counts(self, position: int) -> Counter[int]:
        ahead = self.drafted[self.settled : position]
        return self.text.counts + Counter(ahead) if ahead else self.text.counts

    def allowed(self, position: int) -> Allowed | None:
        """The columns that the text's grammar allows at a position; ``None`` where it is free."""
        if self.text.parse is None:
            return None
        if position not in self._allowed:
            self._allowed[position] = self.text.parse.allowed(self.drafted[self.settled : position])
        return self._allowed[position]

    def bias(self, bias: Bias, position: int) -> dict[int, float]:
        return bias.at(self.written(position, bias.reach)) if bias else {}

    def written(self, position: int, size: int) -> bytes:
        """The last bytes before a position: ``size`` of what is written, and what is drafted behind it."""
        ahead = [self._union.piece(column) or b"" for column in self.drafted[self.settled : position]]
        return self.text.tail(size) + b"".join(ahead)

    def reaches(self, position: int) -> bool:
        """Whether a position may turn out to be the text's: the lead's lone choices before it were drafted."""
        if position > self.last:
            return False
        before = zip(self.gates, self.lead_choices, self.drafted, strict=False)
        return all(gate.asked or choice == column for gate, choice, column in before)

    def begins_answer(self, member: Member) -> bool:
        """Whether an answer begins at position 0, which the member reads and writes in its own way."""
        return member.name in self._openings

    def place(self, member: Member, position: int) -> Place | None:
        """Where a position stands for a member, if its ids mean something else there."""
        first = not position and self.begins_answer(member)
        return member.place(self._calls, inside=self._inside_reasoning, first=first)

    def settled_as(self, column: int) -> int:
        """What a choice stands for, by the text's grammar."""
        return column if self.text.parse is None else self.text.parse.settle(column)

    def take(self, position: int, column: int, *, unproved: bool = False) -> None:
        """Write a column; one that is ``unproved`` counts as uncertain."""
        text, piece = self.text, self._union.piece(column)
        text.stuck, text.blind = False, frozenset()
        if unproved:
            text.uncertain = (text.uncertain or 0) + 1
        text.degraded.update(missed := self.missed(position))
        text.unasked.update(unasked := self.unasked(position))
        self.settled += 1
        if piece is None:
            text.close_calls()
            text.end("end")
        else:
            text.ensembled += not missed and not unasked and (self.plan.asks_all or self.combines(position))
            mark = self._union.mark(column)
            text.append(piece, column, mark)
            if mark is not None:
                text.open_behind(mark, self.members)
        if position < len(self.drafted) and self.drafted[position] == column:
            self.accepted += 1
            self.alive = text.finish is None
        else:
            self.choice, self.piece = column, piece
            self.alive = False

    @property
    def may_stand_back(self) -> bool:
        """Whether somebody who was not asked at a position could be."""
        return bool(self.absent) or self.plan.draw.mixture

    def stand_back(self, position: int) -> bool:
        """Choose nothing more in this step, where somebody else could say what the text has to be: of a mixture, a
        member that was not drawn, or one that is away. The next step sees to it.
        """
        blind = {voter.name for voter in self.voters(position)} | (set() if position else self.text.blind)
        if others := self.plan.draw.mixture and self._drawable(blind):
            self.text.blind = frozenset(blind)
        if others or self.absent:
            self.alive, self.stood_back, self.text.stuck = False, True, not others
        return self.stood_back

    def commit(self) -> None:
        """Let every member go on from what was chosen, each with its own ids for it. Done again, it changes nothing."""
        full = False
        for member in self.members:
            cursor = self.text.cursors.get(member.name)
            if cursor is None:  # a candidate of a beam that has ended
                continue
            if member.name not in self._committed:
                end = cursor.ends[self.accepted]
                if len(cursor.ids) > end or cursor.read > end:
                    member.cut(cursor, end)
                if self.choice is not None and self.piece is not None:
                    first = not self.accepted and self.begins_answer(member)
                    cursor.ids += self._spelled(member, self.choice, self.piece, first=first, calls=self._calls)
                    if cursor.read == len(cursor.ids):  # a mark that it does not read: its distribution is as it was
                        member.restore(cursor)
                self._committed.add(member.name)
            full = full or member.is_full(cursor)
        if full and self.text.finish is None:
            self.text.end("context")

    def count_drafts(self) -> None:
        """Count what was drafted, after a step."""
        if self.drafted and self.settled:
            self.text.blocks += 1
            self.text.drafted += len(self.drafted)
            self.text.accepted += self.accepted

    def inside(self, likeliest: int) -> str | None:
        """The member inside whose token the text ends, at the next position whose gate is read."""
        text = self.written(len(self.gates), REACH + LONGEST_CHARACTER)
        following = self._union.piece(likeliest) or b""
        for member in self.members:
            if member is self.plan.lead:
                continue
            try:
                if ends_inside_token(text, following, member.speller):
                    return member.name
            except MemberUnavailable as error:
                self._note_loss(member, error)
        return None

    def _spell(self, member: Member, column: int) -> tuple[int, ...]:
        piece = self._union.piece(column)
        assert piece is not None, "END is never drafted"
        return self._spelled(member, column, piece, first=not self.drafted and self.begins_answer(member))

    def _spelled(
        self, member: Member, column: int, piece: bytes, *, first: bool, calls: Calls | None = None
    ) -> tuple[int, ...]:
        """A piece as a member's ids: where its tokenizer is lost with it, those that its vocabulary shows."""
        try:
            return member.spell(column, piece, first=first, calls=calls)
        except MemberUnavailable as error:
            self._note_loss(member, error)
            return member.spell(column, piece, first=first, calls=calls, unaided=True)

    def _note_loss(self, member: Member, error: MemberUnavailable) -> None:
        """Note that a member's tokenizer does not answer. Raises the error where the text cannot go on without."""
        if not self.plan.spares(member) or self.is_given:
            raise error
        if member.breaker.asks:
            member.breaker.failed(member.name, error)
