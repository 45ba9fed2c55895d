"""The sequences of a request: each has its limits, its members' cursors, its bytes and its trace."""

from __future__ import annotations

import codecs
import contextlib
import copy
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from unisono.chat.messages import Prompt
from unisono.constraints.grammar import Parse
from unisono.engine.member import Cursor, Member
from unisono.engine.ngram import NgramIndex
from unisono.engine.plan import Plan
from unisono.records import Finish, Generation, Limits, Seconds, StepRecord, Usage


class TextSequence:
    """A text in the making. The engine writes it; whoever asked for it reads it."""

    def __init__(
        self,
        prompt: Prompt,
        cursors: Mapping[str, Cursor],
        limits: Limits,
        plan: Plan,
        *,
        trace: bool = False,
        likeliest: int = 0,
        seed: int = 0,
    ) -> None:
        """Begin a text.

        Args:
            prompt: what is continued or answered.
            cursors: by member; each holds the ids of the prompt.
            limits: when to stop.
            plan: how it is written.
            trace: whether to keep a record of every step.
            likeliest: how many of the likeliest pieces to keep of every step.
            seed: what its random numbers come from, 0 to 2^64 - 1.
        """
        self.prompt = prompt
        self.cursors = cursors
        self.limits = limits
        self.plan = plan
        self.seed = seed
        self.finish: Finish | None = None
        """Why it ended; ``None`` while it is being written."""
        self.pieces = 0
        self.ensembled = 0
        """Pieces at which all members were asked."""
        self.blocks = 0
        self.drafted = 0
        self.accepted = 0
        self.given: Sequence[int] = ()
        """The columns of what is scored in place of being generated."""
        self.counts: Counter[int] = Counter()
        """How many times each column was written."""
        self.losses: dict[str, float] = {}
        """By member, how unlikely it finds the prompt, in nats a byte; empty where nobody asks."""
        self.history: NgramIndex | None = None
        """What look-up drafts from; ``None`` where nobody does."""
        self.parse: Parse | None = None
        """How far it has come in the grammar that it is bound to; ``None`` where it is free."""
        self.trace = trace
        self.likeliest = likeliest
        self.steps: list[StepRecord] | None = [] if trace or likeliest else None
        self.member_seconds: dict[str, float] = dict.fromkeys(cursors, 0.0)
        self.prompt_tokens = {name: len(cursor.ids) for name, cursor in cursors.items()}
        self._text = Detokenizer(limits.stop)
        self._began = time.perf_counter()
        self._first_piece: float | None = None
        self._ended: float | None = None

    def copy(self, cursors: Mapping[str, Cursor], seed: int | None = None) -> TextSequence:
        """A text that is as this one is now and goes on by itself, in cursors of its own."""
        twin = copy.copy(self)
        twin.cursors = cursors
        twin.seed = self.seed if seed is None else seed
        twin.counts = self.counts.copy()
        twin.history = copy.deepcopy(self.history)
        twin.parse = None if self.parse is None else self.parse.copy()
        twin.steps = None if self.steps is None else list(self.steps)
        twin.member_seconds = dict(self.member_seconds)
        twin._text = copy.deepcopy(self._text)
        return twin

    def become(self, other: TextSequence) -> None:
        """Take over the pieces and the end of another sequence of the same prompt."""
        began = self._began
        for name, value in vars(other).items():
            setattr(self, name, value)
        self._began = began

    @property
    def at_first_piece(self) -> bool:
        """Whether the next piece is the first of an answer."""
        return self.prompt.messages is not None and self.pieces == 0

    @property
    def room(self) -> int:
        """How many pieces may still be written."""
        return self.limits.max_new_tokens - self.pieces

    def tail(self, size: int) -> bytes:
        """The last bytes written, at most ``size``."""
        return self._text.tail(size)

    def append(self, piece: bytes, column: int) -> None:
        """Add a chosen piece; ends the text when it completes a stop string or fills the limit."""
        self.pieces += 1
        self.counts[column] += 1
        if self.history is not None:
            self.history.append(column)
        if self.parse is not None:
            self.parse.consume(column)
        if self._first_piece is None:
            self._first_piece = time.perf_counter()
        self._text.add(piece)
        if self._text.stopped:
            self.end("stop")
        elif self.pieces >= self.limits.max_new_tokens:
            self.end("length")

    def end(self, reason: Finish) -> None:
        """End the text."""
        self.finish = reason
        self._ended = time.perf_counter()

    def take_text(self) -> str:
        """Return what has become safe to show since the last call: whole characters, no stop string."""
        return self._text.take(final=self.finish is not None)

    def generation(self) -> Generation:
        """The finished record; of an unfinished text, what there is of it would be a lie."""
        if self.finish is None or self._ended is None:
            raise RuntimeError("the text is still being written")
        data = self._text.data
        return Generation(
            text=decode_text(data),
            data=data,
            finish_reason=self.finish,
            usage=Usage(
                prompt_tokens=self.prompt_tokens,
                pieces=self.pieces,
                ensembled=self.ensembled,
                blocks=self.blocks,
                drafted=self.drafted,
                accepted=self.accepted,
            ),
            seconds=Seconds(
                total=self._ended - self._began,
                first_piece=(self._first_piece or self._ended) - self._began,
                members=dict(self.member_seconds),
            ),
            seed=None if self.plan.is_greedy else self.seed,
            steps=None if self.steps is None else tuple(self.steps),
        )


def copy_sequence(sequence: TextSequence, members: Sequence[Member], seed: int | None = None) -> TextSequence:
    """A sequence that goes on independently from where another one is, in slots of its own."""
    with contextlib.ExitStack() as opened:
        cursors: dict[str, Cursor] = {}
        for member in members:
            cursors[member.name] = member.copy(sequence.cursors[member.name])
            opened.callback(member.backend.close, cursors[member.name].slot)
        opened.pop_all()
    return sequence.copy(cursors, seed)


def close_sequence(sequence: TextSequence, members: Sequence[Member], *, for_good: bool = False) -> None:
    """Free a sequence's slots, if it has any: all of them, even if a member fails at it.

    Args:
        sequence: that is not generated any more.
        members: of its engine.
        for_good: whether nobody will want to continue it, even if slots are kept.
    """
    with contextlib.ExitStack() as closing:
        for member in members:
            if member.name in sequence.cursors:
                closing.callback(member.close, sequence.cursors[member.name].slot, for_good=for_good)


SEEDS = 2**64
"""Seeds are below it."""


class SequenceGroup:
    """The sequences of one request: the first reads the prompt, the others are copies of it with further seeds."""

    def __init__(self, n: int, first: TextSequence) -> None:
        """Begin with the first of ``n`` sequences, which has slots and its prompt alone."""
        self.n = n
        self.sequences = [first]
        """Those that were asked for, in the order of their seeds; more come once the prompt has been read."""
        self.awaited: set[str] = set()
        """The members that have to read on in it (`Prefill`) before steps advance it."""
        self._open = [first]

    @property
    def open(self) -> list[TextSequence]:
        """The sequences that members read and that hold slots."""
        return self._open

    @property
    def slots(self) -> int:
        """How many slots it may still take of each member."""
        return len(self._open) + self.n - len(self.sequences)

    @property
    def is_finished(self) -> bool:
        """Whether all that was asked for has ended."""
        return len(self.sequences) == self.n and all(sequence.finish is not None for sequence in self.sequences)

    def fork(self, members: Sequence[Member]) -> None:
        """Add the sequences that are missing, as copies of the first, whose prompt has been read. They have slots."""
        first = self.sequences[0]
        while len(self.sequences) < self.n:
            twin = copy_sequence(first, members, (first.seed + len(self.sequences)) % SEEDS)
            self.sequences.append(twin)
            self._open.append(twin)

    def take_ended(self) -> list[TextSequence]:
        """Return the sequences that have ended and still have slots; they no longer count as open."""
        ended = [sequence for sequence in self._open if sequence.finish is not None]
        self._open = [sequence for sequence in self._open if sequence.finish is None]
        return ended


class Detokenizer:
    """Collects the bytes of one text and hands out what is safe to show.

    What might still become a stop string, and an incomplete character at the end, wait.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        """Begin an empty text that ends before the first completed string of ``stop``."""
        self._stops = [text.encode() for text in stop]
        self._reach = max(map(len, self._stops), default=1) - 1
        self._data = bytearray()
        self._shown = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.stopped = False
        """Whether a stop string has been completed."""

    @property
    def data(self) -> bytes:
        """All bytes so far, up to a completed stop string."""
        return bytes(self._data)

    def tail(self, size: int) -> bytes:
        """The last bytes, at most ``size``."""
        return bytes(self._data[-size:]) if size else b""

    def add(self, piece: bytes) -> None:
        """Append a piece; sets `stopped` and cuts the text when it completes a stop string."""
        before = len(self._data)
        self._data += piece
        found = [self._data.find(stop, max(0, before - len(stop) + 1)) for stop in self._stops]
        starts = [start for start in found if start >= 0]
        if starts:
            del self._data[min(starts) :]
            self.stopped = True

    def take(self, *, final: bool = False) -> str:
        """Return the text that has become safe to show since the last call.

        Args:
            final: nothing will follow: the rest is shown, except an incomplete character at its end,
                which no member finished.
        """
        until = len(self._data) if final else len(self._data) - self._waiting()
        fresh = bytes(self._data[self._shown : until])
        self._shown = max(self._shown, until)
        return self._decoder.decode(fresh)

    def _waiting(self) -> int:
        """How many bytes at the end might be the beginning of a stop string."""
        tail = bytes(self._data[-self._reach :]) if self._reach else b""
        for length in range(len(tail), 0, -1):
            if any(stop.startswith(tail[-length:]) for stop in self._stops):
                return length
        return 0


def decode_text(data: bytes) -> str:
    """The text of a finished generation: an incomplete character at the end is left out."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode(data)
