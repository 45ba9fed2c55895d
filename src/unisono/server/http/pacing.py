"""Paces cheap requests, so that thousands at once leave time for others: each has its turn, some time after another.

Such are requests that were sent before the answer to the one before them (pipelined), and those that are refused: their
client asks again at once. On one connection or on many, they would leave the event loop no time for others, and the
engine's thread none of Python's lock.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

APART = 0.005
"""Seconds between two turns."""


class Pacer:
    """Calls back one after another, in order. Call its methods in one event loop."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Callable[[], None], None] = OrderedDict()
        self._next = 0.0
        """When the next turn may be."""
        self._timer: asyncio.TimerHandle | None = None

    def take(self, callback: Callable[[], None]) -> None:
        """Call back when it is this one's turn: at once, if nobody has had one lately."""
        self._waiting[callback] = None
        if self._timer is None:
            self._call()

    def leave(self, callback: Callable[[], None]) -> None:
        """Give up one's turn, if it has not come: others need not wait for it."""
        self._waiting.pop(callback, None)
        if not self._waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _call(self) -> None:
        loop = asyncio.get_running_loop()
        self._next = max(loop.time(), self._next)
        self._timer = loop.call_at(self._next, self._turn)

    def _turn(self) -> None:
        self._timer = None
        callback, _ = self._waiting.popitem(last=False)
        self._next += APART
        if self._waiting:
            self._call()
        callback()


class Turn:
    """A turn that a task waits for, as long as anybody wants what it brings."""

    def __init__(self, turns: Pacer) -> None:
        self._turns = turns
        self._over = asyncio.Event()

    async def wait(self) -> None:
        """Wait until it comes, or is given up."""
        self._turns.take(self._over.set)
        try:
            await self._over.wait()
        finally:
            self.give_up()

    def give_up(self) -> None:
        self._turns.leave(self._over.set)
        self._over.set()
