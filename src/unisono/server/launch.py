"""The server's life: it binds, answers while the models load, serves, and ends as it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator

import uvicorn

from unisono.engine.service import Service
from unisono.errors import SpecError, UnisonoError
from unisono.server.app import make_app
from unisono.server.async_engine import AsyncEngine
from unisono.server.limits import ServerLimits
from unisono.server.middleware import Keys
from unisono.server.telemetry import Metrics, say

LAST_WORDS = 5
"""Seconds in which answers that are complete are sent off at the end."""

SHORTLY = 0.5
"""Seconds that a load, which nobody needs any more, is waited for."""


def bind(host: str, port: int) -> socket.socket:
    """Take an address, before anything is loaded. Raises a `SpecError` that says why it cannot be had."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(
            family, socket.SOCK_STREAM, socket.IPPROTO_TCP
        )  # named, or asyncio leaves TCP_NODELAY out
    except OSError as error:
        raise SpecError(f"{host!r} is no address of this machine: {error.strerror}", hint="try 127.0.0.1") from None
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
) -> None:
    """Serve until a signal says to end; a second signal ends at once.

    Args:
        load: loads the models.
        bound: where to listen, of `bind`; it is closed at the end.
        limits: of the server.
        keys: that open it; ``None`` for everybody.
        local: whether it may only be asked for by the names of this machine, see `Middleware`.
        log_prompts: whether what is asked and answered goes to the log.
        gac_model: which model answers the endpoints of the GaC release; ``None`` for no such endpoints.

    Raises:
        UnisonoError: the models cannot be loaded.
        SystemExit: with status 1, when the engine has failed for good.
    """
    engine = AsyncEngine(load, limits, Metrics())
    app = make_app(engine, keys, local=local, log_prompts=log_prompts, gac_model=gac_model)
    server = Server(engine, app)
    ended = server.serve_on(bound)
    if isinstance(engine.error, UnisonoError):
        raise engine.error
    say("ended", clean=ended)
    status = 0 if engine.error is None else 1
    if not ended:  # a load or a pass is under way, and nobody needs it: it is not waited for
        sys.stderr.flush()
        os._exit(status)
    if status:
        raise SystemExit(status)


class Server(uvicorn.Server):
    """Lets the engine drain before connections are closed."""

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

    def serve_on(self, bound: socket.socket) -> bool:
        """Serve until told to end; return whether the engine's thread has ended."""
        return asyncio.run(self._serve_on(bound))

    async def _serve_on(self, bound: socket.socket) -> bool:
        watching = asyncio.create_task(self._watch())
        host, port = bound.getsockname()[:2]
        say("listening", host=host, port=port)
        try:
            await asyncio.create_task(self.serve(sockets=[bound]))
        finally:
            watching.cancel()
        return await self._engine.close(LAST_WORDS if self._engine.models else SHORTLY)

    async def _watch(self) -> None:
        """End when the engine's thread has."""
        await self._engine.over.wait()
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Answer signals in our own way, while uvicorn serves."""
        loop, signals = asyncio.get_running_loop(), (signal.SIGTERM, signal.SIGINT)
        with contextlib.ExitStack() as taken:
            with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):  # not in the main thread
                for number in signals:
                    loop.add_signal_handler(number, self.end, number)
                    taken.callback(loop.remove_signal_handler, number)
            yield

    def end(self, number: int = signal.SIGTERM) -> None:
        """Drain and end; at once when asked again."""
        if self._ending is not None:
            say("interrupted")
            sys.stderr.flush()
            os._exit(128 + number)
        self._ending = asyncio.get_running_loop().create_task(self._end())

    async def _end(self) -> None:
        await self._engine.drain(self._engine.limits.grace)
        self.should_exit = True
