"""A small HTTP server in a thread, whose answers tests write, faulty ones among them."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Reply:
    status: int = 200
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    sends: float = 1.0
    """The share of itself that is sent before the connection ends."""
    resets: bool = False
    """Whether the connection is reset in place of an answer."""


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: dict | None


def as_json(value: object, status: int = 200, **headers: str) -> Reply:
    return Reply(status, json.dumps(value).encode(), {"content-type": "application/json", **headers})


RESET = Reply(resets=True)


class StandIn:
    """Answers requests by `answer`; the next ones at a path by what ``faults`` has for it, in order."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.faults: dict[str, list[Reply | Callable[[Request], Reply]]] = {}
        self.url = ""
        self._lock = threading.Lock()

    def answer(self, request: Request) -> Reply:
        raise NotImplementedError

    def asked(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path.partition("?")[0] == path]

    def reply(self, request: Request) -> Reply:
        with self._lock:
            self.requests.append(request)
            waiting = self.faults.get(request.path, [])
            fault = waiting.pop(0) if waiting else None
        if fault is not None:
            return fault if isinstance(fault, Reply) else fault(request)
        return self.answer(request)

    @contextlib.contextmanager
    def serve(self, port: int = 0) -> Iterator[str]:
        """Serve at a free port of loopback; yields the address."""
        server = _Server(("127.0.0.1", port), _handler(self))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield self.url
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections that tests break are no news."""


def _handler(stand_in: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = stand_in.reply(Request(self.command, self.path, headers, body))
            if reply.resets:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close()
                return
            headers = {"content-length": str(len(reply.content)), **reply.headers}
            lines = [f"HTTP/1.1 {reply.status} .", *(f"{name}: {value}" for name, value in headers.items())]
            data = "\r\n".join([*lines, "", ""]).encode() + reply.content
            if reply.sends < 1:
                data = data[: int(len(data) * reply.sends)]
                self.close_connection = True
            self.wfile.write(data)  # at once: a second write would wait for the first to be acknowledged

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    return Handler
