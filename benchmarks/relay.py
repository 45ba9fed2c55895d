"""A stand-in for distance: relays TCP connections to a port of this machine, and holds back each byte for a while."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from typing import Self

CHUNK = 1 << 20


class Relay:
    """Listens on `port`. What one side sends reaches the other half a `delay` (seconds) later, in both directions."""

    def __init__(self, to: int, delay: float) -> None:
        self.delay = delay
        self.calls = 0
        """How often the listening side's clients began to send after they had been answered."""
        self._to = to
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        for each in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                for each in (near, far):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._open += [near, far]
                answered = threading.Event()
                answered.set()
                self._carry(near, far, answered, asks=True)
                self._carry(far, near, answered, asks=False)

    def _carry(self, source: socket.socket, to: socket.socket, answered: threading.Event, *, asks: bool) -> None:
        held: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

        def take() -> None:
            data = b"-"
            while data:
                try:
                    data = source.recv(CHUNK)
                except OSError:
                    data = b""
                if asks and answered.is_set() and data:
                    self.calls += 1
                    answered.clear()
                elif not asks:
                    answered.set()
                held.put((time.perf_counter() + self.delay / 2, data))

        def give() -> None:
            while True:
                due, data = held.get()
                time.sleep(max(0.0, due - time.perf_counter()))
                with contextlib.suppress(OSError):
                    if not data:
                        to.shutdown(socket.SHUT_WR)
                        return
                    to.sendall(data)

        for work in (take, give):
            threading.Thread(target=work, daemon=True).start()
