"""Requests that were sent before the answer to the one before them: they take turns, some time apart.

So do the answers to requests that are refused: a client that is refused at once asks again at once.

Each is cheap alone. Thousands at once, on one connection or on many, would leave the event loop no time for others, and
the engine's thread none of Python's lock.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

APART = 0.005
"""Seconds between two turns."""


class Turns:
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
        """Give up one's turn, which others need not wait for."""
        del self._waiting[callback]
        if not self._waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def wait(self) -> None:
        """Wait for a turn."""
        turn = asyncio.get_running_loop().create_future()

        def call() -> None:
            if not turn.done():
                turn.set_result(None)

        self.take(call)
        try:
            await turn
        finally:
            if call in self._waiting:
                self.leave(call)

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
