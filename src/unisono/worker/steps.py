"""The calls of steps over a connection that has been switched to them: frames, with their lengths before them.

The heads of HTTP take some 0.3 ms of a call to read and to write. So a client may ask for this once (an upgrade of a
request, which passes the door as any other), and then sends calls one after the other, each when the last one is
answered. A call is `CALL`, and that many bytes of a frame; an answer is `ANSWER`, and that many bytes: the frame, or
what a refusal says in HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Protocol

from unisono.backends.endpoint.worker_frames import ANSWER, CALL
from unisono.server.errors import Refusal
from unisono.server.http.connections import Phase
from unisono.server.middleware import Send, refuse

SHORT = 1 << 16
"""The most bytes of an answer that the thread which has it sends itself, without waking another one."""

Tell = Callable[[Sequence[memoryview]], bool]
"""Sends the parts of an answer from any thread; whether it did."""


class Stream(Protocol):
    """A connection that has been switched."""

    transport: asyncio.Transport

    def phase(self, phase: Phase) -> Refusal | None: ...

    async def write(self, data: bytes | memoryview) -> None: ...


class Steps:
    """Reads the calls of one connection, and answers them one after the other."""

    def __init__(self, stream: Stream, most: int, answer: Callable[[bytes, Send, Tell], Awaitable[None]]) -> None:
        """``most`` is how many bytes a call may have; ``answer`` answers it as an ASGI app does, unless it tells it."""
        self._stream = stream
        self._most = most
        self._answer = answer
        self._arrived = bytearray()
        self._running: _Telling | None = None
        self._task: asyncio.Task[None] | None = None
        self._head = b""

    def take(self, data: bytes) -> None:
        """Take what has arrived. A client that says more than it may is not heard on."""
        if self._running is not None:
            if not self._running.told or len(self._arrived) + len(data) > CALL.size + self._most:
                self._arrived.clear()
                self._running.close()
                self._stream.transport.abort()
            else:  # the client has its answer, and this thread does not know that yet
                self._arrived += data
            return
        refused = None if self._arrived else self._stream.phase(Phase.READING)
        self._arrived += data
        if refused is None and len(self._arrived) < CALL.size:
            return
        length = CALL.unpack_from(self._arrived)[0] if refused is None else 0
        if length > self._most:
            words = f"the request has more than {self._most} bytes, which is what this worker takes"
            refused = Refusal(413, words)
        if refused is None and len(self._arrived) < CALL.size + length:
            return
        body, beyond = bytes(self._arrived[CALL.size : CALL.size + length]), len(self._arrived) > CALL.size + length
        self._arrived = bytearray()
        if refused is None and beyond:
            self._stream.transport.abort()
            return
        self._stream.phase(Phase.SERVED)
        self._running = _Telling(self._stream.transport)
        self._task = asyncio.get_running_loop().create_task(self._run(self._running, body, refused))

    async def _run(self, telling: _Telling, body: bytes, refused: Refusal | None) -> None:
        try:
            if refused is None:
                await self._answer(body, self._send, telling.tell)
            else:
                await refuse(self._send, refused)
            if telling.rest:
                await self._stream.write(telling.rest)
        finally:
            telling.close()
        self._running = None
        if self._stream.transport.is_closing():
            return
        self._stream.phase(Phase.WAITING)
        if refused is not None:  # the rest of the call was not read
            self._stream.transport.close()
        elif self._arrived:
            data, self._arrived = bytes(self._arrived), bytearray()
            self.take(data)

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        """Send what an ASGI app sends; the head with the first bytes of the body."""
        if message["type"] == "http.response.start":
            headers = dict(message["headers"])
            wait = int(headers.get(b"retry-after", 0))
            self._head = ANSWER.pack(message["status"], wait, int(headers[b"content-length"]))
            return
        head, self._head, body = self._head, b"", message["body"]
        await self._stream.write(head + bytes(body) if head else body)


class _Telling:
    """The way of one answer past the event loop, whose waking takes longer than to send what is short.

    The socket is a second handle on the connection's: its number names no other connection, whatever the loop closes
    meanwhile. It is open only while the call runs, as the connection is not closed before. Once it is closed, nothing
    is told.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self.told = False
        self.rest = b""
        """What the connection did not take at once of an answer that was told."""
        self._lock = threading.Lock()
        self._own: socket.socket | None = None
        with contextlib.suppress(OSError):
            if not transport.get_write_buffer_size() and not transport.is_closing():
                self._own = transport.get_extra_info("socket").dup()

    def tell(self, parts: Sequence[memoryview]) -> bool:
        length = sum(part.nbytes for part in parts)
        with self._lock:
            if self._own is None or length > SHORT:
                return False
            self.told = True  # before the client can have it
            answer, sent = b"".join([ANSWER.pack(200, 0, length), *parts]), 0
            with contextlib.suppress(OSError):  # which the loop meets, too
                sent = self._own.send(answer)
            self.rest = answer[sent:]
        return True

    def close(self) -> None:
        with self._lock:
            if self._own is not None:
                self._own.close()
            self._own = None
