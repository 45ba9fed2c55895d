"""A member in a process of its own: ``python -m unisono.worker.child FILE``.

``FILE`` is the number of a listening socket that was handed down. The first line of the input says, as JSON, which
member is to be served; when the input ends, the process does. What becomes of the loading is told in lines of JSON.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TextIO

from unisono.config.ensemble import load_spec
from unisono.errors import UnisonoError
from unisono.server.limits import ServerLimits, room_for_connections
from unisono.server.telemetry import to_stderr
from unisono.worker.launch import serve
from unisono.worker.served_member import ServedMember, load_member

BODY = 1 << 28
IDLE_SECONDS = 86400.0
"""The parent is the only client, and there is nobody who could want its slots."""
GRACE_SECONDS = 1.0


def main() -> None:
    said = _own_output()
    tell = partial(_tell, said)
    order: dict[str, Any] = json.loads(sys.stdin.readline())
    bound = socket.socket(fileno=int(sys.argv[1]))
    bound.setblocking(False)
    threading.Thread(target=_end_with_input, name="unisono input", daemon=True).start()
    limits = ServerLimits(body=BODY, keep_alive=IDLE_SECONDS, grace=GRACE_SECONDS)
    try:
        room_for_connections(limits)
        with to_stderr():
            serve(partial(_load, order, tell), bound, limits, token=order["token"], idle=IDLE_SECONDS)
    except UnisonoError as error:
        tell({"error": str(error), "hint": error.hint})
        raise SystemExit(1) from None


def _own_output() -> TextIO:
    """The output, which nobody else in this process writes to: a library may print."""
    own = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return own


def _tell(said: TextIO, told: dict[str, Any]) -> None:
    try:
        print(json.dumps(told), file=said, flush=True)
    except OSError:  # the parent listens no longer
        os.kill(os.getpid(), signal.SIGTERM)


def _end_with_input() -> None:
    while sys.stdin.buffer.read(1 << 10):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _load(order: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> ServedMember:
    member = order["member"]
    loaded = load_member(
        load_spec({"members": [member]}),
        member["name"],
        order["slots"],
        lambda name, fraction, words: tell({"doing": words, "fraction": float(fraction)}),
    )
    tell({"ready": True})
    return loaded


if __name__ == "__main__":
    main()
