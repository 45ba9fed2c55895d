"""Requests that were sent before the answer to the one before them: they take turns, some time apart.

Each is cheap alone. Thousands at once, on one connection or on many, would leave the event loop no time for others, and
the engine's thread none of Python's lock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

APART = 0.005
"""Seconds between two turns."""


class Turns:
    """Calls back one after another, in order. Call its methods in one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._next = 0.0
        """When the next turn may be."""

    def take(self, callback: Callable[[], None]) -> None:
        """Call back when it is this one's turn: at once, if nobody has had one lately."""
        self._waiting.append(callback)
        if len(self._waiting) == 1:
            self._call()

    def _call(self) -> None:
        loop = asyncio.get_running_loop()
        self._next = max(loop.time(), self._next)
        loop.call_at(self._next, self._turn)

    def _turn(self) -> None:
        callback = self._waiting.popleft()
        self._next += APART
        if self._waiting:
            self._call()
        callback()
