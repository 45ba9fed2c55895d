"""A connection for the calls of steps, in the thread that asks: an answer of megabytes is read into the memory where it
stays, and no other thread is woken for it.

It is a connection of HTTP that the worker switches to calls (`unisono.worker.steps`). Whatever else happens is told as
`Unusual`, and the caller asks again through the pool of all endpoints, which knows HTTP.
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

import numpy as np
from numpy.typing import NDArray

from unisono.backends.endpoint.proxies import is_here, is_proxied
from unisono.backends.endpoint.worker_frames import ANSWER, CALL, STEPS
from unisono.backends.wire import Buffer

Memory = NDArray[np.uint8]
HEAD = 1 << 14
"""The most bytes of the head in which the worker answers that it switches."""
KEPT_SECONDS = 30.0
"""After so long without a call, a connection is made anew: the other side may have closed it."""
LISTENING_SECONDS = 1.0
"""Between two looks for Ctrl-C, which some systems do not tell to whom waits for bytes."""

_STATUS = re.compile(r"http/1\.1 ([1-5][0-9][0-9])(?: |\Z)")
_NOT_NOW = ("401", "403", "429", "500", "502", "503", "504")
"""What a worker that switches connections may answer at another time."""


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

    def ask(self, parts: Sequence[memoryview], most: int, deadline: float) -> Buffer:
        """Make a call, whose frame has these parts, and return the answer, which the next call overwrites.

        The answer has to be there at a time of `time.monotonic`. Raises `Unusual`, `Refused` and `Late`.
        """
        ...

    def close(self) -> None:
        """Close what is kept between two calls."""
        ...


class Direct:
    """One connection to one address."""

    def __init__(self, address: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(address)
        self.is_near = is_here(address)
        self.usable = not is_proxied(address)
        """Whether the address is reached without a proxy, and switches connections to calls."""
        self._host, self._port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        wanted = {"host": parts.netloc.rpartition("@")[2], "connection": "upgrade", "upgrade": STEPS, **headers}
        lines = [f"GET {parts.path}/v1/steps HTTP/1.1", *(f"{name}: {value}" for name, value in wanted.items())]
        self._request = "\r\n".join([*lines, "", ""]).encode()
        self._kept: _Connection | None = None
        """The one connection, while it is not in use."""
        self._memory = np.empty(0, np.uint8)

    def ask(self, parts: Sequence[memoryview], most: int, deadline: float) -> memoryview:
        connection, self._kept = self._kept, None
        if connection is not None and not connection.lives:
            connection.close()
            connection = None
        try:
            if connection is None:
                connection = self._connect(deadline)
                connection.switch(self._request, deadline)
            self._memory = connection.ask(parts, self._memory, most, deadline)
        except BaseException as error:  # an answer that comes yet belongs to no call
            if connection is not None:
                connection.close()
            self.usable = self.usable and not isinstance(error, OtherForm)
            raise
        self._kept = connection
        answer = self._memory.data[: connection.length]
        if connection.status != 200:
            headers = {"retry-after": str(connection.wait)} if connection.wait else {}
            raise Refused(connection.status, headers, bytes(answer))
        return answer

    def close(self) -> None:
        """Close the connection; the next call makes another one."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

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
        self.status = 0
        """Of the last answer, as are the others."""
        self.wait = 0
        """Seconds after which to try again."""
        self.length = 0
        """Bytes."""
        self._socket = own
        self._head = bytearray(HEAD)
        self._process = os.getpid()
        self._used = time.monotonic()

    @property
    def lives(self) -> bool:
        """Whether another call may be made: it has not been silent for long, and the other side has not closed it, nor
        said more than it was asked. A fork leaves it to its parent.
        """
        recent = time.monotonic() - self._used <= KEPT_SECONDS
        return recent and self._process == os.getpid() and not _is_readable(self._socket)

    def close(self) -> None:
        self._socket.close()

    def switch(self, request: bytes, deadline: float) -> None:
        """Ask for calls on this connection. Raises `OtherForm` where the other side does not know them."""
        self._send([request], deadline)
        at, end = 0, -1
        while end < 0:
            if at == HEAD:
                raise OtherForm
            at += self._read(memoryview(self._head)[at:], deadline)
            end = self._head.find(b"\r\n\r\n", 0, at)
        first, *lines = self._head[:end].decode("latin-1").lower().split("\r\n")
        status = found[1] if (found := _STATUS.match(first)) else ""
        if status in _NOT_NOW:
            raise Unusual
        if status != "101" or f"upgrade: {STEPS}" not in lines or at != end + 4:
            raise OtherForm

    def ask(self, parts: Sequence[memoryview], memory: Memory, most: int, deadline: float) -> Memory:
        """Make a call, and read its answer into this memory, or into more where that is too small."""
        self._send([CALL.pack(sum(part.nbytes for part in parts)), *parts], deadline)
        at, head = 0, memoryview(self._head)
        while at < ANSWER.size:
            at += self._read(head[at:], deadline)
        self.status, self.wait, self.length = ANSWER.unpack_from(head)
        at -= ANSWER.size
        if not at <= self.length <= most:
            raise OtherForm
        if len(memory) < self.length:
            memory = np.empty(self.length, np.uint8)
        body = memory.data[: self.length]
        body[:at] = head[ANSWER.size : ANSWER.size + at]
        while at < self.length:
            at += self._read(body[at:], deadline)
        self._used = time.monotonic()
        return memory

    def _send(self, parts: Sequence[bytes | memoryview], deadline: float) -> None:
        try:
            self._socket.settimeout(_left(deadline))
            self._socket.sendall(b"".join(parts))
        except OSError as error:
            _ = _left(deadline)
            raise Unusual from error

    def _read(self, room: memoryview, deadline: float) -> int:
        while True:
            self._socket.settimeout(min(_left(deadline), LISTENING_SECONDS))
            try:
                count = self._socket.recv_into(room)
            except TimeoutError:
                continue
            except OSError as error:
                raise Unusual from error
            if not count:
                raise Unusual
            return count


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
