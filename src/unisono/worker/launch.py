"""Run a worker: load the member while answering, serve, and end in time."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable

from unisono.errors import UnisonoError
from unisono.server.http.server import Server
from unisono.server.limits import ServerLimits
from unisono.server.telemetry import say
from unisono.worker.app import WorkerApp
from unisono.worker.metrics import WorkerMetrics
from unisono.worker.served_member import ServedMember
from unisono.worker.service import MemberService


def serve(
    load: Callable[[], ServedMember], bound: socket.socket, limits: ServerLimits, *, token: str | None, idle: float
) -> None:
    """Serve until a signal; a second signal ends the process at once.

    Args:
        load: loads the member, in a thread.
        bound: a listening socket, closed at the end.
        limits: what is taken at the door.
        token: what clients have to say; ``None`` serves this machine alone.
        idle: seconds after which a silent client loses its slots.

    Raises a `UnisonoError` if the member cannot be loaded.
    """
    ended, error = asyncio.run(_serve(load, bound, limits, token, idle))
    if isinstance(error, UnisonoError):
        raise error
    say("ended", clean=ended)
    status = 0 if error is None else 1
    if not ended:  # do not wait for a running load or pass
        sys.stderr.flush()
        os._exit(status)
    if status:
        raise SystemExit(status)


async def _serve(
    load: Callable[[], ServedMember], bound: socket.socket, limits: ServerLimits, token: str | None, idle: float
) -> tuple[bool, BaseException | None]:
    service = MemberService(load, limits, WorkerMetrics(), idle)
    ended = await Server(service, WorkerApp(service, token)).serve_on(bound)
    return ended, service.error
