"""What a worker answers over HTTP, and whom it refuses."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from support.fakes import make_fakes
from support.server_process import PROGRAM
from support.workers import SESSION, Worker, working
from unisono.backends.endpoint.adapter import Question
from unisono.backends.endpoint.worker_frames import TYPE, read_rows_of
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.backends.wire import read_frame
from unisono.cli import member
from unisono.ensemble import Ensemble
from unisono.errors import MemberUnavailable, SpecError
from unisono.server.limits import ServerLimits
from unisono.worker import service
from unisono.worker.app import WorkerApp
from unisono.worker.leases import Leases
from unisono.worker.metrics import WorkerMetrics

A = {"name": "a", "model": "fake:a"}
TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module", autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with working(A, slots=2, token=TOKEN, limits=ServerLimits(body=4000)) as served:
        yield served


def test_rows_are_those_of_the_model(worker: Worker) -> None:
    answer = worker.ask(Question(0, [1, 2, 3], 0, 2))
    assert (answer.status_code, answer.headers["content-type"]) == (200, TYPE)
    frame = read_frame(answer.content)
    rule = FAKE_MODELS["a"].next_token
    rows = FAKE_MODELS["a"].output_rows
    assert (read_rows_of(frame, 2, rows) == np.stack([rule((1, 2)), rule((1, 2, 3))])).all()
    assert frame.head["lengths"] == [3]
    assert frame.head["model"] == worker.model
    assert frame.head["instance"]
    assert (frame.head["session"], frame.head["number"]) == (SESSION, 1)


def test_the_token_is_asked_for_but_at_the_doorbell(worker: Worker) -> None:
    assert httpx2.get(f"{worker.url}/health").status_code == 200
    for headers in ({}, {"authorization": "Bearer another-token-of-length"}, {"authorization": TOKEN}):
        for path in ("/v1/member", "/metrics", "/v1/nothing"):
            answer = httpx2.get(worker.url + path, headers=headers)
            assert answer.status_code == 401
            assert TOKEN not in answer.text
    known = httpx2.get(f"{worker.url}/v1/member", headers={"authorization": f"Bearer {TOKEN}"}).json()
    assert (known["unisono_member"], known["slots"], known["idle_seconds"]) == (2, 2, 60)


def test_a_token_that_can_be_guessed_is_refused_as_a_key_is(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = member.WorkerFlags(spec=Path("duo.yaml"), member="a", token_env="SAID")
    for token in ("", "short", "long enough but with blanks"):
        monkeypatch.setenv("SAID", token)
        with pytest.raises(SpecError, match=r"'SAID' (holds no|is not set)") as refused:
            member._token(flags)
        assert "a token has 16 or more" in str(refused.value.hint)
    monkeypatch.setenv("SAID", TOKEN)
    assert member._token(flags) == TOKEN


def test_a_page_of_another_name_is_refused_without_a_token() -> None:
    with working(A, slots=1) as served:
        assert httpx2.get(f"{served.url}/v1/member", headers={"host": "evil.example"}).status_code == 403
        assert httpx2.get(f"{served.url}/v1/member").status_code == 200


@pytest.mark.parametrize(
    ("path", "content", "kind", "status", "words"),
    [
        ("/v1/advance", b"no frame", TYPE, 400, "a frame begins"),
        ("/v1/advance", b"x", "text/plain", 415, TYPE),
        ("/v1/advance", bytes(5000), TYPE, 413, "4000 bytes"),
        ("/v1/encode", {"way": "decode", "texts": [], "model": ""}, "application/json", 400, "encode_prompt"),
        ("/v1/encode", {"way": "encode", "texts": ["x"], "model": "other"}, "application/json", 409, "another model"),
        ("/v1/leave", {"session": 1}, "application/json", 400, "send session"),
        ("/v1/member", {}, "application/json", 405, "POST"),
        ("/v1/chat/completions", {}, "application/json", 404, "ask the ensemble's server"),
    ],
)
def test_what_is_wrong_is_refused_by_name(
    worker: Worker, path: str, content: Any, kind: str, status: int, words: str
) -> None:
    answer = worker.post(path, content, kind)
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]


def test_too_many_texts_are_refused_with_a_time(worker: Worker) -> None:
    full = [Question(slot, [1, 2], 0, 1) for slot in (0, 1)]
    assert worker.ask(*full, session="x" * 16).status_code in (200, 503)
    answer = worker.ask(*full, session="y" * 16)
    assert answer.status_code == 503
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert answer.json()["error"]["code"] == "no_slots"
    for session in ("x" * 16, "a-session-of-tests"):
        assert worker.post("/v1/leave", {"session": session, "number": 9, "slots": None}).status_code == 200
    assert worker.ask(*full, session="y" * 16).status_code == 200
    assert worker.ask(Question(0, [1], 0, 1), session="z" * 16, model="other").status_code == 409


def test_silent_clients_are_looked_for_again_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, twice = list[int](), threading.Event()

    def expire(leases: Leases) -> int:
        looks.append(1)
        if len(looks) == 1:
            raise OSError("no such slot")
        twice.set()
        return 0

    monkeypatch.setattr(Leases, "expire", expire)
    monkeypatch.setattr(service, "EXPIRY_SECONDS", 0.01)
    with working(A, slots=1):
        assert twice.wait(10)


def test_a_call_has_its_place_before_it_is_read_and_until_it_is_answered() -> None:
    async def main() -> None:
        app = WorkerApp(service.MemberService(made, ServerLimits(concurrency=1), WorkerMetrics(), 60), None)
        first, second = Exchange(), Exchange()
        running = asyncio.create_task(first.on(app))
        await first.reads.wait()
        assert await second.on(app) == 503
        first.body.set()
        await first.answers.wait()
        assert await second.on(app) == 503
        assert not second.reads.is_set()
        first.taken.set()
        assert await running == 400
        second.body.set()
        second.taken.set()
        assert await second.on(app) == 400

    def made() -> Any:
        raise AssertionError

    asyncio.run(main())


class Exchange:
    """A call that is no frame; its body arrives, and its answer is taken, when it is told so."""

    def __init__(self) -> None:
        self.reads, self.body, self.answers, self.taken = (asyncio.Event() for _ in range(4))

    async def on(self, app: WorkerApp) -> int:
        headers = [(b"host", b"localhost"), (b"content-type", TYPE.encode())]
        scope = {"type": "http", "method": "POST", "path": "/v1/advance", "headers": headers}
        sent = list[Any]()

        async def receive() -> dict[str, Any]:
            self.reads.set()
            await self.body.wait()
            return {"type": "http.request", "body": b"no frame"}

        async def send(message: Any) -> None:
            sent.append(message)
            self.answers.set()
            if sent[0]["status"] != 503:
                await self.taken.wait()

        await app(scope, receive, send)
        return int(sent[0]["status"])


class Process:
    """A worker in a process of its own."""

    def __init__(self, folder: Path, member: str = "a", *flags: str, port: int = 0) -> None:
        spec = folder / "duo.yaml"
        spec.write_text("members: [{name: a, model: 'fake:a'}, {name: b, model: 'fake:b'}]")
        source = str(Path(__file__).parents[2] / "src")
        command = [sys.executable, str(PROGRAM), "0", "member", "serve", str(spec), "--member", member, *flags]
        self.log = (folder / "log").open("w+")
        self.process = subprocess.Popen(
            [*command, "--port", str(port)],
            stdout=subprocess.PIPE,
            stderr=self.log,
            env={**os.environ, "PYTHONPATH": source},
        )

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        code = self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()
        return code


def free_port() -> int:
    import socket

    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def ready(port: int) -> None:
    import time

    for _ in range(1000):
        try:
            if httpx2.get(f"http://127.0.0.1:{port}/ready").status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.02)
    raise AssertionError("the worker does not become ready")


def test_a_killed_worker_is_made_good_and_another_model_is_an_error(tmp_path: Path) -> None:
    port = free_port()
    away = {"name": "a", "url": f"http://127.0.0.1:{port}", "timeout": 10, "retries": 1}
    with Ensemble.load({"members": [A]}) as home:
        expected = [home.generate("the cat", max_new_tokens=12).text, home.generate(" the dog").text]
    first = Process(tmp_path, port=port)
    ready(port)
    with Ensemble.load({"members": [away]}) as ensemble:
        stream = ensemble.stream("the cat", max_new_tokens=12)
        text = "".join(next(stream) for _ in range(3))
        assert first.end(signal.SIGKILL) == -signal.SIGKILL
        second = Process(tmp_path, port=port)
        ready(port)
        text += "".join(stream)
        assert text == expected[0]
        second.log.flush()
        assert "the cat" not in (tmp_path / "log").read_text()
        assert second.end(signal.SIGTERM) == 0
        third = Process(tmp_path, "b", port=port)
        ready(port)
        with pytest.raises(MemberUnavailable, match="another model"):
            ensemble.generate(" the dog")
        assert third.end(signal.SIGINT) == 0
