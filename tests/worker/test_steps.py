"""Connections that are switched to calls: who gets one, and what is said on it that is no call."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import numpy as np
import pytest

from support.fakes import make_fakes
from support.workers import SESSION, Worker, working
from unisono.backends.endpoint.adapter import Question
from unisono.backends.endpoint.worker_frames import ANSWER, CALL, STEPS, Call, call_frame
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.backends.wire import read_frame
from unisono.server.http.connections import Phase
from unisono.server.limits import ServerLimits
from unisono.worker.steps import Steps, Stream, Tell, _Telling

TOKEN = "a-token-of-some-length"
UPGRADE = f"connection: upgrade\r\nupgrade: {STEPS}\r\n"
OWN = f"authorization: Bearer {TOKEN}\r\n"


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    make_fakes()
    limits = ServerLimits(body=4000, keep_alive=0.5, reading=0.2)
    with working({"name": "a", "model": "fake:a"}, slots=4, token=TOKEN, limits=limits) as served:
        yield served
    FAKE_MODELS.clear()


@pytest.fixture(scope="module")
def patient(worker: Worker) -> Iterator[Worker]:
    """One that waits for its clients as workers usually do."""
    with working({"name": "a", "model": "fake:a"}, slots=4, token=TOKEN, limits=ServerLimits(body=4000)) as served:
        yield served


def connected(worker: Worker) -> socket.socket:
    parts = urlsplit(worker.url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), 10)


def ask(own: socket.socket, headers: str, method: str = "GET", more: bytes = b"") -> bytes:
    """The head of the answer to a request for steps, and what comes with it."""
    own.sendall(f"{method} /v1/steps HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n".encode() + more)
    return own.recv(4096)


def switched(worker: Worker) -> socket.socket:
    own = connected(worker)
    assert ask(own, UPGRADE + OWN).startswith(b"HTTP/1.1 101 ")
    return own


def frame(worker: Worker, number: int = 1, model: str = "") -> bytes:
    return b"".join(call_frame(Call(SESSION, number, model or worker.model, [Question(0, [1, 2], 0, 1)])))


def answer(own: socket.socket) -> tuple[int, int, bytes]:
    status, wait, length = ANSWER.unpack(own.recv(ANSWER.size, socket.MSG_WAITALL))
    return status, wait, own.recv(length, socket.MSG_WAITALL)


def is_closed(own: socket.socket) -> bool:
    try:
        return own.recv(1) == b""
    except ConnectionResetError:
        return True


def test_calls_are_answered_one_after_the_other(worker: Worker) -> None:
    with switched(worker) as own:
        for number in (1, 2):
            body = frame(worker, number)
            for part in (CALL.pack(len(body))[:3], CALL.pack(len(body))[3:] + body[:70], body[70:]):
                own.sendall(part)
                time.sleep(0.01)
            status, wait, content = answer(own)
            assert (status, wait, read_frame(content).head["number"]) == (200, 0, number)


@pytest.mark.parametrize(
    ("headers", "method", "status"),
    [
        (UPGRADE, "GET", 401),
        (UPGRADE + "authorization: Bearer another-token-of-length\r\n", "GET", 401),
        (OWN, "GET", 426),
        (OWN + "connection: upgrade\r\nupgrade: websocket\r\n", "GET", 426),
        (OWN + UPGRADE, "PUT", 426),
    ],
)
def test_who_does_not_ask_for_them_as_he_should_has_none(
    worker: Worker, headers: str, method: str, status: int
) -> None:
    with connected(worker) as own:
        assert ask(own, headers, method).startswith(f"HTTP/1.1 {status} ".encode())


def test_nothing_may_follow_the_request_unanswered(worker: Worker) -> None:
    with connected(worker) as own:
        assert ask(own, UPGRADE + OWN, more=CALL.pack(0)).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("length", [4001, 2**40, 2**64 - 1])
def test_a_call_that_is_too_long_is_refused_before_it_is_read(worker: Worker, length: int) -> None:
    with switched(worker) as own:
        own.sendall(CALL.pack(length) + b"x" * 10)
        status, _, content = answer(own)
        assert (status, b"4000 bytes" in content) == (413, True)
        assert is_closed(own)


def test_a_call_that_is_refused_leaves_the_connection(worker: Worker) -> None:
    with switched(worker) as own:
        for body, expected in ((b"no frame", 400), (frame(worker, 3, "other"), 409), (frame(worker, 3), 200)):
            own.sendall(CALL.pack(len(body)) + body)
            assert answer(own)[0] == expected


def test_who_says_more_than_a_call_is_not_heard_on(worker: Worker) -> None:
    body = frame(worker, 4)
    with switched(worker) as own:
        own.sendall(CALL.pack(len(body)) + body + b"x")
        assert is_closed(own)


def test_a_connection_that_is_silent_or_slow_is_closed(worker: Worker) -> None:
    with switched(worker) as silent, switched(worker) as slow:
        slow.sendall(CALL.pack(100)[:4])
        began = time.monotonic()
        assert is_closed(silent)
        assert is_closed(slow)
        assert time.monotonic() - began < 5


def test_a_full_worker_says_so_on_it_too(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    body = frame(worker, 5)
    with switched(worker) as own:
        monkeypatch.setattr(worker.service, "_running", 512)
        own.sendall(CALL.pack(len(body)) + body)
        status, wait, content = answer(own)
        assert (status, wait, b"try again later" in content) == (503, 1, True)
        monkeypatch.setattr(worker.service, "_running", 0)
        own.sendall(CALL.pack(len(body)) + body)
        assert answer(own)[0] == 200


def test_an_answer_waits_for_no_other_thread_and_the_next_call_may_come_at_once(
    patient: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread of connections is held up while an answer is made, sent, and followed by a call, or by too much."""
    made, goes_on = patient.service._parts, threading.Event()

    def parts(*given: Any) -> list[memoryview]:
        held = threading.Event()
        patient.service._loop.call_soon_threadsafe(lambda: (held.set(), goes_on.wait(10)))
        assert held.wait(10)
        return made(*given)

    with switched(patient) as own:
        body = frame(patient, 10)
        monkeypatch.setattr(patient.service, "_parts", parts)
        own.sendall(CALL.pack(len(body)) + body)
        own.settimeout(5)  # less than the thread of connections is held up
        assert read_frame(answer(own)[2]).head["number"] == 10
        monkeypatch.setattr(patient.service, "_parts", made)
        body = frame(patient, 11)
        own.sendall(CALL.pack(len(body)) + body)
        goes_on.set()
        assert read_frame(answer(own)[2]).head["number"] == 11
        goes_on.clear()
        monkeypatch.setattr(patient.service, "_parts", parts)
        body = frame(patient, 12)
        own.sendall(CALL.pack(len(body)) + body)
        assert answer(own)[0] == 200
        with contextlib.suppress(ConnectionError):
            own.sendall(CALL.pack(len(body)) + bytes(8000))  # more than a call, before it is known to be one
        goes_on.set()
        assert is_closed(own)


def test_an_answer_that_a_connection_takes_in_parts_is_whole(patient: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unisono.worker.steps.SHORT", 1 << 30)
    rest, tell = list[int](), _Telling.tell

    def noted(telling: _Telling, parts: Sequence[memoryview]) -> bool:
        assert telling._own is not None
        telling._own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        told = tell(telling, parts)
        rest.append(len(telling.rest))
        return told

    monkeypatch.setattr(_Telling, "tell", noted)
    ids = [1 + place % 7 for place in range(700)]
    call = b"".join(call_frame(Call(SESSION, 20, patient.model, [Question(0, ids, 0, len(ids))])))
    with switched(patient) as own, own.makefile("rb") as answers:
        own.sendall(CALL.pack(len(call)) + call)
        status, _, length = ANSWER.unpack(answers.read(ANSWER.size))
        content = answers.read(length)
    sent = patient.ask(Question(0, ids, 0, len(ids)), number=21).content
    assert (status, rest[0] > 0) == (200, True)
    told, whole = (read_frame(each).array("logits", "f4", 2) for each in (content, sent))
    assert np.array_equal(told, whole)


class Lost:
    """A connection that is lost while a call runs."""

    def __init__(self) -> None:
        self.phases = list[Phase]()
        self.transport = self
        self.lost = False
        self.aborted = False
        self.here, self.there = socket.socketpair()

    def phase(self, phase: Phase) -> None:
        self.phases.append(phase)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.lost

    def get_extra_info(self, name: str) -> socket.socket:
        return self.here

    def abort(self) -> None:
        self.aborted = True


@pytest.mark.parametrize("beyond", [0, 9000])
def test_what_a_client_says_behind_its_answer_is_left_once_it_is_gone(beyond: int) -> None:
    """Nothing more is taken of it, nor told to it, and the second handle on its socket is closed."""
    stream, tells = Lost(), list[Tell]()

    async def answer(body: bytes, send: object, tell: Tell) -> None:
        tells.append(tell)
        assert tell([memoryview(b"told")])
        steps.take(CALL.pack(3) + b"more" + bytes(beyond))
        stream.lost = True

    steps = Steps(cast(Stream, stream), 4000, answer)

    async def serve() -> None:
        steps.take(CALL.pack(4) + b"call")
        await asyncio.sleep(0.05)

    asyncio.run(serve())
    assert stream.there.recv(99).endswith(b"told")
    assert stream.phases == [Phase.READING, Phase.SERVED]
    assert stream.aborted == bool(beyond)
    assert not tells[0]([memoryview(b"late")])
    stream.here.close()
    assert stream.there.recv(99) == b""
    stream.there.close()
