"""Shows a trace to a browser on this machine. Nobody else is answered: a trace holds what somebody asked."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from unisono.errors import SpecError
from unisono.page.files import HEADERS, PageFile, page_files, recorded_start
from unisono.page.trace_reader import Trace

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
"""Host names under which it answers, so that no other site's name can be made to point here."""

FOREIGN = PageFile(b"this program answers only on its own machine", "text/plain")
NOTHING = PageFile(b"there is nothing here", "text/plain")


def trace_server(trace: Trace, port: int = 0) -> ThreadingHTTPServer:
    """A server of the page with a trace, at a port of this machine, 0 for a free one; the caller runs and closes it.

    Raises a `SpecError` where the port is taken.
    """
    paths = {
        "/": recorded_start(),
        "/trace.json": PageFile(trace.to_json().encode(), "application/json"),
        **{f"/page/{name}": file for name, file in page_files().items()},
    }
    try:
        return _Server((HOST, port), _handler(paths))
    except OSError as error:
        words = f"cannot listen on port {port} of {HOST}: {error.strerror}"
        raise SpecError(words, hint="choose another with --port, or leave it out") from None


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that leaves in the middle of an answer, or says nothing for long, is no fault."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def _handler(paths: Mapping[str, PageFile]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_GET(self) -> None:
            file = paths.get(self.path.partition("?")[0])
            if self.headers.get("host", "").partition(":")[0] not in NAMES:
                self._answer(HTTPStatus.FORBIDDEN, FOREIGN)
            elif file is None:
                self._answer(HTTPStatus.NOT_FOUND, NOTHING)
            else:
                self._answer(HTTPStatus.OK, file)

        do_HEAD = do_GET

        def _answer(self, status: HTTPStatus, file: PageFile) -> None:
            self.send_response(status)
            for name, value in {"content-type": file.kind, **HEADERS}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(file.content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(file.content)

        def log_message(self, *words: Any) -> None:
            """Say nothing: what is wrong is said in the page."""

    return Handler
