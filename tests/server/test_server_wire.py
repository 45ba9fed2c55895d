"""What is on the wire: requests that two readers could read in two ways, hosts, half-closed sockets, and the log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import struct
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.server import ServerState

from support.fakes import make_fakes
from support.real_server import Served, serving
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.server.hosts import is_local, read_host
from unisono.server.http.connections import Connections, Phase
from unisono.server.http.pacing import APART, Pacer, Turn
from unisono.server.http.protocol import AHEAD, HttpProtocol
from unisono.server.http.strict import EMPTY_LINES, HEAD, HEADERS
from unisono.server.limits import ServerLimits
from unisono.server.telemetry import CUT, JsonLines, Metrics

START = b"POST /v1/completions HTTP/1.1\r\n"
HOST = b"host: localhost\r\n"
TYPE = b"content-type: application/json\r\n"
BODY = json.dumps({"model": "duo", "prompt": "the cat", "max_tokens": 3}).encode()
LENGTH = b"content-length: %d\r\n" % len(BODY)
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    make_fakes()
    with serving(local=True) as served:
        yield served


def slow_down(served: Served, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let each pass of the first member take so much longer."""
    backend = served.service.engines["duo"].members[0].backend
    advance = backend.advance
    monkeypatch.setattr(backend, "advance", lambda feeds: time.sleep(seconds) or advance(feeds))


@pytest.fixture
def slow(served: Served, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    return partial(slow_down, served, monkeypatch)


def connect(served: Served) -> socket.socket:
    host, port = served.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), 10)


def exchange(served: Served, data: bytes, *, shut: bool = False) -> bytes:
    """All that is answered until the server closes the connection."""
    with connect(served) as connection:
        connection.sendall(data)
        if shut:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer


CHUNKED = START + HOST + TYPE + b"transfer-encoding: chunked\r\n\r\n"
WRONG = {
    "length and coding": (START + HOST + TYPE + LENGTH + b"transfer-encoding: chunked\r\n\r\n" + CHUNKS, 400),
    "coding and length": (START + HOST + TYPE + b"Transfer-Encoding: chunked\r\n" + LENGTH + b"\r\n" + CHUNKS, 400),
    "two lengths": (START + HOST + TYPE + LENGTH + b"content-length: 3\r\n\r\n" + BODY, 400),
    "one length twice": (START + HOST + TYPE + LENGTH + LENGTH + b"\r\n" + BODY, 400),
    "a list of lengths": (START + HOST + TYPE + b"content-length: 3, 3\r\n\r\nabc", 400),
    "a length with a sign": (START + HOST + TYPE + b"content-length: +3\r\n\r\nabc", 400),
    "a length of none": (START + HOST + TYPE + b"content-length: \r\n\r\n", 400),
    "a length with a blank": (START + HOST + TYPE + b"content-length : 3\r\n\r\nabc", 400),
    "a long length": (START + HOST + TYPE + b"content-length: " + b"9" * 40 + b"\r\n\r\nabc", 400),
    "two codings": (START + HOST + TYPE + b"transfer-encoding: chunked\r\n" * 2 + b"\r\n" + CHUNKS, 501),
    "another coding": (START + HOST + TYPE + b"transfer-encoding: gzip, chunked\r\n\r\n" + CHUNKS, 501),
    "a coding in HTTP/1.0": (
        START.replace(b"1.1", b"1.0") + HOST + TYPE + b"transfer-encoding: chunked\r\n\r\n" + CHUNKS,
        400,
    ),
    "a folded header": (START + HOST + TYPE + b"x: a\r\n b\r\n" + LENGTH + b"\r\n" + BODY, 400),
    "bare LF": (START + HOST + b"x: a\n" + TYPE + LENGTH + b"\r\n" + BODY, 400),
    "only LF": ((START + HOST + TYPE + LENGTH + b"\r\n").replace(b"\r\n", b"\n") + BODY, 400),
    "bare CR": (START + HOST + b"x: a\rb\r\n" + TYPE + LENGTH + b"\r\n" + BODY, 400),
    "NUL": (START + HOST + b"x: a\0b\r\n" + TYPE + LENGTH + b"\r\n" + BODY, 400),
    "NUL in a name": (START + HOST + b"x\0: ab\r\n" + TYPE + LENGTH + b"\r\n" + BODY, 400),
    "no host": (START + TYPE + LENGTH + b"\r\n" + BODY, 400),
    "two hosts": (START + HOST + HOST + TYPE + LENGTH + b"\r\n" + BODY, 400),
    "no host in HTTP/1.0": (START.replace(b"1.1", b"1.0") + TYPE + LENGTH + b"\r\n" + BODY, 403),
    "many headers": (START + HOST + b"".join(b"x%d: a\r\n" % n for n in range(HEADERS)) + b"\r\n", 431),
    "a large header at once": (START + HOST + b"x: " + b"a" * HEAD + b"\r\n\r\n", 431),
    "a large header without end": (START + HOST + b"x: " + b"a" * 3 * HEAD, 431),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "a chunk without a size": (START + HOST + TYPE + b"transfer-encoding: chunked\r\n\r\nxyz\r\n", 400),
    "a chunk with LF": (START + HOST + TYPE + b"transfer-encoding: chunked\r\n\r\n3\nabc\r\n", 400),
    "CR in a chunk's extension": (CHUNKED + CHUNKS.replace(b"\r\n", b";a\r\r\n", 1), 400),
    "CR in the last chunk's extension": (CHUNKED + CHUNKS.removesuffix(b"0\r\n\r\n") + b"0;a\rb\r\n\r\n", 400),
    "LF in place of trailers": (CHUNKED + CHUNKS.removesuffix(b"\r\n") + b"\n", 400),
    "LF after a trailer": (CHUNKED + CHUNKS.removesuffix(b"\r\n") + b"x: a\n\r\n", 400),
    "LF after all trailers": (CHUNKED + CHUNKS.removesuffix(b"\r\n") + b"x: a\r\n\n", 400),
}


def in_chunks(body: bytes, size: int) -> bytes:
    parts = (body[start : start + size] for start in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def test_a_body_in_many_small_chunks_is_read_and_others_have_their_turn(served: Served) -> None:
    body = json.dumps({**json.loads(BODY), "user": "x" * 5_000}).encode()
    head = START + HOST + TYPE + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    with connect(served) as other:
        began = time.monotonic()
        with connect(served) as connection:
            connection.sendall(head + in_chunks(body, 1))
            other.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert other.recv(4096).startswith(b"HTTP/1.1 200 ")
            asked = time.monotonic() - began
            answer = b""
            while part := connection.recv(65536):
                answer += part
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert asked < time.monotonic() - began


def test_a_body_of_too_many_chunks_is_refused(monkeypatch: pytest.MonkeyPatch, served: Served) -> None:
    monkeypatch.setattr("unisono.server.http.strict.CHUNKS", 300)
    head = START + HOST + TYPE + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    body = json.dumps({**json.loads(BODY), "user": "x" * 400}).encode()
    answer = exchange(served, head + in_chunks(body, 1))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"300 chunks" in answer
    assert exchange(served, head + in_chunks(body, 2)).startswith(b"HTTP/1.1 200 ")


def test_a_body_that_goes_on_after_its_answer_ends_the_connection(served: Served) -> None:
    with connect(served) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000000\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
        with pytest.raises(ConnectionError):
            connection.sendall(b"x" * 100_000_000)


@pytest.mark.parametrize("kind", WRONG)
def test_what_can_be_read_in_two_ways_is_refused_and_the_connection_closed(served: Served, kind: str) -> None:
    data, status = WRONG[kind]
    # what follows would be a second request, were the first read in another way
    with connect(served) as connection:
        began = time.monotonic()
        connection.sendall(data)
        answer = b""
        with contextlib.suppress(ConnectionResetError):  # what was sent beyond is not read
            while part := connection.recv(65536):
                answer += part
        assert time.monotonic() - began < 5
    head, _, body = answer.partition(b"\r\n\r\n")
    assert int(head.split(b" ")[1]) == status, answer
    assert b"connection: close" in head.lower()
    assert json.loads(body)["error"]["message"]
    assert answer.count(b"HTTP/1.1 ") == 1
    served.free()
    assert served.post("/v1/completions", json.loads(BODY)).status_code == 200


@pytest.mark.parametrize("coding", [LENGTH + b"\r\n" + BODY, b"transfer-encoding: chunked\r\n\r\n" + CHUNKS])
def test_requests_that_are_well_formed_are_served_one_after_the_other(served: Served, coding: bytes) -> None:
    request = START + HOST + TYPE + coding
    answer = exchange(served, request + request.replace(HOST, HOST + b"connection: close\r\n"))
    assert answer.count(b"HTTP/1.1 200 ") == 2


def test_empty_lines_before_a_request_are_passed_over(served: Served) -> None:
    request = START + HOST + TYPE + LENGTH
    first, last = request + b"\r\n" + BODY, request + b"connection: close\r\n\r\n" + BODY
    answer = exchange(served, b"\r\n" + first + b"\r\n" + first + b"\r\n" * EMPTY_LINES + last)
    assert answer.count(b"HTTP/1.1 200 ") == 3
    with connect(served) as connection:
        for part in (b"\r", b"\n", last[:1], last[1:]):  # as they happen to arrive
            connection.sendall(part)
            time.sleep(0.02)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
    for empty in (b"\n", b"\r", b"\r\r\n", b"\r\n" * (EMPTY_LINES + 1)):
        assert exchange(served, empty + last).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"http://127.0.0.1:8000/v1/models", 200),
        (b"HTTP://LOCALHOST/v1/models?a=/b", 200),
        (b"https://[::1]/v1/models", 200),
        (b"http://localhost", 200),
        (b"http://localhost?a", 200),
        (b"http://evil.com/v1/models", 403),
        (b"http://localhost:80.evil.com/v1/models", 403),
        (b"http://localhost@evil.com/v1/models", 400),
        (b"http://user@localhost/v1/models", 400),
        (b"http:///v1/models", 400),
        (b"http://localhost/v1/models#a", 400),
        (b"ftp://localhost/v1/models", 400),
        (b"v1/models", 400),
        (b"localhost:80", 400),
        (b"*", 404),
    ],
)
def test_a_target_may_be_a_whole_url_whose_host_counts(served: Served, target: bytes, status: int) -> None:
    for host in (b"localhost", b"evil.com"):
        head = b"GET " + target + b" HTTP/1.1\r\nconnection: close\r\nhost: " + host + b"\r\n\r\n"
        expected = 403 if (status, target, host) == (404, b"*", b"evil.com") else status
        assert int(exchange(served, head).split(b" ")[1]) == expected
    body = START.replace(b"/v1", b"http://localhost/v1") + HOST + TYPE + LENGTH + b"connection: close\r\n\r\n" + BODY
    assert exchange(served, body).startswith(b"HTTP/1.1 200 ")


PAGE = b"https://app.example"
REFUSED = {
    "a head that is no HTTP": (b"GET /v1/models\r\norigin: %b\r\n\r\n", 400),
    "a length twice": (START + HOST + b"origin: %b\r\n" + LENGTH + LENGTH + b"\r\n", 400),
    "a head too large": (START + HOST + b"origin: %b\r\nx: " + b"a" * HEAD + b"\r\n\r\n", 431),
    "a coding not known": (START + HOST + b"origin: %b\r\ntransfer-encoding: gzip\r\n\r\n", 501),
    "a chunk without a size": (
        START + HOST + b"origin: %b\r\n" + TYPE + b"transfer-encoding: chunked\r\n\r\nx\r\n",
        400,
    ),
    "a body that does not arrive": (START + HOST + b"origin: %b\r\n" + TYPE + LENGTH + b"\r\n", 408),
    "a foreign host": (START + b"host: evil.com\r\norigin: %b\r\n" + TYPE + LENGTH + b"\r\n" + BODY, 403),
}


@pytest.mark.parametrize(("origins", "told"), [((PAGE.decode(),), PAGE), (("*",), b"*"), ((), None)])
def test_who_refuses_makes_no_difference_to_the_answer(origins: tuple[str, ...], told: bytes | None) -> None:
    """Whether the connection or the app refuses: OpenAI's form, a request id, and what a browser has to see."""
    with serving(local=True, origins=origins) as served:
        for data, status in REFUSED.values():
            with connect(served) as connection:
                connection.sendall(data.replace(b"%b", PAGE))
                if status == 408:
                    reading = served.server.connections._all.of[Phase.READING]
                    served.wait(lambda of=reading: bool(of))  # type: ignore[misc]
                    served.call(lambda: served.server.connections.sweep(time.monotonic() + 60))
                answer = b""
                while part := connection.recv(65536):
                    answer += part
            head, _, body = answer.partition(b"\r\n\r\n")
            lines = [line.partition(b": ") for line in head.split(b"\r\n")[1:]]
            headers = {name: value for name, _, value in lines}
            assert int(head.split(b" ")[1]) == status
            assert len(headers) == len(lines)
            assert headers[b"content-type"] == b"application/json"
            assert headers[b"x-request-id"].startswith(b"req-")
            assert headers.get(b"access-control-allow-origin") == told
            assert (headers.get(b"access-control-expose-headers") is not None) == bool(origins)
            assert json.loads(body)["error"].keys() == {"message", "type", "param", "code"}
        served.free()


def test_a_connection_too_many_is_refused_as_all_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        serving(limits=ServerLimits(connections=2, connections_per_address=2), origins=("*",)) as served,
        connect(served) as first,
    ):
        slow_down(served, monkeypatch, 0.05)
        bias = {str(served.service.engines["duo"].union.end): -100}
        body = json.dumps({"model": "duo", "prompt": "the", "max_tokens": 3000, "logit_bias": bias}).encode()
        first.sendall(START + HOST + TYPE + b"content-length: %d\r\n\r\n" % len(body) + body)
        served.wait(lambda: served.service.served == 1)
        refused = served.get("/v1/models", origin=PAGE.decode())
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["error"]["code"] == "too_many_connections"
        assert refused.headers["access-control-allow-origin"] == "*"
        assert refused.headers["x-request-id"].startswith("req-")


@pytest.mark.parametrize("start", [b"GET /health HTTP/1.1\r\n", START])
def test_a_flood_of_requests_on_one_connection_is_read_as_it_is_answered(served: Served, start: bytes) -> None:
    """A request that reads its body reads on: without a bound the connection would hold all that is sent."""
    requests, sent = (start + HOST + TYPE + LENGTH + b"\r\n" + BODY) * 5000, 0
    with connect(served) as connection:
        connection.setblocking(False)
        served.wait(lambda: bool(served.server.server_state.connections))
        [protocol] = served.server.server_state.connections
        answer, most = b"", 0
        while answer.count(b"HTTP/1.1 200 ") < 20:
            with contextlib.suppress(BlockingIOError):
                sent += connection.send(requests[sent % len(requests) :])
            with contextlib.suppress(BlockingIOError):
                answer += connection.recv(65536)
            most = max(most, protocol._strict.waiting)  # type: ignore[union-attr]
        assert answer.count(b"HTTP/1.1 ") == answer.count(b"HTTP/1.1 200 ")
        assert most <= AHEAD + 256 * 1024
        began = time.monotonic()
        assert served.post("/v1/completions", json.loads(BODY)).status_code == 200
        assert time.monotonic() - began < 5
    served.wait(lambda: not served.server.server_state.connections)


def test_requests_ahead_of_their_time_take_turns() -> None:
    called: list[int] = []

    async def crowd() -> None:
        loop, turns, over = asyncio.get_running_loop(), Pacer(), asyncio.Event()
        for number in range(5):
            turns.take(partial(called.append, number))
        assert called == []
        began = loop.time()
        turns.take(over.set)
        await over.wait()
        assert loop.time() - began >= 4 * APART
        turns.take(partial(called.append, 5))
        await asyncio.sleep(2 * APART)

    asyncio.run(crowd())
    assert called == list(range(6))


@pytest.mark.parametrize(
    ("data", "status"),
    [(b"GET / HTTP/1.1\r\nhost: evil.example\r\n\r\n", b"403"), (b"no HTTP\r\n\r\n", b"400")],
    ids=["foreign", "malformed"],
)
def test_a_client_that_is_refused_asks_again_no_sooner_than_its_turn(
    served: Served, data: bytes, status: bytes
) -> None:
    began = time.monotonic()
    for _ in range(40):
        assert exchange(served, data).startswith(b"HTTP/1.1 " + status)
    assert time.monotonic() - began > 39 * APART


def test_who_waits_for_a_turn_and_leaves_is_not_waited_for() -> None:
    async def main() -> None:
        turns = Pacer()
        await Turn(turns).wait()
        waiting = [asyncio.create_task(Turn(turns).wait()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        began = time.monotonic()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert time.monotonic() - began < 1
        assert not turns._waiting

    asyncio.run(main())


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nhost: evil.example\r\n\r\n",
        b"no HTTP\r\n\r\n",
        START + HOST + TYPE + b"content-length: 5000\r\n\r\n{",
    ],
    ids=["foreign", "malformed", "half a body"],
)
def test_nobody_waits_behind_the_refusals_of_clients_that_have_left(served: Served, data: bytes) -> None:
    for _ in range(400):
        with connect(served) as connection:
            connection.sendall(data)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # it is reset at once
    began = time.monotonic()
    assert served.get("/v1/nothing").status_code == 404
    assert time.monotonic() - began < 400 * APART / 2


def test_who_leaves_the_line_is_neither_kept_nor_waited_for() -> None:
    called: list[str] = []

    async def crowd() -> None:
        loop, turns, over = asyncio.get_running_loop(), Pacer(), asyncio.Event()
        lost = [partial(called.append, "lost") for _ in range(1000)]
        for each in lost:
            turns.take(each)
        for each in lost:
            turns.leave(each)
        assert not turns._waiting
        turns.take(lost[0])
        turns.take(over.set)
        turns.leave(lost[0])
        began = loop.time()
        await over.wait()
        assert loop.time() - began < 1000 * APART / 2

    asyncio.run(crowd())
    assert not called


def test_a_connection_that_is_lost_leaves_the_line() -> None:
    async def crowd() -> None:
        turns, connections = Pacer(), Connections(ServerLimits(), Metrics())
        config = uvicorn.Config(Mock(), ws="none", lifespan="off", log_config=None)
        config.load()
        state: dict[str, Any] = {"server_state": ServerState(), "app_state": {}}
        protocol = HttpProtocol(connections, turns, Pacer(), Pacer(), config=config, **state)
        protocol.connection_made(
            Mock(asyncio.Transport, get_extra_info=lambda _: None, get_write_buffer_size=lambda: 0)
        )
        protocol._in_line = True
        turns.take(protocol._go_on)
        protocol.connection_lost(None)
        assert not turns._waiting

    asyncio.run(crowd())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("number", [1, 3])
def test_a_client_that_has_shut_down_its_side_is_answered(
    served: Served, slow: Callable[[float], None], stream: bool, number: int
) -> None:
    slow(0.05)
    bias = {str(served.service.engines["duo"].union.end): -100}
    body = json.dumps(
        {"model": "duo", "prompt": "the", "max_tokens": 12, "stream": stream, "logit_bias": bias}
    ).encode()
    request = START + HOST + TYPE + b"content-length: %d\r\n\r\n" % len(body) + body
    began = time.monotonic()
    answer = exchange(served, request * number, shut=True)
    assert answer.count(b"HTTP/1.1 200 ") == number
    assert answer.count(b"data: [DONE]") == number * stream
    assert (b'"completion_tokens":12' in answer.replace(b" ", b"")) == (not stream)
    assert 0.4 < time.monotonic() - began < 10
    served.free()


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_a_client_that_has_left_is_not_worked_for(
    served: Served, slow: Callable[[float], None], version: bytes
) -> None:
    slow(0.02)
    bias = {str(served.service.engines["duo"].union.end): -100}
    body = json.dumps({"model": "duo", "prompt": "the", "max_tokens": 3000, "logit_bias": bias}).encode()
    request = START.replace(b"1.1", version) + HOST + TYPE + b"content-length: %d\r\n\r\n" % len(body) + body
    with connect(served) as connection:
        connection.sendall(request)
        served.wait(lambda: served.service.served == 1)
    served.wait(lambda: not served.service.busy, 1)
    served.free()


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("localhost", "localhost"),
        ("LOCALHOST.:8000", "localhost"),
        ("[::1]:8000", "::1"),
        ("[0:0:0:0:0:0:0:1]", "::1"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("localhost:80.evil.com", None),
        ("localhost:80@evil.com", None),
        ("[::1].evil.com", None),
        ("[::1]evil.com", None),
        ("[::1", None),
        ("[localhost]", None),
        ("localhost@evil", None),
        ("localhost:", None),
        ("localhost:65536", None),
        ("localhost:-1", None),
        ("localhost/x", None),
        ("localhost localhost", None),
        ("localhost\u0131", None),
        ("localhost:\u0661", None),
        ("localhost\n", None),
        (":80", None),
        (".", None),
        ("", None),
    ],
)
def test_a_host_is_read_exactly(served: Served, header: str, host: str | None) -> None:
    assert read_host(header) == host
    began = time.monotonic()
    with connect(served) as connection:
        encoded = header.encode().replace(b"\n", b"")
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nconnection: close\r\nhost: " + encoded + b"\r\n\r\n")
        answer = connection.recv(65536)
    assert time.monotonic() - began < 10
    allowed = host is not None or header == "localhost\n"
    assert (b" 200 " in answer.split(b"\r\n")[0]) == allowed
    assert allowed or answer.split(b" ")[1] in (b"400", b"403")


@given(st.one_of(st.text(), st.from_regex(r"\[?[a-z0-9:.@/-]*\]?(localhost|127\.0\.0\.1|::1)[\]\[a-z0-9:.@/%-]*")))
def test_what_is_read_as_this_machine_is_nothing_else(header: str) -> None:
    host = read_host(header)
    if host is None:
        return
    name, colon, port = header.rpartition(":")
    if not colon or not port.isdigit():
        name, colon, port = header, "", ""
    if header.startswith("["):
        assert header.count("]") == 1
        name, port = header[1:].split("]")
        assert ":" in name
        assert port == "" or port[0] == ":"
    else:
        assert (name.lower().removesuffix("."), ":" in name) == (host, False)
        assert not colon or 0 <= int(port) <= 65535
    if is_local([header.encode("latin-1")]):
        assert host in ("localhost", "::1") or host.endswith(".localhost") or host.startswith("127.")


def test_hosts_are_one() -> None:
    assert is_local([b"localhost"])
    assert not is_local([])
    assert not is_local([b"localhost", b"localhost"])


def test_what_a_client_writes_is_cut_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    long = "x\n\x1b[31m" * 75_000
    with serving() as served, caplog.at_level(logging.INFO, "unisono.server"):
        body = {"model": "duo", "prompt": "a", "max_tokens": 1}
        began = time.monotonic()
        for change in (
            {"user": long},
            {"safety_identifier": long},
            {"metadata": {"a": long}},
            {"model": long},
            {long: 1},
            {"unisono": {long: 1}},
            {"response_format": {"type": long}},
            {"request_id": long},
            {"logit_bias": {long: 1}},
        ):
            served.post("/v1/completions", {**body, **change})
        big = "y" * 4000
        served.post("/v1/completions", body, **{"x-request-id": big, "user-agent": big, "x-forwarded-for": big})
        served.get(f"/v1/models/{big}")
        served.get(f"/{big}")
        exchange(served, b"A" * 8000 + b" /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        served.wait(lambda: sum(record.msg == "request" for record in caplog.records) >= 11)
        assert time.monotonic() - began < 10
    lines = [JsonLines().format(record) for record in caplog.records]
    assert max(map(len, lines)) < 3 * CUT + 600, max(lines, key=len)
    assert all(line.isascii() and line.isprintable() for line in lines)
    users = [json.loads(line).get("user") for line in lines]
    assert f"{long[:CUT]}… ({len(long)} characters)" in users
