"""HTTP requests read strictly: what two readers could read in two ways is refused.

A proxy in front of this server and the server must agree on where a request ends (request smuggling), so lengths are
given once and in one way (RFC 9112, sections 2.2, 5.2 and 6). Empty lines before a request (2.2) are passed over, and a
target may be a whole URL, whose host then counts (3.2.2).
"""

from __future__ import annotations

import re
from collections.abc import Callable

import h11
from h11._receivebuffer import ReceiveBuffer

HEAD = 16 * 1024
"""The most bytes of a request's line and headers."""
HEADERS = 100
"""The most headers of a request."""
CHUNKS = 32_768
"""The most chunks of a body: each costs as much to read as a thousand bytes."""
AT_ONCE = 50
"""Chunks that are read before others have their turn."""
EMPTY_LINES = 4
"""The most empty lines before a request; some clients send one after a body."""

NO_TARGET = (400, "the request's target is neither a path nor an http or https URL")
LOOSE = (400, "a line between or after the chunks of the body has a single CR or LF")
AMBIGUOUS = re.compile(rb"\r(?!\n)|(?<!\r)\n|\n[ \t]")
"""A line end of one character, or a header that goes on in the next line."""
WHOLE_URL = re.compile(rb"(?i:https?)://([^/?#@]+)(/[^?#]*)?(\?[^#]*)?")
"""A target in absolute form: host and port, path, and query."""
ORIGIN = re.compile(rb"\norigin[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE)
LENGTH = re.compile(rb"\ncontent-length[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE)


class _Lines(ReceiveBuffer):
    """What has arrived, which tells whether a line in or after a body ended in another way than with CR LF."""

    are_loose = False

    def maybe_extract_next_line(self) -> bytearray | None:
        line = super().maybe_extract_next_line()
        self.are_loose |= line is not None and b"\r" in line[:-2]
        return line

    def maybe_extract_lines(self) -> list[bytearray] | None:
        before = len(self)
        lines = super().maybe_extract_lines()
        if lines is not None:
            self.are_loose |= before - len(self) != sum(len(line) + 2 for line in lines) + 2
        return lines


class StrictConnection(h11.Connection):
    """h11's reader, stricter, which tells when a request begins, when it is complete, and when it needs a rest."""

    def __init__(
        self, begins: Callable[[h11.Request], None], complete: Callable[[], None], rests: Callable[[], None]
    ) -> None:
        """``rests`` is called where many chunks have arrived: nothing is read until `go_on`."""
        super().__init__(h11.SERVER, HEAD)
        self._receive_buffer = self._lines = _Lines()
        self._begins = begins
        self._complete = complete
        self._rests = rests
        self._chunks = self._lately = 0
        """Those of this body, and those that were read since the last rest."""
        self.resting = False
        self._empty = 0
        """Empty lines before this request."""
        self.problem: tuple[int, str] = (400, "this is not an HTTP request")
        """The status and words of the answer, after an error."""
        self.origin: bytes | None = None
        """The page that the request is of, after an error."""

    @property
    def waiting(self) -> int:
        """Bytes that have arrived and are not read: of the next requests, once this one is complete."""
        return len(self._receive_buffer)

    def go_on(self) -> None:
        self.resting, self._lately = False, 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        if self.resting:
            return h11.NEED_DATA
        if self.their_state is not h11.IDLE:
            return self._read(b"")
        if (before := self._without_empty_lines()) == b"\r":
            return h11.NEED_DATA
        return self._read(before)

    def _read(self, before: bytes) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """The next event; of a request, ``before`` begins with its head."""
        try:
            event = super().next_event()
            if isinstance(event, h11.Request):
                event = self._checked(event, before[: len(before) - len(self.trailing_data[0])])
                self._lines.are_loose = False
            elif self._lines.are_loose:
                self.problem = LOOSE
                raise _Refused(LOOSE[1], error_status_hint=LOOSE[0])
            elif isinstance(event, h11.Data) and event.chunk_start:
                self._count_chunk()
        except h11.RemoteProtocolError as error:
            if not isinstance(error, _Refused):
                self.problem = (error.error_status_hint, _words(error))
            self.origin = found[1].strip() if (found := ORIGIN.search(before[:HEAD])) else None
            raise
        if isinstance(event, h11.Request):
            self._empty = self._chunks = 0
            self._begins(event)
        elif isinstance(event, h11.EndOfMessage):
            self._complete()
        return event

    def _count_chunk(self) -> None:
        self._chunks += 1
        self._lately += 1
        if self._chunks > CHUNKS:
            self.problem = 413, f"the request's body has more than {CHUNKS:,} chunks, which is what this server takes"
            raise _Refused(self.problem[1], error_status_hint=413)
        if self._lately >= AT_ONCE:
            self.resting = True
            self._rests()

    def _without_empty_lines(self) -> bytes:
        """What has arrived, from the request's line on."""
        while (arrived := self.trailing_data[0]).startswith(b"\r\n") and self._empty < EMPTY_LINES:
            self._receive_buffer.maybe_extract_at_most(2)  # h11 has no public way, nor for `waiting` a cheap one
            self._empty += 1
        return arrived

    def _checked(self, request: h11.Request, head: bytes) -> h11.Request:
        """The request, with a path as its target. Raises an error where it is refused."""
        problem, found = problem_of(head, request), None
        if not request.target.startswith(b"/") and request.target != b"*" and request.method != b"CONNECT":
            found = WHOLE_URL.fullmatch(request.target)
            problem = problem or (NO_TARGET if found is None else None)
        if problem is not None:
            self.problem = problem
            raise _Refused(problem[1], error_status_hint=problem[0])
        if found is None:
            return request
        host, path, query = found.groups(default=b"")
        headers = [(b"host", host), *(pair for pair in request.headers if pair[0] != b"host")]
        target = (path or b"/") + query
        return h11.Request(method=request.method, target=target, headers=headers, http_version=request.http_version)


class _Refused(h11.RemoteProtocolError):
    """A request that h11 accepts."""


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
