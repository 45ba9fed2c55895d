"""What one step looks at of one text: the place of its next piece, and those behind drafted pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from array_api_compat import array_namespace

from unisono.engine.boundary import REACH, first_inside
from unisono.engine.member import Ask, Cursor, Member
from unisono.engine.passes import Reading
from unisono.engine.text import Text
from unisono.fusion.fold import Array
from unisono.types import GateReading, StepRecord, StepSeconds
from unisono.vocab.union import UnionVocabulary

LONGEST_CHARACTER = 4
"""Bytes of a character in UTF-8, at most."""


class Window:
    """Positions of one text: 0 follows what is written, j follows j drafted pieces more."""

    def __init__(self, text: Text, members: Sequence[Member]) -> None:
        """Begin with position 0 alone."""
        self.text = text
        self.plan = text.plan
        self.drafter: str | None = None
        """Who drafts, if anybody; whether anything was drafted is another matter."""
        self.drafted: list[int] = []
        """Columns of the drafted pieces."""
        self.sure = 1.0
        """The estimated chance that all drafted pieces hold."""
        self.guesses: list[tuple[int, float]] = []
        """By position, the drafting member's own choice and its mass."""
        self.found: list[int] = []
        """Columns that followed the same pieces earlier in the text."""
        self.matched = 0
        """How many pieces were the same."""
        self.gates: list[GateReading] = []
        """By position, as far as the lead has been heard and the pieces before hold."""
        self.lead_choices: list[int] = []
        """By position, the lead's own choice."""
        self.accepted = 0
        """Drafted pieces that were chosen."""
        self.choice: int | None = None
        """The column chosen behind them; ``None`` where a chosen draft ended the text."""
        self.alive = True
        """Whether the position behind the accepted pieces is still to be settled."""
        self.committed: set[str] = set()
        """The members that have gone on from what was chosen."""
        self.opens_answer = text.at_first_piece
        """Whether position 0 is the first piece of an answer."""
        self.settled = 0
        """Positions at which something was chosen."""
        self.opening = not text.pieces
        """Whether nothing was written before: prompts are read."""
        self._records: list[StepRecord] = []
        self._seconds = dict(text.member_seconds)
        self._members = members
        self._readings: dict[str, list[tuple[Reading, int] | None]] = {member.name: [] for member in members}
        for member in members:
            self.cursor(member).begin()

    @property
    def last(self) -> int:
        """The last position."""
        return len(self.drafted)

    @property
    def awaits_lead(self) -> bool:
        """Whether the lead has still to be heard before anybody knows who is asked."""
        return not self.plan.gate.always_open and self.drafter != self.plan.lead.name

    @property
    def reads_gate(self) -> bool:
        """Whether the lead drafts, and its gate is read on the way: what it writes at a shut one is certain."""
        return not self.plan.gate.always_open and self.drafter == self.plan.lead.name

    @property
    def waits(self) -> bool:
        """Whether others have to be asked before the text can go on."""
        return not self.reads_gate or any(gate.asked for gate in self.gates)

    def unread(self, member: Member) -> int:
        """How many ids a member would read to catch up with the draft."""
        cursor = self.cursor(member)
        return len(cursor.ids) - cursor.read

    @property
    def rows_wanted(self) -> int:
        """How many distributions the others would be asked for if the draft ended here."""
        if not self.reads_gate:
            return self.last + 1
        span = self.asked_span()
        return 0 if span is None else span[1] - span[0] + 1

    def cursor(self, member: Member) -> Cursor:
        """The text as a member has it."""
        return self.text.cursors[member.name]

    def fits(self, column: int, union: UnionVocabulary) -> bool:
        """Whether one more drafted piece leaves room: in the limit, and in every member's context."""
        if self.last + 1 >= self.text.room:
            return False
        return all(
            len(self.cursor(member).ids) + len(self._spell(member, column, union)) <= member.backend.facts.context
            for member in self._members
        )

    def draft(self, column: int, union: UnionVocabulary) -> None:
        """Add a drafted piece: one more position."""
        for member in self._members:
            self.cursor(member).draft(self._spell(member, column, union))
        self.drafted.append(column)

    def ask(self, member: Member, first: int, last: int) -> Ask:
        """Ask a member about positions."""
        return Ask(self.cursor(member), first, last, self.opens_answer)

    def heard(self, member: Member, reading: Reading, rows: Sequence[int], first: int) -> None:
        """Note where a member's distributions for positions from ``first`` on are."""
        known = self._readings[member.name]
        known.extend([None] * (first - len(known)))
        known.extend((reading, row) for row in rows)

    def knows(self, member: Member, position: int) -> bool:
        """Whether a member has been heard about a position."""
        known = self._readings[member.name]
        return position < len(known) and known[position] is not None

    def where(self, member: Member, position: int) -> tuple[Reading, int]:
        """The reading and the row of a member's distribution at a position."""
        found = self._readings[member.name][position]
        if found is None:
            raise AssertionError(f"member {member.name!r} was not asked about position {position}")
        return found

    def read_gate(self, score: float, choice: int, union: UnionVocabulary) -> None:
        """Settle from the lead's distribution whether the others are asked at the next position."""
        gate = self.plan.gate
        asked, inside = gate.opens(score), None
        if asked and gate.boundary:
            inside = self._inside(choice, union)
        self.gates.append(GateReading(score, gate.parameter or 0.0, asked and inside is None, inside))
        self.lead_choices.append(choice)

    def asked(self, position: int) -> bool:
        """Whether all members are asked at a position."""
        return self.plan.gate.always_open or self.gates[position].asked

    def reaches(self, position: int) -> bool:
        """Whether a position may turn out to be the text's: the lead's lone choices before it were drafted."""
        if position > self.last:
            return False
        before = zip(self.gates, self.lead_choices, self.drafted, strict=False)
        return all(gate.asked or choice == column for gate, choice, column in before)

    def asked_span(self) -> tuple[int, int] | None:
        """The first and the last position at which all members are asked, as far as that is known."""
        if self.plan.gate.always_open:
            return 0, self.last
        asked = [position for position, gate in enumerate(self.gates) if gate.asked]
        return (asked[0], asked[-1]) if asked else None

    def settle(self, position: int, column: int, piece: bytes | None, *, asked: bool) -> None:
        """Take over what was chosen at a position."""
        text = self.text
        self.settled += 1
        if piece is None:
            text.end("end")
        else:
            text.ensembled += asked
            text.append(piece)
            if text.history is not None:
                text.history.append(column)
        if position < self.last and self.drafted[position] == column:
            self.accepted += 1
            self.alive = text.finish is None
        else:
            self.choice = column
            self.alive = False

    def record(self, step: StepRecord) -> None:
        """Keep the record of a step until its time is known."""
        self._records.append(step)

    def conclude(self, seconds: float) -> None:
        """Count what was drafted, and write the trace, after a step that took so long."""
        text = self.text
        if self.drafted and self.settled:
            text.blocks += 1
            text.drafted += len(self.drafted)
            text.accepted += self.accepted
        if text.steps is not None:
            share = max(1, len(self._records))
            members = {
                name: (spent - self._seconds[name]) / share
                for name, spent in text.member_seconds.items()
                if spent > self._seconds[name]
            }
            split = StepSeconds(seconds / share, members)
            text.steps.extend(replace(record, seconds=split) for record in self._records)

    def _inside(self, choice: int, union: UnionVocabulary) -> str | None:
        """The member inside whose token the text stands, if its lead goes on as it would."""
        position = len(self.gates)
        pieces = [union.piece(column) or b"" for column in self.drafted[:position]]
        text = self.text.tail(REACH + LONGEST_CHARACTER) + b"".join(pieces)
        others = {member.name: member.speller for member in self._members if member is not self.plan.lead}
        return first_inside(text, union.piece(choice) or b"", others)

    def _spell(self, member: Member, column: int, union: UnionVocabulary) -> tuple[int, ...]:
        piece = union.piece(column)
        assert piece is not None, "END is never drafted"
        return member.spell(column, piece)


def rows_at(windows: Sequence[Window], member: Member, position: int) -> Array:
    """A member's distributions ``p_BU`` at one position of several windows."""
    found = [window.where(member, position) for window in windows]
    reading = found[0][0]
    if all(other is reading for other, _ in found):
        return reading.fold([row for _, row in found])
    folded: list[Array] = [None] * len(found)
    for reading in {id(reading): reading for reading, _ in found}.values():
        places = [place for place, (other, _) in enumerate(found) if other is reading]
        p_NU = reading.fold([found[place][1] for place in places])
        for place, p_U in zip(places, p_NU, strict=True):
            folded[place] = p_U
    return array_namespace(folded[0]).stack(folded)
