"""One text that is being written: its limits, its members' cursors, its bytes and its trace."""

from __future__ import annotations

import time
from collections.abc import Mapping

from unisono.engine.assembler import TextAssembler, decode_text
from unisono.engine.member import Cursor
from unisono.engine.ngram import NgramIndex
from unisono.engine.plan import Plan
from unisono.types import Finish, Generation, Limits, Seconds, StepRecord, Usage


class Text:
    """A text in the making. The engine writes it; whoever asked for it reads it."""

    def __init__(
        self, cursors: Mapping[str, Cursor], limits: Limits, plan: Plan, *, is_answer: bool, trace: bool = False
    ) -> None:
        """Begin a text.

        Args:
            cursors: by member; each holds the ids of the prompt.
            limits: when to stop.
            plan: how it is written.
            is_answer: whether this answers a conversation, rather than continuing raw text.
            trace: whether to keep a record of every step.
        """
        self.cursors = cursors
        self.limits = limits
        self.plan = plan
        self.is_answer = is_answer
        self.finish: Finish | None = None
        """Why it ended; ``None`` while it is being written."""
        self.pieces = 0
        self.ensembled = 0
        """Pieces at which all members were asked."""
        self.blocks = 0
        self.drafted = 0
        self.accepted = 0
        self.history: NgramIndex | None = None
        """What look-up drafts from; ``None`` where nobody does."""
        self.steps: list[StepRecord] | None = [] if trace else None
        self.member_seconds: dict[str, float] = dict.fromkeys(cursors, 0.0)
        self._prompt_tokens = {name: len(cursor.ids) for name, cursor in cursors.items()}
        self._text = TextAssembler(limits.stop)
        self._began = time.perf_counter()
        self._first_piece: float | None = None
        self._ended: float | None = None

    @property
    def at_first_piece(self) -> bool:
        """Whether the next piece is the first of an answer."""
        return self.is_answer and self.pieces == 0

    @property
    def room(self) -> int:
        """How many pieces may still be written."""
        return self.limits.max_new_tokens - self.pieces

    def tail(self, size: int) -> bytes:
        """The last bytes written, at most ``size``."""
        return self._text.tail(size)

    def append(self, piece: bytes) -> None:
        """Add a chosen piece; ends the text when it completes a stop string or fills the limit."""
        self.pieces += 1
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
                prompt_tokens=self._prompt_tokens,
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
            steps=None if self.steps is None else tuple(self.steps),
        )
