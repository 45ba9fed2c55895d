"""Run the server: bind, load the models while answering, serve, and shut down gracefully."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence

import uvicorn

from unisono.engine.service import Service
from unisono.errors import SpecError, UnisonoError
from unisono.server.app import make_app
from unisono.server.async_engine import AsyncEngine
from unisono.server.limits import ServerLimits
from unisono.server.middleware import Keys
from unisono.server.telemetry import Metrics, say

LAST_WORDS = 5
"""Seconds in which complete answers are sent at the end."""

SHORTLY = 0.5
"""Seconds to wait for a load at the end."""


def bind(host: str, port: int) -> socket.socket:
    """Listen on an address, before anything is loaded. Raises a `SpecError` that says why that fails."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # asyncio sets TCP_NODELAY only where the protocol is given
        bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise SpecError(f"{host!r} is not an address of this machine: {error.strerror}", hint="try 127.0.0.1") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(2048)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            hint = "choose another with --port, or end the program that has it"
            raise SpecError(f"port {port} of {host} is in use", hint=hint) from None
        raise SpecError(f"cannot listen on port {port} of {host}: {error.strerror}", hint="choose another") from None
    return bound


def serve(
    load: Callable[[], Service],
    bound: socket.socket,
    limits: ServerLimits,
    *,
    keys: Keys | None = None,
    local: bool = False,
    log_prompts: bool = False,
    gac_model: str | None = None,
    origins: Sequence[str] = (),
) -> None:
    """Serve until a signal; a second signal ends the process at once.

    ``bound`` is a socket of `bind`, closed at the end; the other arguments are those of `make_app`. Raises a
    `UnisonoError` if the models cannot be loaded, and exits with status 1 if the engine broke.
    """
    engine = AsyncEngine(load, limits, Metrics())
    app = make_app(engine, keys, local=local, log_prompts=log_prompts, gac_model=gac_model, origins=origins)
    server = Server(engine, app)
    ended = asyncio.run(server.serve_on(bound))
    if isinstance(engine.error, UnisonoError):
        raise engine.error
    say("ended", clean=ended)
    status = 0 if engine.error is None else 1
    if not ended:  # do not wait for a running load or pass
        sys.stderr.flush()
        os._exit(status)
    if status:
        raise SystemExit(status)


class Server(uvicorn.Server):
    """Drains the engine before it closes connections."""

    def __init__(self, engine: AsyncEngine, app: object) -> None:
        super().__init__(
            uvicorn.Config(
                app,  # type: ignore[arg-type]
                http="h11",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=LAST_WORDS,
            )
        )
        self._engine = engine
        self._ending: asyncio.Task[None] | None = None

    async def serve_on(self, bound: socket.socket) -> bool:
        """Serve until a signal or the end of the engine; return whether the engine's thread has ended."""
        watching = asyncio.create_task(self._watch())
        try:
            await asyncio.create_task(self.serve(sockets=[bound]))
        finally:
            watching.cancel()
        return await self._engine.close(LAST_WORDS if self._engine.models else SHORTLY)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        for bound in sockets or ():
            host, port = bound.getsockname()[:2]
            say("listening", host=host, port=port)
        await super().startup(sockets)

    async def _watch(self) -> None:
        await self._engine.thread.over.wait()
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals with `end` while uvicorn serves."""
        loop, signals = asyncio.get_running_loop(), (signal.SIGTERM, signal.SIGINT)
        with contextlib.ExitStack() as taken:
            with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):  # not in the main thread
                for number in signals:
                    loop.add_signal_handler(number, self.end, number)
                    taken.callback(loop.remove_signal_handler, number)
            yield

    def end(self, number: int = signal.SIGTERM) -> None:
        """Drain and end; the second time, end at once."""
        if self._ending is not None:
            say("interrupted")
            sys.stderr.flush()
            os._exit(128 + number)
        self._ending = asyncio.get_running_loop().create_task(self._end())

    async def _end(self) -> None:
        await self._engine.drain(self._engine.limits.grace)
        self.should_exit = True
