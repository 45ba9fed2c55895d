"""A connection for the calls of steps: an answer of megabytes is read into the memory where it stays.

It knows only what a worker answers to a call: a status and a length, then the bytes. Whatever else happens is told as
`Unusual`, and the caller asks again through the pool of all endpoints, which knows the rest of HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import weakref
from collections.abc import Mapping, Sequence
from typing import cast
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import numpy as np
from numpy.typing import NDArray

Memory = NDArray[np.uint8]
HEAD = 1 << 14
"""The most bytes of an answer's head."""
KEPT_SECONDS = 30.0
"""After so long without a call, a connection is made anew: the other side may have closed it."""

_STATUS = re.compile(r"http/1\.1 ([2-5][0-9][0-9])(?: |\Z)")
_DIGITS = re.compile(r"[0-9]{1,18}")


class Unusual(Exception):
    """There is no answer."""


class OtherForm(Unusual):
    """There is one of a form that is not read here."""


class Refused(Exception):
    """There is a whole answer, of another status than 200."""

    def __init__(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.headers = headers
        self.content = content


class Direct:
    """One connection to one address, for one call at a time. All of it runs in the loop that it is first used in."""

    def __init__(self, address: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(address)
        proxied = not {parts.scheme, "all"}.isdisjoint(getproxies())
        self.usable = not proxied or bool(proxy_bypass(parts.hostname or ""))
        """Whether the address is reached without a proxy, and answers in the form that is read here."""
        self._host, self._port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._path = parts.path
        lines = [f"host: {parts.netloc.rpartition('@')[2]}", *(f"{name}: {value}" for name, value in headers.items())]
        self._lines = "\r\n".join(lines)
        self._idle: list[_Connection] = []
        """The one connection, while it is not in use."""
        self._memory = np.empty(0, np.uint8)
        self._used = 0.0

    async def post(self, path: str, kind: str, parts: Sequence[memoryview], most: int) -> memoryview:
        """Post the parts of a body, and return that of the answer, which the next call overwrites.

        Raises `Unusual` and `Refused`.
        """
        loop = asyncio.get_running_loop()
        length = sum(map(len, parts))
        head = f"POST {self._path}{path} HTTP/1.1\r\n{self._lines}\r\ncontent-type: {kind}\r\ncontent-length: {length}"
        connection = self._idle.pop() if self._idle else None
        if connection is not None and (connection.lost or loop.time() - self._used > KEPT_SECONDS):
            connection.transport.abort()
            connection = None
        if connection is None:
            connection = await self._connect(loop)
        try:
            self._memory = await connection.ask(b"".join([head.encode(), b"\r\n\r\n", *parts]), self._memory, most)
        except BaseException as error:  # an answer that comes yet belongs to no call
            connection.transport.abort()
            self.usable = self.usable and not isinstance(error, OtherForm)
            raise
        self._used = loop.time()
        self._idle.append(connection)
        answer = self._memory.data[: connection.length]
        if connection.status != 200:
            raise Refused(connection.status, connection.headers, bytes(answer))
        return answer

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> _Connection:
        try:
            transport, connection = await loop.create_connection(
                lambda: _Connection(loop), self._host, self._port, ssl=self._ssl
            )
        except (OSError, ssl.SSLError) as error:
            raise Unusual from error
        weakref.finalize(self, _end, loop, connection)
        own = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


def _end(loop: asyncio.AbstractEventLoop, connection: _Connection) -> None:
    """Close a connection, from any thread."""
    with contextlib.suppress(RuntimeError):  # of a loop that is closed
        loop.call_soon_threadsafe(connection.transport.abort)


class _Connection(asyncio.BufferedProtocol):
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.length = 0
        """Bytes of the last answer's body."""
        self.status = 0
        self.headers: dict[str, str] = {}
        self.lost = False
        self._loop = loop
        self._head = bytearray(HEAD)
        self._read = 0
        self._body: memoryview | None = None
        self._answer: asyncio.Future[None] | None = None

    async def ask(self, request: bytes, memory: Memory, most: int) -> Memory:
        """Send a request and read its answer into this memory, or into more where that is too small."""
        self._read, self._body, self._memory, self._most = 0, None, memory, most
        self._answer = self._loop.create_future()
        self.transport.write(request)
        await self._answer
        return self._memory

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._answer is None or self._answer.done():
            return memoryview(self._head)
        room = memoryview(self._head) if self._body is None else self._body
        return room[self._read :]

    def buffer_updated(self, count: int) -> None:
        if self._answer is None or self._answer.done():
            self.transport.abort()  # it says more than it was asked
            return
        self._read += count
        if self._body is None:
            end = self._head.find(b"\r\n\r\n", 0, self._read)
            if end < 0:
                if self._read == HEAD:
                    self._fail(OtherForm())
                return
            if not self._begin(bytes(self._head[:end]), memoryview(self._head)[end + 4 : self._read]):
                self._fail(OtherForm())
                return
        if self._read == self.length:
            self._answer.set_result(None)

    def _begin(self, head: bytes, arrived: memoryview) -> bool:
        """Read the head of an answer; return whether it is one that is expected."""
        first, *lines = head.decode("latin-1").lower().split("\r\n")
        pairs = (line.partition(":") for line in lines)
        self.headers = {name: value.strip() for name, _, value in pairs}
        status, length = _STATUS.match(first), self.headers.get("content-length", "")
        if status is None or not _DIGITS.fullmatch(length) or len(self.headers) < len(lines):
            return False
        self.status, self.length = int(status.group(1)), int(length)
        connection = self.headers.get("connection", "keep-alive")
        if "transfer-encoding" in self.headers or "content-encoding" in self.headers:
            return False
        if connection not in ("keep-alive", "close") or not len(arrived) <= self.length <= self._most:
            return False
        self.lost = connection == "close"
        if len(self._memory) < self.length:
            self._memory = np.empty(self.length, np.uint8)
        self._body = self._memory.data[: self.length]
        self._body[: len(arrived)] = arrived
        self._read = len(arrived)
        return True

    def _fail(self, error: Unusual) -> None:
        self.transport.abort()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self._fail(Unusual())
