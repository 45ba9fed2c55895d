"""Texts as one member has them, and the slots of its model that they take."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from unisono.backends.base import Array, Backend, Feed, PrefixStore, Slot, TopLogprobs, model_of
from unisono.engine.circuit_breaker import CircuitBreaker
from unisono.errors import MemberUnavailable


@dataclass(slots=True, eq=False)
class LatePrompt:
    """The prompt of a text whose member was away when it was to be encoded. Copies of the text share it."""

    encode: Callable[[], list[int]]
    """Gives its ids. Raises a `MemberUnavailable`, or why the member cannot read it at all."""
    coming: Future[list[int]] | None = None
    """Its ids, once they have been asked for."""
    refused: Exception | None = None
    """Why the member cannot read it: the text goes on without the member to its end."""


@dataclass(slots=True)
class Cursor:
    """One text as one member has it: the log of its ids, and how far the model has read.

    Within a step the log may go on with drafted pieces: position 0 follows what is written, position j
    follows j drafted pieces more.
    """

    held: Slot | None
    """Its slot; ``None`` where the model was away when one was to be opened, or has lost it."""
    ids: list[int] = field(default_factory=list)
    """The truth about this text; only ever appended to, or cut back to a position."""
    read: int = 0
    """How many of them the model has read; the others go in as one block."""
    ends: list[int] = field(default_factory=list)  # by position, how many ids stand before it
    away: bool = False
    """Whether the text goes on without this member, which is lost, or back and has much to read."""
    late: LatePrompt | None = None
    """The prompt, where the member has still to encode it: ``ids`` are what has been written alone."""

    @property
    def slot(self) -> Slot:
        if self.held is None:
            raise AssertionError("a member is asked about a text of which it holds nothing")
        return self.held


class SlotHolder:
    """A member as it reads: the slots of its model, which may be lost for a while."""

    def __init__(
        self,
        name: str,
        backend: Backend,
        prefixes: PrefixStore | None,
        breaker: CircuitBreaker | None,
        *,
        degrades: bool,
    ) -> None:
        self.name = name
        self.backend = backend
        self.model = model_of(backend)
        """Which loaded model it is: the same number for members that share one."""
        self.adapter: str | None = getattr(backend, "adapter", None)
        """What it adds to the model's weights."""
        self.is_truncated = backend.facts.truncated is not None
        """Whether it tells its likeliest ids only."""
        self.prefixes = prefixes
        self.breaker = breaker or CircuitBreaker()
        self.degrades = degrades
        """Whether texts go on without it while it is away."""

    def open(self, ids: list[int], *, unread: bool = False, needed: bool = True) -> Cursor:
        """A cursor over a new text, in a slot that holds a beginning of it, or nothing if ``unread``.

        A text by which the member is not ``needed`` begins without it while it is away.
        """
        cursor = Cursor(None, ids, away=not needed and not self.breaker.asks)
        if not cursor.away:
            with contextlib.nullcontext() if needed else self._letting_go(cursor):
                self._take_slot(cursor, unread=unread)
        return cursor

    def reopen(self, cursor: Cursor) -> None:
        """Give a cursor a slot, if it holds none. Raises a `MemberUnavailable`."""
        if cursor.held is None:
            self.breaker.check(self.name)
            self._take_slot(cursor)

    def reopen_before(self, cursor: Cursor, end: int) -> None:
        """Give a cursor a slot that has read less than its first ``end`` ids, so that what they tell can be had.

        It may have read them: in this step for a later position, or as a prefix that was kept, drafts included.
        Raises a `MemberUnavailable`.
        """
        self.reopen(cursor)
        if cursor.read < end:
            return
        try:
            self.backend.rewind(cursor.slot, end - 1)
        except MemberUnavailable as error:
            self.breaker.failed(self.name, error)
            self.close(cursor, for_good=True)
            cursor.read = 0
            raise
        cursor.read = end - 1

    def _take_slot(self, cursor: Cursor, *, unread: bool = False) -> None:
        try:
            if unread or self.prefixes is None:
                cursor.held, cursor.read = self.backend.open(), 0
            else:
                cursor.held, cursor.read = self.prefixes.resume(cursor.ids)
        except MemberUnavailable as error:
            self.breaker.failed(self.name, error)
            raise

    def close(self, cursor: Cursor, *, for_good: bool) -> None:
        """Give a slot back. What it has read may be kept for later prompts, unless it is closed for good."""
        slot, cursor.held = cursor.held, None
        if slot is None:
            return
        with contextlib.suppress(MemberUnavailable):  # who is lost holds nothing that could be freed from here
            if for_good and self.prefixes is not None:
                self.prefixes.discard(slot)
            else:
                self.backend.close(slot)

    def copy(self, cursor: Cursor) -> Cursor:
        """A cursor over the same text that goes on by itself; what was read is not read again."""
        twin = Cursor(None, list(cursor.ids), away=cursor.away, late=cursor.late)
        if cursor.held is not None:
            with self._letting_go(twin):
                twin.held, twin.read = self.backend.open(copy_of=cursor.held), cursor.read
        return twin

    def advance(self, feeds: Sequence[Feed]) -> Array | TopLogprobs:
        """One pass of its model. While its breaker is open it is not asked: that is a `MemberUnavailable` at once."""
        with self.breaker.asking(self.name, self.backend.facts.device):
            return self.backend.advance(feeds)

    def cut(self, cursor: Cursor, length: int) -> None:
        """Forget all ids but the first ``length``."""
        del cursor.ids[length:]
        if cursor.read > length:
            self._rewind(cursor, length)

    def restore(self, cursor: Cursor) -> None:
        """Forget the last id, so that its distribution can be had again, and what a failed pass has left."""
        self._rewind(cursor, min(cursor.read, len(cursor.ids) - 1))

    def lose(self, cursor: Cursor) -> None:
        """Let its text go on without this member for now; what a failed pass has left is forgotten."""
        cursor.away = True
        self._rewind(cursor, cursor.read)

    def _rewind(self, cursor: Cursor, length: int) -> None:
        if cursor.held is not None:
            with self._letting_go(cursor):
                self.backend.rewind(cursor.held, length)
                cursor.read = length

    @contextlib.contextmanager
    def _letting_go(self, cursor: Cursor) -> Iterator[None]:
        """Do something with a slot; where the model is lost at it, all of the text is read in a new one later."""
        try:
            yield
        except MemberUnavailable as error:
            self.breaker.failed(self.name, error)
            if not self.degrades:
                raise
            self.close(cursor, for_good=True)
            cursor.read, cursor.away = 0, True
