"""Run the server: bind, load the models while answering, serve, and shut down gracefully."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from collections.abc import Callable, Sequence

from unisono.engine.service import Service
from unisono.errors import SpecError, UnisonoError
from unisono.server.app import make_app
from unisono.server.async_engine import AsyncEngine
from unisono.server.http.server import BACKLOG, Server
from unisono.server.limits import ServerLimits
from unisono.server.middleware import Keys
from unisono.server.telemetry import Metrics, say


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
        bound.listen(BACKLOG)
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
