"""The HTTP server: uvicorn, with limits on connections and their time, strict about requests, and sure to end."""

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
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from functools import partial
from types import FrameType
from typing import Any, Protocol

import h11
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from unisono.server.connections import Connection, Connections, Phase, network_of
from unisono.server.errors import Refusal, shutting_down
from unisono.server.limits import ServerLimits
from unisono.server.middleware import OPEN, REFUSED, App, Receive, Scope, Send, answer_to
from unisono.server.strict_http import StrictConnection
from unisono.server.telemetry import ConnectionMetrics, say, where
from unisono.server.turns import Turn, Turns

BACKLOG = 2048
"""Connections that wait in the kernel to be accepted."""
AHEAD = 1 << 16
"""Bytes of a connection's next requests after which it is not read until they are answered; and those of a body that
nobody reads, because its request has been answered, after which the connection is closed."""
SWEEP_SECONDS = 0.25
PROBE_SECONDS = (0.05, 5.0)
"""The first and the longest time between two probes of a client that has shut down its side."""
LAST_WORDS = 5
"""Seconds in which complete answers are sent at the end."""
SHORTLY = 0.5
"""Seconds to wait for a load at the end."""
LOGGER = logging.getLogger("unisono.server.http")
LOGGER.setLevel(logging.ERROR)  # uvicorn warns of each request that is not HTTP; `Connections` counts them
SWITCH = "unisono.switch"
"""The extension, in the scope of a request that asks for another protocol, that switches its connection."""
NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class _Flow(FlowControl):
    """Reads no more of a connection while enough of its next requests has arrived."""

    def __init__(self, transport: asyncio.Transport, connection: StrictConnection) -> None:
        super().__init__(transport)
        self._connection = connection

    def resume_reading(self) -> None:
        ahead = self._connection.their_state is h11.DONE and self._connection.waiting >= AHEAD
        if not ahead and not self._connection.resting:
            super().resume_reading()


class HttpProtocol(H11Protocol):
    """A connection of uvicorn that `Connections` knows."""

    def __init__(
        self, connections: Connections, turns: Turns, refusals: Turns, malformed: Turns, **options: Any
    ) -> None:
        """``turns`` are those of what has arrived, ``refusals`` of the answers to what is refused, and ``malformed`` to
        what is no HTTP, whose clients may have left unseen.
        """
        super().__init__(**options)
        self.conn = self._strict = StrictConnection(self._begins, self._complete, self._rests)
        self.logger = LOGGER
        self._connections = connections
        self._turns = turns
        self._in_line = False
        """Whether the next request has arrived, and waits for its turn to be read."""
        self._app = self.app
        self._refusals = refusals
        self._malformed = malformed
        self._turn: Turn | None = None
        """What the refusal of a request waits for."""
        self._refused = False
        """Whether a request that is not HTTP waits for its answer."""
        self._unread = 0
        """Bytes of a body that came after its request had been answered, or of what is no HTTP."""
        self._shut = False
        """Whether the client has shut down its side."""
        self._taker: Callable[[bytes], None] | None = None
        """Who reads what comes, once the app has switched the connection to another protocol."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self._strict)
        address = network_of(self.client[0]) if self.client else ""
        self._place = Connection(
            address, self.end, transport.get_write_buffer_size, transport.is_closing, time.monotonic()
        )
        self._connections.add(self._place)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.remove(self._place)
        self._in_line = False
        self._turns.leave(self._go_on)
        self._turns.leave(self._read_on)
        self._refused = False
        self._malformed.leave(self._answer_malformed)
        self._waits_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._connections.starts(self._place, time.monotonic())
        if self._taker is not None:
            self._taker(data)
            return
        if self._refused or (self._strict.their_state is h11.SEND_BODY and self.cycle.response_complete):
            self._unread += len(data)
        if self._unread > AHEAD:
            self.end(None)
        elif not self._refused:
            super().data_received(data)

    def switch(self, protocol: bytes, taker: Callable[[bytes], None]) -> None:
        """Answer 101: from now on, what comes is the taker's, who says what the connection does by `phase`.

        Raises a `Refusal` where the client has sent more than its request.
        """
        if self._strict.waiting or self.conn.states[h11.CLIENT] is not h11.MIGHT_SWITCH_PROTOCOL:  # type: ignore[attr-defined]
            raise Refusal(400, "nothing may follow a request for another protocol", code="invalid_request")
        headers = [(b"connection", b"upgrade"), (b"upgrade", protocol)]
        self.transport.write(
            self.conn.send(h11.InformationalResponse(status_code=101, headers=headers, reason="Switching Protocols"))
        )
        self.cycle.response_started = self.cycle.response_complete = True
        self._taker = taker
        self.phase(Phase.WAITING)
        self.flow.resume_reading()

    def phase(self, phase: Phase) -> Refusal | None:
        """Note what a switched connection does now. Returns the refusal of a call for which there is no room."""
        now = time.monotonic()
        if phase is Phase.READING:
            return self._connections.reads(self._place, now)
        (self._connections.waits if phase is Phase.WAITING else self._connections.serves)(self._place, now)
        return None

    async def write(self, data: bytes | memoryview) -> None:
        """Send bytes of a switched connection, as the client takes them."""
        await self.flow.drain()
        if not self.transport.is_closing():
            self.transport.write(data)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Answer a client that has shut down its side after its request, as long as it is there.

        A client that has left altogether looks the same, until something is sent to it. HTTP/1.0 has nothing that could
        be sent before the answer; such a client has left.
        """
        if self._taker is not None:
            return None
        if self._refused:
            return True
        if (self._place.phase is not Phase.SERVED and not self._in_line) or self.scope["http_version"] != "1.1":
            return None
        self._shut = True
        if not self._in_line:
            self._probe(self.cycle, PROBE_SECONDS[0])
        return True

    def on_response_complete(self) -> None:
        if self.conn.their_state is not h11.SEND_BODY:
            self._connections.waits(self._place, time.monotonic())
        if self.conn.their_state is h11.DONE and self._strict.waiting:
            self._connections.starts(self._place, time.monotonic())
            self._in_line = True
            self._turns.take(self._go_on)
        else:
            self._go_on()

    def _go_on(self) -> None:
        self._in_line = False
        super().on_response_complete()
        if self._shut and self._place.phase is not Phase.SERVED:  # no other request had arrived whole
            self.transport.close()

    def _rests(self) -> None:
        """Read no more of a body in many chunks until it is this connection's turn."""
        self.flow.pause_reading()
        self._turns.take(self._read_on)

    def _read_on(self) -> None:
        self._strict.go_on()
        if not self.transport.is_closing():
            self.handle_events()
            self.flow.resume_reading()

    def send_400_response(self, msg: str) -> None:
        self._connections.malformed()
        self._refused = True
        self._malformed.take(self._answer_malformed)

    def _answer_malformed(self) -> None:
        self._refused = False
        status, words = self._strict.problem
        self._last_answer(Refusal(status, words, code="invalid_request"))
        self.transport.close()

    def shutdown(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        else:
            self.cycle.keep_alive = False

    def timeout_keep_alive_handler(self) -> None:
        self.transport.close()

    def end(self, refusal: Refusal | None) -> None:
        """Close now; what the client has not taken is lost."""
        self._last_answer(refusal)
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def _last_answer(self, refusal: Refusal | None) -> None:
        """Answer in place of the app, unless it has begun, and tell it that the client is gone."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            self._waits_no_more()
        due = self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE)
        if refusal is not None and due and not self.transport.is_closing():
            begun = self.cycle is not None and not self.cycle.response_complete
            scope: Scope = self.cycle.scope if begun else _blank_scope(self._strict.origin)  # type: ignore[assignment]
            self.transport.write(answer_to(self._app, scope, refusal))

    async def _paced(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the app's refusals take turns, but for those that nobody waits for."""
        cycle = self.cycle

        async def sending(message: MutableMapping[str, Any]) -> None:
            is_refusal = message["type"] == "http.response.start" and 400 <= message["status"] < 500
            if is_refusal and not cycle.disconnected:
                self._turn = Turn(self._refusals)
                await self._turn.wait()
            await send(message)

        await self._app(scope, receive, sending)

    def _waits_no_more(self) -> None:
        if self._turn is not None:
            self._turn.give_up()

    def _begins(self, request: h11.Request) -> None:
        self._unread = 0
        path = request.target.partition(b"?")[0].decode("ascii").removesuffix("/")
        refusal = self._connections.reads(self._place, time.monotonic(), always=path in OPEN)
        self.app = self._paced if refusal is None else partial(_refusing, self._app, refusal)

    def _complete(self) -> None:
        done = self.cycle.response_complete if self.conn.our_state is h11.DONE else False
        (self._connections.waits if done else self._connections.serves)(self._place, time.monotonic())
        if self._shut:
            self._probe(self.cycle, PROBE_SECONDS[0])

    def _probe(self, cycle: RequestResponseCycle, seconds: float) -> None:
        if cycle.response_started or cycle.disconnected or self.transport.is_closing():
            return
        # Any client has to pass over it; to one that has left, the next but one write fails.
        self.transport.write(self.conn.send(h11.InformationalResponse(status_code=100, headers=[], reason="Continue")))
        self.loop.call_later(seconds, self._probe, cycle, min(2 * seconds, PROBE_SECONDS[1]))

    def _unsupported_upgrade_warning(self) -> None:
        """Let the app switch to another protocol; a request that it does not switch is answered in this one."""
        self.scope["extensions"] = {SWITCH: {"connection": self}}


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
                http=partial(HttpProtocol, self.connections, Turns(), Turns(), Turns()),  # type: ignore[arg-type]
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


def _blank_scope(origin: bytes | None) -> Scope:
    """What is known of a request that could not be read."""
    headers = [] if origin is None else [(b"origin", origin)]
    return {"type": "http", "method": "", "path": "", "client": None, "headers": headers}


async def _refusing(app: App, refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    scope[REFUSED] = refusal
    await app(scope, receive, send)
