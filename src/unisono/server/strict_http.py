"""HTTP requests read strictly: what two readers could read in two ways is refused.

A proxy in front of this server and the server must agree on where a request ends (request smuggling), so lengths are
given once and in one way (RFC 9112, sections 2.2, 5.2 and 6).
"""

from __future__ import annotations

import re
from collections.abc import Callable

import h11

HEAD = 16 * 1024
"""The most bytes of a request's line and headers."""
HEADERS = 100
"""The most headers of a request."""

AMBIGUOUS = re.compile(rb"\r(?!\n)|(?<!\r)\n|\n[ \t]")
"""A line end of one character, or a header that goes on in the next line."""
LENGTH = re.compile(rb"\ncontent-length[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE)


class StrictConnection(h11.Connection):
    """h11's reader, stricter, which tells when a request begins and when it is complete."""

    def __init__(self, begins: Callable[[h11.Request], None], complete: Callable[[], None]) -> None:
        super().__init__(h11.SERVER, HEAD)
        self._begins = begins
        self._complete = complete
        self.problem: tuple[int, str] = (400, "this is not an HTTP request")
        """The status and words of the answer, after an error."""

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        before = self.trailing_data[0] if self.their_state is h11.IDLE else b""
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            self.problem = (error.error_status_hint, _words(error))
            raise
        if isinstance(event, h11.Request):
            head = before[: len(before) - len(self.trailing_data[0])]
            if (problem := problem_of(head, event)) is not None:
                self.problem = problem
                raise h11.RemoteProtocolError(problem[1], error_status_hint=problem[0])
            self._begins(event)
        elif isinstance(event, h11.EndOfMessage):
            self._complete()
        return event


def problem_of(head: bytes, request: h11.Request) -> tuple[int, str] | None:
    """Why a request that h11 accepts is refused, as a status and words; ``None`` if it is not."""
    if len(head) > HEAD:
        return 431, f"the request's headers have more than {HEAD} bytes, which is what this server takes"
    if len(request.headers) > HEADERS:
        return 431, f"the request has more than {HEADERS} headers, which is what this server takes"
    if AMBIGUOUS.search(head):
        return 400, "a line of the request's head ends with a single CR or LF, or continues in the next"
    lengths = LENGTH.findall(head)
    if len(lengths) > 1 or (lengths and not lengths[0].strip().isdigit()):
        return 400, "content-length is given more than once, or is not a number"
    if any(name == b"transfer-encoding" for name, _ in request.headers):
        if lengths:
            return 400, "content-length and transfer-encoding are both given"
        if request.http_version < b"1.1":
            return 400, "transfer-encoding is given, which HTTP/1.0 does not know"
    return None


def _words(error: h11.RemoteProtocolError) -> str:
    if error.error_status_hint == 431:
        return f"the request's headers have more than {HEAD} bytes, which is what this server takes"
    if error.error_status_hint == 501:
        return "the request's transfer-encoding is not supported; use chunked"
    return "this is not an HTTP request"  # the error may cite the request
