"""What the backend needs of an engine: sessions that read chunks of ids, and rows on a board."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from unisono.backends.vllm.board import RowBoard


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one session reads in a pass."""

    session: str
    """A new one where ``fresh``, else one that waits for ids."""
    ids: Sequence[int]
    new: int
    """How many of them are not of what its slot held before."""
    row: int
    """Where on the board the first wanted row is to be."""
    wanted: int
    """Rows of so many last ids."""
    ticket: int
    """The stamp of its rows."""
    fresh: bool = False
    uncached: bool = False
    """Of a fresh one: whether all ids are computed, though the engine may have read them in another session."""


class Step(NamedTuple):
    answered: Sequence[str]
    """The sessions whose chunks have been read."""
    moved: bool
    """Whether the engine computed something, or may be about to."""


class Core(Protocol):
    """An engine. A session holds what it has read until it is ended, and counts against `sessions` while it waits."""

    board: RowBoard
    device: str
    sessions: int
    """The most at once."""
    context: int
    """Tokens that a session may hold."""
    tokens: int
    """Tokens that all sessions may hold together."""
    blocks: bool
    """Whether rows of several ids of a chunk can be wanted; else of its last one."""

    def admit(self, chunks: Sequence[Chunk]) -> None:
        """Let the engine read chunks of different sessions in one pass, as far as it has room."""
        ...

    def step(self) -> Step:
        """Let it go on with what was admitted. Raises a `ModelError` where it has failed."""
        ...

    def end(self, sessions: Sequence[str]) -> None:
        """End sessions, and what they have been given to read."""
        ...

    def shut_down(self) -> None: ...
