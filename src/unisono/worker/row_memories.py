"""The memories in which this worker leaves rows for clients of its machine: who has one, and how many there are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from unisono.backends.base import Array
from unisono.backends.endpoint.row_memory import LARGEST, POSSIBLE, MadeMemory
from unisono.backends.endpoint.worker_frames import Call

MOST = 8
"""The most memories at once; the rows of more clients are sent."""


class RowMemories:
    """One for each client that can open it. One thread calls all of it."""

    def __init__(self, lives: Callable[[str], bool]) -> None:
        """``lives`` tells whether there is a session of a name: its memory ends with it."""
        self._lives = lives
        self._of: dict[str, MadeMemory] = {}

    def __len__(self) -> int:
        return len(self._of)

    def leave(self, call: Call, rows_NV: Array) -> str | None:
        """Leave rows in the memory that a call names, if there is room; return its name, or ``None``."""
        memory = self._of.get(call.session)
        if memory is None or call.memory != memory.name or 4 * rows_NV.shape[0] * rows_NV.shape[1] > memory.size:
            return None
        memory.write(rows_NV)
        return memory.name

    def offer(self, call: Call) -> tuple[int, int, str, int] | None:
        """What a client is told of its memory, if it can open one and has none; one is made where there is room."""
        known = self._of.get(call.session)
        if call.memory is None or (known is not None and call.memory == known.name):
            return None
        if known is None and POSSIBLE:
            self.prune()
            with contextlib.suppress(OSError):
                if len(self._of) < MOST:
                    known = self._of[call.session] = MadeMemory(LARGEST)
        return None if known is None else known.offer

    def prune(self) -> None:
        """End those of sessions that have ended."""
        for session in [each for each in self._of if not self._lives(each)]:
            self._of.pop(session).close()

    def close(self) -> None:
        while self._of:
            self._of.popitem()[1].close()
