"""A connection: uvicorn's, strict about requests, with limits on what is read ahead, and known to `Connections`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, MutableMapping
from functools import partial
from typing import Any

import h11

from unisono.server.errors import Refusal
from unisono.server.http.connections import Connection, Connections, Phase, network_of
from unisono.server.http.pacing import Pacer, Turn
from unisono.server.http.strict import StrictConnection
from unisono.server.http.uvicorn_library import FlowControl, H11Protocol, RequestResponseCycle
from unisono.server.middleware import OPEN, REFUSED, App, Receive, Scope, Send, answer_to

AHEAD = 1 << 16
"""Bytes of a connection's next requests after which it is not read until they are answered; and those of a body that
nobody reads, because its request has been answered, after which the connection is closed."""
PROBE_SECONDS = (0.05, 5.0)
"""The first and the longest time between two probes of a client that has shut down its side."""
LOGGER = logging.getLogger("unisono.server.http")
LOGGER.setLevel(logging.ERROR)  # uvicorn warns of each request that is not HTTP; `Connections` counts them
SWITCH = "unisono.switch"
"""The extension, in the scope of a request that asks for another protocol, that switches its connection."""


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
        self, connections: Connections, turns: Pacer, refusals: Pacer, malformed: Pacer, **options: Any
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


def _blank_scope(origin: bytes | None) -> Scope:
    """What is known of a request that could not be read."""
    headers = [] if origin is None else [(b"origin", origin)]
    return {"type": "http", "method": "", "path": "", "client": None, "headers": headers}


async def _refusing(app: App, refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    scope[REFUSED] = refusal
    await app(scope, receive, send)
