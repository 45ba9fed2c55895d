"""A connection for the calls of steps, in the thread that asks: an answer of megabytes is read into the memory where it
stays, and no other thread is woken for it.

It knows only what a worker answers to a call: a status and a length, then the bytes. Whatever else happens is told as
`Unusual`, and the caller asks again through the pool of all endpoints, which knows the rest of HTTP.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import ssl
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import numpy as np
from numpy.typing import NDArray

from unisono.backends.endpoint.row_memory import is_here
from unisono.backends.wire import Buffer

Memory = NDArray[np.uint8]
HEAD = 1 << 14
"""The most bytes of an answer's head."""
KEPT_SECONDS = 30.0
"""After so long without a call, a connection is made anew: the other side may have closed it."""
LISTENING_SECONDS = 1.0
"""Between two looks for Ctrl-C, which some systems do not tell to whom waits for bytes."""

_STATUS = re.compile(r"http/1\.1 ([2-5][0-9][0-9])(?: |\Z)")
_DIGITS = re.compile(r"[0-9]{1,18}")


class Unusual(Exception):
    """There is no answer."""


class OtherForm(Unusual):
    """There is one of a form that is not read here."""


class Late(Exception):
    """There is none in time."""


class Refused(Exception):
    """There is a whole answer, of another status than 200."""

    def __init__(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.headers = headers
        self.content = content


class Steps(Protocol):
    """What carries the calls of steps, for one at a time, in the thread that asks."""

    usable: bool
    """Whether it can be used at all."""
    is_near: bool
    """Whether the other side may be on this machine, as far as the address says so."""

    def post(self, path: str, kind: str, parts: Sequence[memoryview], most: int, deadline: float) -> Buffer:
        """Post the parts of a body, and return that of the answer, which the next call overwrites.

        The answer has to be there at a time of `time.monotonic`. Raises `Unusual`, `Refused` and `Late`.
        """
        ...


class Direct:
    """One connection to one address."""

    def __init__(self, address: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(address)
        self.is_near = is_here(address)
        proxied = not {parts.scheme, "all"}.isdisjoint(getproxies())
        self.usable = not proxied or bool(proxy_bypass(parts.hostname or ""))
        """Whether the address is reached without a proxy, and answers in the form that is read here."""
        self._host, self._port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._path = parts.path
        lines = [f"host: {parts.netloc.rpartition('@')[2]}", *(f"{name}: {value}" for name, value in headers.items())]
        self._lines = "\r\n".join(lines)
        self._kept: _Connection | None = None
        """The one connection, while it is not in use."""
        self._memory = np.empty(0, np.uint8)

    def post(self, path: str, kind: str, parts: Sequence[memoryview], most: int, deadline: float) -> memoryview:
        length = sum(part.nbytes for part in parts)
        head = f"POST {self._path}{path} HTTP/1.1\r\n{self._lines}\r\ncontent-type: {kind}\r\ncontent-length: {length}"
        connection, self._kept = self._kept, None
        if connection is not None and not connection.lives:
            connection.close()
            connection = None
        if connection is None:
            connection = self._connect(deadline)
        try:
            self._memory = connection.ask([head.encode() + b"\r\n\r\n", *parts], self._memory, most, deadline)
        except BaseException as error:  # an answer that comes yet belongs to no call
            connection.close()
            self.usable = self.usable and not isinstance(error, OtherForm)
            raise
        self._kept = connection
        answer = self._memory.data[: connection.length]
        if connection.status != 200:
            raise Refused(connection.status, connection.headers, bytes(answer))
        return answer

    def _connect(self, deadline: float) -> _Connection:
        try:
            made = socket.create_connection((self._host, self._port), max(_left(deadline), 1e-3))
            with contextlib.suppress(OSError):
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                own = made if self._ssl is None else self._ssl.wrap_socket(made, server_hostname=self._host)
            except BaseException:
                made.close()
                raise
        except (OSError, ValueError) as error:  # UnicodeError of a host name is a ValueError
            _ = _left(deadline)
            raise Unusual from error
        weakref.finalize(self, own.close)
        return _Connection(own)


class _Connection:
    def __init__(self, own: socket.socket) -> None:
        self.length = 0
        """Bytes of the last answer's body."""
        self.status = 0
        self.headers: dict[str, str] = {}
        self._socket = own
        self._head = bytearray(HEAD)
        self._process = os.getpid()
        self._used = time.monotonic()
        self._closed = False
        """Whether the other side has said that it closes."""

    @property
    def lives(self) -> bool:
        """Whether another call may be made: it has not been silent for long, and the other side has not closed it, nor
        said more than it was asked. A fork leaves it to its parent.
        """
        recent = time.monotonic() - self._used <= KEPT_SECONDS
        return recent and not self._closed and self._process == os.getpid() and not _is_readable(self._socket)

    def close(self) -> None:
        self._socket.close()

    def ask(self, request: Sequence[bytes | memoryview], memory: Memory, most: int, deadline: float) -> Memory:
        """Send a request and read its answer into this memory, or into more where that is too small."""
        try:
            self._socket.settimeout(_left(deadline))
            self._socket.sendall(b"".join(request))
            arrived = self._read_head(memoryview(self._head), most, deadline)
            if len(memory) < self.length:
                memory = np.empty(self.length, np.uint8)
            body = memory.data[: self.length]
            body[: len(arrived)] = arrived
            at = len(arrived)
            while at < self.length:
                at += self._read(body[at:], deadline)
        except OSError as error:
            _ = _left(deadline)
            raise Unusual from error
        self._used = time.monotonic()
        return memory

    def _read_head(self, room: memoryview, most: int, deadline: float) -> memoryview:
        """Read the head of an answer, and return what has arrived of its body."""
        at, end = 0, -1
        while end < 0:
            if at == HEAD:
                raise OtherForm
            at += self._read(room[at:], deadline)
            end = self._head.find(b"\r\n\r\n", 0, at)
        arrived = room[end + 4 : at]
        if not self._is_expected(bytes(room[:end]), len(arrived), most):
            raise OtherForm
        return arrived

    def _read(self, room: memoryview, deadline: float) -> int:
        while True:
            self._socket.settimeout(min(_left(deadline), LISTENING_SECONDS))
            try:
                count = self._socket.recv_into(room)
            except TimeoutError:
                continue
            if not count:
                raise Unusual
            return count

    def _is_expected(self, head: bytes, arrived: int, most: int) -> bool:
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
        self._closed = connection == "close"
        return connection in ("keep-alive", "close") and arrived <= self.length <= most


def _left(deadline: float) -> float:
    """Seconds until a time. Raises `Late` behind it."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise Late
    return left


def _is_readable(own: socket.socket) -> bool:
    if hasattr(select, "poll"):
        look = select.poll()
        look.register(own, select.POLLIN)
        return bool(look.poll(0))
    return bool(select.select([own], [], [], 0)[0])
