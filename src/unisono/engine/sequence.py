"""One text in the making: its limits, its members' cursors, its bytes and its trace."""

from __future__ import annotations

import contextlib
import copy
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from unisono.config.speculation import AUTO, NGRAM
from unisono.engine.calls import Calls
from unisono.engine.cursor import Cursor, LatePrompt
from unisono.engine.detokenizer import Detokenizer, ReasoningText, decode_text
from unisono.engine.member import Member
from unisono.engine.ngram import NgramIndex
from unisono.engine.request import PreparedRequest
from unisono.engine.tally import Tally
from unisono.records import Finish, Generation, Seconds
from unisono.step_records import Part, StepRecord
from unisono.vocab.marks import OF_CALLS, SEAMS, Mark
from unisono.vocab.union import UnionVocabulary

SEEDS = 2**64  # seeds are below it
SEED_BITS = 53  # of seeds that are chosen here: they survive where numbers of JSON are read as doubles


class Forks(Protocol):
    """Slots of a text beside those of its cursors."""

    def close_forks(self) -> None:
        """Give them back. The text's cursors are then those that are left."""
        ...


class TextSequence(Tally):
    """A text in the making. The engine writes it; whoever asked for it reads it."""

    def __init__(self, prepared: PreparedRequest, cursors: Mapping[str, Cursor], *, marked: bool) -> None:
        """A text of members that write marks or do not, where nothing is written yet."""
        super().__init__(
            len(prepared.begun), {name: len(cursor.ids) for name, cursor in cursors.items() if cursor.late is None}
        )
        self.request, self.plan = prepared.request, prepared.plan
        self.cursors = cursors
        self.forks: Forks | None = None
        """Where members follow several cuts of the text (`vocabulary: bytes`)."""
        seed = prepared.plan.draw.seed
        self.seed = secrets.randbits(SEED_BITS) if seed is None else seed
        self.finish: Finish | None = None
        self.begun_symbols = 0
        """The bytes and marks that it was given to begin with."""
        self.given = prepared.given
        """The columns of what is scored in place of being generated."""
        self.asked = prepared.asked
        self.losses: dict[str, float] = {}
        """By member, how unlikely it finds the prompt, in nats a byte; empty where nobody asks."""
        self.history: NgramIndex | None = None  # what look-up drafts from
        self.parse = None if prepared.parse is None else prepared.parse.copy()
        """How far it has come in the grammar that it is bound to; ``None`` where it is free."""
        self.steps: list[StepRecord] | None = [] if self.request.records else None
        self.member_seconds: dict[str, float] = dict.fromkeys(cursors, 0.0)
        self.part: Part = "reasoning" if prepared.begins_inside else "answer"
        """What is being written."""
        self.openings = frozenset[str]()
        """The members for which an answer begins here, and which open one in their own way."""
        self.calls = Calls() if self.parse is not None and self.parse.by_seams else None
        """Where it stands in its calls, where these are written by seams."""
        self.stuck = False
        """Whether those who are there gave no mass to what its grammar allows, so that it needs those who are away."""
        self.blind = frozenset[str]()
        """The members of a mixture that gave no mass to what its grammar allows here: others are drawn."""
        self._since_mark = 0  # bytes
        limits, inside = self.request.limits, prepared.begins_inside
        self._text = Detokenizer(limits.stop, stripped=inside, marked=marked, keeps_stop=limits.keep_stop)
        self._reasoning: ReasoningText | None = ReasoningText() if prepared.begins_inside else None
        self._began = time.perf_counter()
        self._first_piece: float | None = None
        self._ended: float | None = None

    def copy(self, cursors: Mapping[str, Cursor], seed: int | None = None) -> TextSequence:
        """A text that is as this one is now and goes on by itself, in cursors of its own."""
        twin = copy.copy(self)
        twin.cursors = cursors
        twin.seed = self.seed if seed is None else seed
        twin._count_apart_from(self)
        twin.history = copy.deepcopy(self.history)
        twin.parse = None if self.parse is None else self.parse.copy()
        twin.steps = None if self.steps is None else list(self.steps)
        twin.member_seconds = dict(self.member_seconds)
        twin._text = copy.deepcopy(self._text)
        twin._reasoning = copy.deepcopy(self._reasoning)
        return twin

    def become(self, other: TextSequence) -> None:
        """Take over the pieces and the end of another sequence of the same prompt."""
        began = self._began
        for name, value in vars(other).items():
            setattr(self, name, value)
        self._began = began

    @property
    def room(self) -> int:
        return self.request.limits.max_new_tokens - self.written

    def tail(self, size: int) -> bytes:
        """The last bytes, as far as no mark stands between."""
        return self._part.tail(min(size, self._since_mark))

    @property
    def _part(self) -> Detokenizer:
        return self._text if self.part == "answer" or self._reasoning is None else self._reasoning

    def append(self, piece: bytes, column: int, mark: Mark | None = None) -> None:
        """Add a chosen piece or mark; ends the text when it completes a stop string or fills the limit."""
        if self.history is not None:
            self.history.append(column)
        if self.parse is not None:
            self.parse.consume(column)
        if self._first_piece is None:
            self._first_piece = time.perf_counter()
        self._add(piece, column, mark)
        self.reasoned += mark is None and self.part == "reasoning"
        if self._text.stopped:
            self.end("stop")
        elif self.written >= self.request.limits.max_new_tokens:
            self.end("length")

    def _add(self, piece: bytes, column: int, mark: Mark | None, *, given: bool = False) -> None:
        self.pieces += 1
        self.counts[column] += 1
        if mark is None:
            self._since_mark += len(piece)
            self.openings = frozenset()
            self._part.add(piece, given=given)
        else:
            self._pass(mark, given=given)

    def begin(self, columns: Sequence[int], members: Sequence[Member], union: UnionVocabulary) -> None:
        """Take what it was given to begin with as written before; its grammar and its prompt are behind that."""
        for column in columns:
            mark = union.mark(column)
            self.begun_symbols += len(union.piece(column) or b"") if mark is None else 1
            self._add(union.piece(column) or b"", column, mark, given=True)
            if mark is not None:
                self.open_behind(mark, members)
        for text in (self._text, self._reasoning):
            if text is not None and columns:
                text.go_on()

    def open_behind(self, mark: Mark, members: Sequence[Member]) -> None:
        """Note for which members an answer begins behind a mark."""
        its, calls = self.openings, self.calls
        openings = (each.name for each in members if each.opens_behind(mark, opening=each.name in its, calls=calls))
        self.openings = frozenset(openings)

    def _pass(self, mark: Mark, *, given: bool) -> None:
        """Go on in another part. A mark in a place where it makes no sense changes nothing that is shown.

        Text that is scored has no parts: a mark is in it as its member's token.
        """
        self._since_mark = 0
        if mark in SEAMS and self.calls is not None:
            self.calls = self.calls.behind(mark)
            self._part.add(self.plan.lead.encoder.seams.text(mark, self.calls.number).encode(), given=given)
        elif self.request.score or (mark in OF_CALLS and self.request.prompt.tools is not None):
            self._part.add(self.plan.lead.markup(mark), given=given)
        elif mark == "reasoning_begin":
            self.part = "reasoning"
            self._reasoning = self._reasoning or ReasoningText()
            self._text.strip()
        elif mark == "reasoning_end":
            self.part = "answer"
            self._text.strip()

    def close_calls(self) -> None:
        """Write what stands behind the last call in the lead's form, which ends with END."""
        if self.calls is not None and self.calls.last == "call_end":
            self._part.add(self.plan.lead.encoder.seams.segments.end.encode())

    def end(self, reason: Finish) -> None:
        self.finish = reason
        self._ended = time.perf_counter()

    def take_text(self) -> str:
        """Return what has become safe to show since the last call: whole characters, no stop string."""
        return self._text.take(final=self.finish is not None)

    def take_reasoning(self) -> str:
        """The same of the reasoning."""
        return "" if self._reasoning is None else self._reasoning.take(final=self.finish is not None)

    def generation(self) -> Generation:
        if self.finish is None or self._ended is None:
            raise RuntimeError("the text is still being written")
        data = self._text.data
        return Generation(
            text=decode_text(data),
            data=data,
            reasoning=None if self._reasoning is None else decode_text(self._reasoning.data),
            finish_reason=self.finish,
            usage=self.usage,
            seconds=Seconds(
                total=self._ended - self._began,
                first_piece=(self._first_piece or self._ended) - self._began,
                members=dict(self.member_seconds),
            ),
            seed=None if self.plan.is_greedy else self.seed,
            steps=None if self.steps is None else tuple(self.steps),
            ended_inside=self.part == "reasoning",
        )


def begin_sequence(prepared: PreparedRequest, members: Sequence[Member], union: UnionVocabulary) -> TextSequence:
    """A sequence of nothing but its prompt and what it was given to begin with, with a slot of every member."""
    plan, ids = prepared.plan, prepared.ids
    # Where the prompt is to be weighed, the members score it in these slots before they read it.
    unread = plan.weighs_prompt

    def cursor_of(member: Member) -> Cursor:
        if member.name not in ids:
            assert prepared.late is not None, "a prompt that no member has left out"
            return Cursor(None, away=True, late=LatePrompt(partial(prepared.late, member)))
        return member.open(list(ids[member.name]), unread=unread, needed=unread or not plan.spares(member))

    cursors = _open_cursors(members, cursor_of)
    sequence = TextSequence(prepared, cursors, marked=bool(union.marks))
    sequence.uncertain = 0 if any(member.is_truncated for member in members) else None
    if prepared.request.prompt.begins_answer and not prepared.begins_inside:
        off = plan.reasoning.off and sequence.calls is None
        sequence.openings = frozenset(each.name for each in members if each.opens(off=off))
    sequence.begin(prepared.begun, members, union)
    if plan.drafter in (NGRAM, AUTO):
        reader = next(member for member in (plan.lead, *members) if member.name in ids)
        column_V = reader.map.column_V
        sequence.history = NgramIndex(union.end, (int(column_V[token]) for token in ids[reader.name]))
    return sequence


def copy_sequence(sequence: TextSequence, members: Sequence[Member], seed: int | None = None) -> TextSequence:
    """A sequence that goes on independently from where another one is, in slots of its own."""
    return sequence.copy(_open_cursors(members, lambda member: member.copy(sequence.cursors[member.name])), seed)


def _open_cursors(members: Sequence[Member], cursor_of: Callable[[Member], Cursor]) -> dict[str, Cursor]:
    """Cursors of all members, or, where one fails, of none."""
    with contextlib.ExitStack() as opened:
        cursors: dict[str, Cursor] = {}
        for member in members:
            cursors[member.name] = cursor_of(member)
            opened.callback(member.close, cursors[member.name], for_good=False)
        opened.pop_all()
    return cursors


def close_sequence(sequence: TextSequence, members: Sequence[Member], *, for_good: bool = False) -> None:
    """Free a sequence's slots, if it has any: all of them, even if a member fails at it.

    Closed ``for_good``, it is not kept for later prompts that begin alike.
    """
    with contextlib.ExitStack() as closing:
        if sequence.forks is not None:
            sequence.forks.close_forks()
        for member in members:
            if member.name in sequence.cursors:
                closing.callback(member.close, sequence.cursors[member.name], for_good=for_good)
