"""The HTTP server: uvicorn, whose connections are swept when their time is over, and that is sure to end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from types import FrameType
from typing import Any, Protocol

from unisono.server.errors import shutting_down
from unisono.server.http import uvicorn_library as uvicorn
from unisono.server.http.connections import Connections
from unisono.server.http.pacing import Pacer
from unisono.server.http.protocol import HttpProtocol
from unisono.server.limits import ServerLimits
from unisono.server.telemetry import ConnectionMetrics, say, where

BACKLOG = 2048
"""Connections that wait in the kernel to be accepted."""
SWEEP_SECONDS = 0.25
LAST_WORDS = 5
"""Seconds in which complete answers are sent at the end."""
SHORTLY = 0.5
"""Seconds to wait for a load at the end."""
NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Served(Protocol):
    """What a server is in front of. All of it is called in the server's loop."""

    @property
    def limits(self) -> ServerLimits: ...

    @property
    def metrics(self) -> ConnectionMetrics: ...

    @property
    def over(self) -> asyncio.Event:
        """Set once it has ended, by itself or by `close`."""

    @property
    def models(self) -> Sequence[str]: ...

    async def drain(self, grace: float) -> None:
        """Take nothing new, give what runs some seconds to finish, then refuse the rest."""
        ...

    async def close(self, patience: float = ...) -> bool:
        """End, and return whether that took no more than some seconds."""
        ...


class Server(uvicorn.Server):
    """Drains the engine before it closes connections."""

    def __init__(self, engine: Served, app: object) -> None:
        """Raises a `SpecError` if there cannot be as many connections as the engine's limits say."""
        self.connections = Connections(engine.limits, engine.metrics)
        super().__init__(
            uvicorn.Config(
                app,  # type: ignore[arg-type]
                http=partial(HttpProtocol, self.connections, Pacer(), Pacer(), Pacer()),  # type: ignore[arg-type]
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                # asyncio accepts so many at once, and when it cannot, tries as often and waits a second for each
                backlog=1,
                timeout_keep_alive=engine.limits.keep_alive,  # type: ignore[arg-type]
                timeout_graceful_shutdown=LAST_WORDS,
            )
        )
        self._engine = engine
        self._ending: asyncio.Task[None] | None = None
        self._alarm: threading.Timer | None = None

    async def serve_on(self, bound: socket.socket) -> bool:
        """Serve until a signal or the end of the engine; return whether the engine's thread has ended."""
        asyncio.get_running_loop().set_exception_handler(self._failed)
        tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._sweep())]
        try:
            await asyncio.create_task(self.serve(sockets=[bound]))
        finally:
            for task in tasks:
                task.cancel()
        ended = await self._engine.close(LAST_WORDS if self._engine.models else SHORTLY)
        if self._alarm is not None:
            self._alarm.cancel()
        return ended

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        for bound in sockets or ():
            host, port = bound.getsockname()[:2]
            say("listening", host=host, port=port)
        await super().startup(sockets)
        for bound in sockets or ():
            bound.listen(BACKLOG)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.connections.over = True
        self.connections.end_reading(shutting_down())
        await super().shutdown(sockets)

    async def _watch(self) -> None:
        await self._engine.over.wait()
        self.should_exit = True

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.connections.sweep(time.monotonic())

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log what went wrong in the loop; a process without files makes room."""
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            self.connections.no_files()
        else:
            place = None if error is None else where(error)
            say("internal", level=logging.ERROR, doing=context.get("message"), error=place)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals with `end` while uvicorn serves."""
        loop = asyncio.get_running_loop()

        def handle(number: int, _: FrameType | None) -> None:
            self._set_alarm(number)
            loop.call_soon_threadsafe(self.end, number)

        with contextlib.ExitStack() as taken:
            with contextlib.suppress(ValueError):  # not in the main thread
                for number in (signal.SIGTERM, signal.SIGINT):
                    taken.callback(signal.signal, number, signal.signal(number, handle))
            yield

    def _set_alarm(self, number: int) -> None:
        """End the process in time even if the loop is stuck; after a second signal, in a second."""
        seconds = 1.0 if self._alarm is not None else self._engine.limits.grace + 3 * LAST_WORDS
        self._alarm = threading.Timer(seconds, os._exit, (128 + number,))
        self._alarm.daemon = True
        self._alarm.start()

    def end(self, number: int = signal.SIGTERM) -> None:
        """Drain and end; the second time, end at once."""
        if self._ending is not None:
            say("interrupted")
            sys.stderr.flush()
            os._exit(128 + number)
        self._ending = asyncio.get_running_loop().create_task(self._end())

    async def _end(self) -> None:
        self.connections.end_reading(shutting_down())
        await self._engine.drain(self._engine.limits.grace)
        self.should_exit = True
