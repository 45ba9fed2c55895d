"""The server among strangers: keys, limits, clients that leave, models that fail, and a good end."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from support.fakes import fail, make_fakes
from support.real_server import DUO, SAY, Served, load_fakes, serving
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.messages import Prompt
from unisono.engine.engine_thread import CRASHES
from unisono.engine.request import GenerationRequest, PreparedRequest
from unisono.engine.service import Service
from unisono.errors import SpecError
from unisono.server import app as app_module
from unisono.server import async_engine, middleware
from unisono.server.constraint_trials import ConstraintTrials
from unisono.server.hosts import is_loopback
from unisono.server.launch import bind
from unisono.server.limits import ServerLimits
from unisono.server.middleware import Keys, key_of, read_keys
from unisono.server.telemetry import JsonLines

KEY, OTHER = "a-key-of-some-length", "another-key-of-some-length"
CHAT: dict[str, Any] = {"model": "duo", "messages": SAY, "max_tokens": 4}


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


def slow(service: Service, seconds: float = 0.01) -> None:
    """Let every pass of the first member take a while."""
    backend = service.engines["duo"].members[0].backend
    advance = backend.advance

    def waiting(feeds: Any) -> Any:
        time.sleep(seconds)
        return advance(feeds)

    backend.advance = waiting  # type: ignore[method-assign]


def endless(served: Served) -> dict[str, Any]:
    """A request that goes on until it is ended."""
    return {**CHAT, "max_tokens": 3000, "logit_bias": {str(served.service.engines["duo"].union.end): -100}}


def error_of(response: httpx2.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    return error


def test_a_server_with_keys_opens_to_them_alone() -> None:
    with serving(keys=Keys([KEY, OTHER])) as served:
        for key in (KEY, OTHER):
            assert served.client(key).chat.completions.create(**CHAT).choices
        for headers in (
            {},
            {"authorization": "Bearer"},
            {"authorization": f"Bearer {KEY}x"},
            {"authorization": f"Bearer {KEY[:-1]}"},
            {"authorization": f"Basic {KEY}"},
            {"authorization": KEY},
        ):
            for path in ("/v1/models", "/metrics", "/openapi.json", "/nothing"):
                response = served.get(path, **headers)
                assert response.status_code == 401
                assert response.headers["www-authenticate"] == "Bearer"
                assert error_of(response)["code"] == "invalid_api_key"
            assert served.post("/v1/chat/completions", CHAT, **headers).status_code == 401
        with pytest.raises(openai.AuthenticationError):
            served.client("wrong").models.list()
        asked = {"model": "duo", "input": "the cat", "max_output_tokens": 2}
        stored = "/v1/responses/" + served.post("/v1/responses", asked, **{"api-key": KEY}).json()["id"]
        assert served.get(stored, authorization=f"Bearer {KEY}").status_code == 200
        assert served.get(stored, **{"api-key": OTHER}).status_code == 404
        assert served.get("/health").status_code == served.get("/ready").status_code == 200


def test_nothing_of_a_call_is_kept_after_its_answer() -> None:
    with serving() as served:
        assert served.client().chat.completions.create(**CHAT, n=2).choices
        served.free()
        assert served.engine._by_request == {}


def test_all_keys_are_compared_whichever_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    real = middleware.hmac.compare_digest
    monkeypatch.setattr(
        middleware.hmac, "compare_digest", lambda left, right: compared.append(left) or real(left, right)
    )
    keys = Keys([KEY, OTHER])
    for key in (KEY.encode(), OTHER.encode(), b"no", b"", None):
        compared.clear()
        keys.admit(key)
        assert len(compared) == 2
        assert {len(digest) for digest in compared} == {32}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"", "has no key"),
        (b"# only a comment\n\n", "has no key"),
        (b"short\n", "line 1"),
        (f"{KEY}\na key with blanks in it\n".encode(), "line 2"),
        (b"\xff\xfe\n", "it is UTF-16: save it as UTF-8"),
        (b"caf\xe9\n", "not UTF-8, at byte 3, in line 1"),
    ],
)
def test_a_key_file_without_keys_is_refused_and_no_key_shown(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpecError, match=words) as caught:
        read_keys(path)
    assert "blanks in it" not in str(caught.value)


def test_a_key_file_has_a_key_a_line(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# mine\n{KEY}\n\n  {OTHER}  \r\n")
    keys = read_keys(path)
    assert keys.admit(KEY.encode())
    assert keys.admit(OTHER.encode())
    assert not keys.admit(b"# mine")


BEARER, BASIC = (b"authorization", b"Bearer " + KEY.encode()), (b"authorization", b"Basic eDp5")
AZURES = (b"api-key", KEY.encode())


@pytest.mark.parametrize(
    ("headers", "has_key"),
    [
        ([BEARER], True),
        ([(b"authorization", b"bearer  " + KEY.encode())], True),
        ([AZURES], True),
        ([BEARER, AZURES], True),
        ([BASIC, AZURES], True),
        ([], False),
        ([BASIC], False),
        ([BEARER, BEARER], False),
        ([AZURES, AZURES], False),
        ([BEARER, (b"api-key", b"another")], False),
        ([(b"authorization", KEY.encode())], False),
        ([(b"x-api-key", KEY.encode())], False),
    ],
)
def test_a_key_is_a_bearer_token_or_azures_header_and_one(headers: list[tuple[bytes, bytes]], has_key: bool) -> None:
    assert Keys([KEY]).admit(key_of([(b"host", b"localhost"), *headers])) is has_key


def test_bodies_are_bounded_whether_their_length_is_declared_or_not() -> None:
    with serving(limits=ServerLimits(body=1000)) as served:
        assert served.post("/v1/chat/completions", CHAT).status_code == 200
        large = {**CHAT, "user": "x" * 1000}
        assert served.post("/v1/chat/completions", large).status_code == 413
        chunks = (part for part in [json.dumps(large).encode()[:500]] * 3)
        headers = {"content-type": "application/json"}
        response = httpx2.post(f"{served.url}/v1/chat/completions", content=chunks, headers=headers)
        assert response.status_code == 413
        assert error_of(response)["code"] == "too_large"


def test_a_body_that_does_not_arrive_is_not_waited_for() -> None:
    with serving(limits=ServerLimits(reading=0.2)) as served:
        host, port = served.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), 10) as connection:
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                b"content-length: 100\r\n\r\n{"
            )
            assert b" 408 " in connection.recv(4096).split(b"\r\n")[0]
        served.free()


def test_prompts_and_answers_are_bounded() -> None:
    with serving(limits=ServerLimits(prompt=30, output=5, n=2)) as served:
        long = [{"role": "user", "content": "x" * 40}]
        response = served.post("/v1/chat/completions", {**CHAT, "messages": long})
        assert (response.status_code, error_of(response)["code"]) == (400, "context_length_exceeded")
        assert "this server takes 30 at most" in error_of(response)["message"]
        response = served.post("/v1/chat/completions", {**endless(served), "max_tokens": 6})
        assert response.json()["usage"]["completion_tokens"] == 5
        assert response.headers["x-unisono-clamped"] == "max_tokens=5"
        unbounded = served.post("/v1/chat/completions", {**endless(served), "max_tokens": None}).json()
        assert unbounded["usage"]["completion_tokens"] == 5
        assert unbounded["choices"][0]["finish_reason"] == "length"


def test_a_full_line_is_429_with_a_time_to_come_back_and_nobody_else_suffers() -> None:
    with serving(batch=1, queue=2) as served:
        slow(served.service)
        with served.client().chat.completions.create(**endless(served), stream=True) as stream:
            next(stream)
            waiting = [threading.Thread(target=lambda: served.post("/v1/chat/completions", CHAT)) for _ in range(2)]
            waiting[0].start()
            served.wait(lambda: served.service.waiting == 1)
            two = served.post("/v1/completions", {"model": "duo", "prompt": ["a", "b"], "max_tokens": 2})
            assert two.status_code == 429
            waiting[1].start()
            served.wait(lambda: served.service.waiting == 2)
            response = served.post("/v1/chat/completions", CHAT)
            assert response.status_code == 429
            assert error_of(response)["code"] == "queue_full"
            assert 1 <= int(response.headers["retry-after"]) <= 60
            assert next(stream).choices
        for thread in waiting:
            thread.join(20)
        served.free()


def test_no_more_requests_are_under_way_than_are_taken() -> None:
    with serving(limits=ServerLimits(concurrency=1)) as served:
        slow(served.service)
        with served.client().chat.completions.create(**endless(served), stream=True) as stream:
            next(stream)
            response = served.post("/v1/chat/completions", CHAT)
            assert (response.status_code, error_of(response)["code"]) == (429, "too_many_requests")
            assert "retry-after" in response.headers
            assert response.text.endswith("}\n"), "a terminal's prompt begins a line of its own"
        served.free()
        assert served.post("/v1/chat/completions", CHAT).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_slots_at_once(stream: bool) -> None:
    with serving(batch=1) as served:
        slow(served.service)
        with pytest.raises(httpx2.ReadTimeout), httpx2.Client(timeout=0.5) as client:
            client.post(f"{served.url}/v1/chat/completions", json={**endless(served), "stream": False})
        if stream:
            with served.client().chat.completions.create(**endless(served), stream=True) as chunks:
                next(chunks)
                assert served.service.served == 1
        served.wait(lambda: not served.service.busy, 3)
        served.free()
        assert served.post("/v1/chat/completions", CHAT).status_code == 200


def test_a_client_that_leaves_the_line_leaves_it() -> None:
    with serving(batch=1) as served:
        slow(served.service)
        with served.client().chat.completions.create(**endless(served), stream=True) as chunks:
            next(chunks)
            with pytest.raises(httpx2.ReadTimeout), httpx2.Client(timeout=0.3) as client:
                client.post(f"{served.url}/v1/chat/completions", json={**CHAT, "stream": True})
            served.wait(lambda: served.service.waiting == 0, 3)
            assert served.service.served == 1
        served.free()


def test_what_takes_too_long_is_504_or_an_error_in_the_stream() -> None:
    with serving(limits=ServerLimits(timeout=0.4)) as served:
        slow(served.service)
        response = served.post("/v1/chat/completions", endless(served))
        assert (response.status_code, error_of(response)["code"]) == (504, "timeout")
        text = served.post("/v1/chat/completions", {**endless(served), "stream": True}).text
        events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
        assert json.loads(events[-1])["error"]["code"] == "timeout"
        assert "[DONE]" not in text
        with pytest.raises(openai.APIError, match="longer"):
            list(served.client().chat.completions.create(**endless(served), stream=True))
        served.free()


def test_a_member_that_fails_in_the_middle_fails_those_who_need_it_and_the_rest_goes_on() -> None:
    with serving() as served:
        slow(served.service)
        token = served.service.engines["duo"].members[1].encoder.encode(Prompt(text="Z"))[-1]
        fail(served.service.engines["duo"], "b", lambda feeds: any(token in feed.ids for feed in feeds))
        bad = {**CHAT, "messages": [{"role": "user", "content": "Z"}]}

        async def ask() -> list[httpx2.Response]:
            async with httpx2.AsyncClient(timeout=60) as client:
                bodies = [bad, CHAT, {**bad, "model": "duo/a"}, CHAT, bad]
                return list(
                    await asyncio.gather(
                        *(client.post(f"{served.url}/v1/chat/completions", json=body) for body in bodies)
                    )
                )

        statuses = [response.status_code for response in asyncio.run(ask())]
        assert statuses == [500, 200, 200, 200, 500]
        response = served.post("/v1/chat/completions", bad)
        assert error_of(response)["type"] == "server_error"
        assert "memory" not in response.text
        served.free()


@pytest.mark.parametrize("words", [{}, {"system": "Be kind."}], ids=["reads raw text", "reads messages alone"])
def test_a_model_that_fails_again_and_again_makes_the_server_not_ready_until_it_works_once_more(
    monkeypatch: pytest.MonkeyPatch, words: dict[str, str]
) -> None:
    monkeypatch.setattr(async_engine, "PROBE_SECONDS", 0.1)
    first, second = DUO["duo"]["members"]
    with serving({"duo": {**DUO["duo"], "members": [{**first, **words}, second]}}) as served:
        broken = [True]
        fail(served.service.engines["duo"], "b", lambda _: broken[0])
        for _ in range(3):
            assert served.post("/v1/chat/completions", CHAT).status_code == 500
        ready = served.get("/ready")
        assert ready.status_code == 503
        assert "duo" in ready.json()["reason"]
        assert served.post("/v1/chat/completions", {**CHAT, "model": "duo/a"}).status_code == 200
        assert served.get("/ready").status_code == 503
        assert served.metric("unisono_ready") == 0
        broken[0] = False
        served.wait(lambda: served.get("/ready").status_code == 200)
        assert served.post("/v1/chat/completions", CHAT).status_code == 200
        assert served.metric("unisono_failures_total") >= 3
        served.free()


def test_a_turn_that_breaks_fails_its_requests_and_the_next_are_served() -> None:
    with serving() as served:
        turn, calls = served.service.step, itertools.count()

        def breaking() -> Any:
            if next(calls) == 3:
                raise AssertionError("a fault of ours")
            return turn()

        served.service.step = breaking  # type: ignore[method-assign]
        response = served.post("/v1/chat/completions", endless(served))
        assert response.status_code == 500
        assert "fault" not in response.text
        assert served.post("/v1/chat/completions", CHAT).status_code == 200
        assert served.get("/ready").status_code == 200
        served.free()


def test_a_turn_that_breaks_is_one_crash_even_if_giving_up_fails_too() -> None:
    with serving() as served:
        service = served.service
        turn, close, calls = service.step, service.close, itertools.count()

        def breaking() -> Any:
            if next(calls) == 1:
                raise AssertionError("a fault of ours")
            return turn()

        def failing() -> None:
            close()
            raise RuntimeError("a slot that cannot be freed")

        service.step, service.close = breaking, failing  # type: ignore[method-assign]
        assert served.post("/v1/chat/completions", endless(served)).status_code == 500
        assert served.post("/v1/chat/completions", CHAT).status_code == 200
        assert served.get("/ready").status_code == 200
        served.free()
        service.close = close  # type: ignore[method-assign]


def test_an_engine_that_breaks_for_good_ends_the_server_and_every_caller_hears_of_it() -> None:
    def broken() -> Any:
        raise AssertionError("a fault of ours")

    with serving() as served:
        served.service.step = broken  # type: ignore[method-assign]
        statuses = [served.post("/v1/chat/completions", CHAT).status_code for _ in range(CRASHES)]
        assert statuses == [500] * CRASHES
        served.wait(lambda: served.engine.state == "broken" and served.server.should_exit)
        assert isinstance(served.engine.error, AssertionError)


def test_a_request_that_is_being_prepared_when_the_engine_ends_is_refused_at_once() -> None:
    preparing, go = threading.Event(), threading.Event()

    def broken(_: Service) -> None:
        raise AssertionError("a fault of ours")

    with serving() as served:
        prepare = served.service.prepare

        def slowly(request: GenerationRequest) -> PreparedRequest:
            preparing.set()
            assert go.wait(20)
            return prepare(request)

        served.service.prepare = slowly  # type: ignore[method-assign]
        results: list[httpx2.Response] = []
        asking = threading.Thread(target=lambda: results.append(served.post("/v1/chat/completions", CHAT)))
        asking.start()
        assert preparing.wait(20)
        for _ in range(CRASHES):
            served.engine.thread._commands.put(broken)
        served.wait(lambda: served.engine.state == "broken")
        go.set()
        asking.join(4)  # before the server, which ends too, closes its connections
        assert [(response.status_code, error_of(response)["code"]) for response in results] == [(503, "not_ready")]


def test_health_is_told_and_work_refused_while_the_models_load() -> None:
    go = threading.Event()

    def load() -> Service:
        assert go.wait(20)
        return load_fakes(DUO)

    with serving(load=load, await_ready=False) as served:
        assert served.get("/health").json() == {"status": "ok"}
        ready = served.get("/ready")
        assert (ready.status_code, ready.json()["reason"]) == (503, "the models are being loaded")
        for response in (served.post("/v1/chat/completions", CHAT), served.get("/v1/models")):
            assert (response.status_code, error_of(response)["code"]) == (503, "not_ready")
            assert "retry-after" in response.headers
        assert served.metric("unisono_ready") == 0
        go.set()
        served.wait(lambda: served.get("/ready").status_code == 200)
        assert served.metric("unisono_ready") == 1


def test_models_that_cannot_be_loaded_end_the_server() -> None:
    def load() -> Service:
        raise SpecError("there is no such model")

    with serving(load=load) as served:
        served.wait(lambda: served.server.should_exit)
        assert isinstance(served.engine.error, SpecError)


def test_at_the_end_running_requests_finish_and_new_ones_are_refused() -> None:
    with serving() as served:
        slow(served.service, 0.02)
        results: list[httpx2.Response] = []
        body = {**endless(served), "max_tokens": 40}
        asking = threading.Thread(target=lambda: results.append(served.post("/v1/chat/completions", body)))
        asking.start()
        served.wait(lambda: served.service.served == 1)
        served.call(served.server.end)
        served.wait(lambda: served.engine.state == "draining")
        assert served.get("/health").status_code == 200
        assert served.get("/ready").status_code == 503
        refused = served.post("/v1/chat/completions", CHAT)
        assert (refused.status_code, error_of(refused)["code"]) == (503, "shutting_down")
        asking.join(20)
        assert results[0].json()["usage"]["completion_tokens"] == 40
        served.wait(lambda: served.server.should_exit)


def test_a_request_that_is_being_prepared_at_the_end_finishes(monkeypatch: pytest.MonkeyPatch) -> None:
    trying, go = threading.Event(), threading.Event()

    async def wait(*_: Any) -> None:
        trying.set()
        while not go.is_set():
            await asyncio.sleep(0.005)

    monkeypatch.setattr(ConstraintTrials, "try_constraint", wait)
    with serving() as served:
        results: list[httpx2.Response] = []
        body = {"model": "duo", "prompt": ["a", "b"], "max_tokens": 2, "regex": "[a-z]*"}
        asking = threading.Thread(target=lambda: results.append(served.post("/v1/completions", body)))
        asking.start()
        assert trying.wait(20)
        served.call(served.server.end)
        served.wait(lambda: served.engine.state == "draining")
        go.set()
        asking.join(20)
        assert results[0].status_code == 200, results[0].text
        assert len(results[0].json()["choices"]) == 2


def test_when_the_grace_is_over_the_rest_is_told_so() -> None:
    with serving(limits=ServerLimits(grace=0.3)) as served:
        slow(served.service)
        results: dict[bool, httpx2.Response] = {}

        def ask(stream: bool) -> None:
            results[stream] = served.post("/v1/chat/completions", {**endless(served), "stream": stream})

        asking = [threading.Thread(target=ask, args=(stream,)) for stream in (False, True)]
        for thread in asking:
            thread.start()
        served.wait(lambda: served.service.served == 2)
        served.call(served.server.end)
        for thread in asking:
            thread.join(20)
        assert (results[False].status_code, error_of(results[False])["code"]) == (503, "shutting_down")
        last = results[True].text.strip().split("\n\n")[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "shutting_down"
        served.wait(lambda: served.server.should_exit)
        backends = [member.backend for member in served.engine._service.engines["duo"].members]  # type: ignore[union-attr]
        served.wait(lambda: all(not backend._backend._loaded for backend in backends))  # type: ignore[attr-defined]


@pytest.mark.parametrize("log_prompts", [False, True])
def test_logs_are_json_lines_without_what_was_written_unless_asked(
    caplog: pytest.LogCaptureFixture, log_prompts: bool
) -> None:
    secret = "xylophone quartz"
    with serving(log_prompts=log_prompts) as served, caplog.at_level(logging.INFO, "unisono.server"):
        body = {**CHAT, "messages": [{"role": "user", "content": secret}], "user": "someone"}
        written = served.post("/v1/chat/completions", body).json()
        served.post("/v1/chat/completions", {**body, "stream": True})
        served.post("/v1/completions", {"model": "duo", "prompt": secret, "temperature": -1})
        served.post("/v1/chat/completions", {**body, "stop": [secret, 7]})
        served.post("/v1/chat/completions", {**body, secret: 1})
        served.wait(lambda: sum(record.msg == "request" for record in caplog.records) == 5)
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records]
    requests = [line for line in lines if line["event"] == "request"]
    assert [line["status"] for line in requests] == [200, 200, 400, 400, 400]
    assert [line.get("stream") for line in requests[:2]] == [False, True]
    for line in requests[:2]:
        assert line["model"] == "duo"
        assert line["user"] == "someone"
        assert line["completion_tokens"] == 4
        assert line["prompt_tokens"] == written["usage"]["prompt_tokens"]
        assert line["finish"] == ["length"]
        assert 0 < line["first_piece_seconds"] <= line["seconds"]
        assert line["id"].startswith("req-")
    assert (secret in json.dumps(requests[:2])) == log_prompts
    assert (written["choices"][0]["message"]["content"] in json.dumps(requests[:2], ensure_ascii=False)) == log_prompts
    if not log_prompts:
        assert secret not in json.dumps(lines)


def test_limits_are_checked() -> None:
    for name in ("body", "prompt", "n", "output", "concurrency", "timeout", "reading"):
        with pytest.raises(SpecError, match=f"the limit {name} is 0"):
            replace(ServerLimits(), **{name: 0})
    assert ServerLimits(grace=0).grace == 0
    with pytest.raises(SpecError):
        ServerLimits(timeout=float("nan"))


def test_every_answer_has_a_number_of_its_own() -> None:
    with serving() as served:
        numbers = {served.get("/health").headers["x-request-id"] for _ in range(3)}
        assert len(numbers) == 3


def test_a_client_that_takes_nothing_is_let_go_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The work would go on for half a minute; the time for sending is over before."""
    monkeypatch.setattr(app_module, "SLACK", -29.5)
    with serving(limits=ServerLimits(timeout=30)) as served:
        slow(served.service)
        host, port = served.url.removeprefix("http://").split(":")
        body = json.dumps({**endless(served), "stream": True}).encode()
        with socket.create_connection((host, int(port)), 10) as connection:
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\n\r\n" % len(body) + body
            )
            served.wait(lambda: served.service.served == 1)
            served.wait(lambda: not served.service.busy, 5)
            while connection.recv(65536):
                pass
        served.free()
    of_server = [each for each in caplog.records if each.name.startswith("unisono.server")]  # the engine's are of load
    assert [each.getMessage() for each in of_server if each.levelno == logging.WARNING] == ["stalled"]


def test_loopback_is_what_only_this_machine_reaches() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.9.1", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org", "")))


def test_answers_on_a_connection_that_stays_open_are_not_held_back() -> None:
    bound = bind("127.0.0.1", 0)
    bound.close()
    assert bound.proto == socket.IPPROTO_TCP  # asyncio sends small writes at once (TCP_NODELAY) where it says so
    with serving() as served, httpx2.Client(base_url=served.url) as connection:
        assert connection.get("/health").status_code == 200
        seconds = []
        for _ in range(50):
            began = time.perf_counter()
            assert connection.get("/health").status_code == 200
            seconds.append(time.perf_counter() - began)
        assert sorted(seconds)[25] < 0.03  # the peer's delayed acknowledgements would make each 0.04


@pytest.mark.parametrize(
    "change",
    [
        {"messages": [{"role": "user", "content": "x"}] * 4000},
        {"tools": [0] * 11_000},
        {"tools": [{}] * 11_000},
        {"logit_bias": {str(index): "x" for index in range(11_000)}},
        {f"unknown{index}": 1 for index in range(11_000)},
    ],
)
def test_a_body_of_too_many_values_is_refused_before_all_that_is_wrong_with_it_is_told(change: dict[str, Any]) -> None:
    with serving() as served:
        response = served.post("/v1/chat/completions", {**CHAT, **change})
    assert response.status_code == 413
    assert error_of(response)["message"] == "the request has more than 10000 values, which is what this server takes"
    assert error_of(response)["param"] == (next(iter(change)) if len(change) == 1 else None)


def test_a_text_of_more_characters_than_fit_is_not_read() -> None:
    with serving(limits=ServerLimits(prompt=100)) as served:
        long = "x" * 1601
        for path, body in (
            ("/v1/completions", {"model": "duo", "prompt": long}),
            ("/v1/completions", {"model": "duo", "prompt": ["a", long]}),
            ("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": long}]}),
            ("/v1/pieces", {"model": "duo", "text": long}),
        ):
            response = served.post(path, body)
            assert response.status_code == 400
            assert "1601 characters, and this server takes 1600 at most" in error_of(response)["message"]
            assert error_of(response)["code"] == "context_length_exceeded"
        assert served.post("/v1/pieces", {"model": "duo", "text": long[1:]}).status_code == 200


def test_a_client_that_leaves_while_it_sends_is_no_fault_of_the_server() -> None:
    with serving() as served:
        host, port = served.url.removeprefix("http://").split(":")
        for head in ("Content-Length: 100", "Transfer-Encoding: chunked"):
            with socket.create_connection((host, int(port))) as leaving:
                lines = ["POST /v1/completions HTTP/1.1", "Host: x", "Content-Type: application/json", head, "", ""]
                leaving.sendall("\r\n".join(lines).encode())
                leaving.sendall(b'{"model"' if head.startswith("Content") else b'8\r\n{"model"\r\n')
                time.sleep(0.1)
        served.free()
        counted = [
            line for line in served.get("/metrics").text.splitlines() if line.startswith("unisono_requests_total")
        ]
        assert not [line for line in counted if 'status="500"' in line]
        assert sum(float(line.rpartition(" ")[2]) for line in counted if 'status="499"' in line) == 2


@pytest.fixture(scope="module")
def local_and_open() -> Iterator[tuple[Served, Served]]:
    make_fakes()
    with serving(local=True) as local, serving() as reachable:
        yield local, reachable


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("LOCALHOST", 200),
        ("a.localhost.", 200),
        ("127.0.0.1", 200),
        ("127.8.8.8:1", 200),
        ("[::1]:8000", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example:8000", 403),
        ("192.168.0.1", 403),
        ("[::2]", 403),
        ("localhost@evil.example", 403),
        ("", 403),
    ],
)
def test_without_keys_only_the_names_of_this_machine_are_answered(
    local_and_open: tuple[Served, Served], host: str, status: int
) -> None:
    local, reachable = local_and_open
    response = local.get("/v1/models", host=host)
    assert response.status_code == status, response.text
    if status == 403:
        assert error_of(response)["code"] == "foreign_host"
    assert reachable.get("/v1/models", host=host).status_code == 200


def test_a_list_that_could_never_wait_in_line_is_not_told_to_come_back() -> None:
    with serving(batch=1, queue=2) as served:
        response = served.post("/v1/completions", {"model": "duo", "prompt": ["a"] * 3, "max_tokens": 1})
        assert response.status_code == 400
        assert error_of(response)["param"] == "prompt"
        assert "a list of 3, and this server lets 2 wait at most" in error_of(response)["message"]
        fitting = served.post("/v1/completions", {"model": "duo", "prompt": ["a"] * 2, "max_tokens": 1})
        assert fitting.status_code == 200
