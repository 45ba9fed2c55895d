"""A served member that is away: requests fail by its name, or are answered without it, marked."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from support.fakes import make_fakes
from support.real_server import SAY, A, B, Served, serving
from support.workers import working
from unisono.backends.endpoint import caller
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.engine import circuit_breaker
from unisono.server import async_engine

CHAT: dict[str, Any] = {"model": "duo", "messages": SAY, "max_tokens": 4}


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(async_engine, "PROBE_SECONDS", 0.05)
    make_fakes()
    yield
    FAKE_MODELS.clear()


def be_away(served: Served) -> None:
    """Lose member b until its breaker is told otherwise."""
    FAKE_MODELS["b"].away = lambda feeds: "connection refused"
    [member] = [member for member in served.service.engines["duo"].members if member.name == "b"]
    member.breaker._clock = lambda: 0.0


def come_back(served: Served) -> None:
    FAKE_MODELS["b"].away = None
    [member] = [member for member in served.service.engines["duo"].members if member.name == "b"]
    member.breaker._clock = lambda: 1000.0


def test_a_request_that_needs_it_is_refused_by_name_until_it_is_back() -> None:
    with serving({"duo": {"members": [A, B]}}) as served:
        be_away(served)
        for _ in range(2):
            response = served.post("/v1/chat/completions", CHAT)
            assert (response.status_code, response.headers["retry-after"]) == (503, "1")
            error = response.json()["error"]
            assert error["code"] == "member_unavailable"
            assert "member 'b' at fake://elsewhere is not available: connection refused" in error["message"]
        ready = served.get("/ready")
        assert (ready.status_code, ready.json()["reason"]) == (503, "duo: member b is away")
        assert "fake://" not in ready.text  # no key is asked for
        assert served.post("/v1/chat/completions", {**CHAT, "model": "duo/a"}).status_code == 200
        assert served.metric("unisono_failures_total") == 2
        come_back(served)
        served.wait(lambda: served.get("/ready").json()["status"] == "ready")  # a probe has asked
        assert served.post("/v1/chat/completions", CHAT).status_code == 200
        served.free()


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_without_it_says_so(stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "unisono.server")
    with serving({"duo": {"members": [A, {**B, "on_failure": "degrade"}]}}) as served:
        whole = served.post("/v1/chat/completions", CHAT)
        assert "x-unisono-degraded" not in whole.headers
        assert served.get("/ready").json()["status"] == "ready"
        be_away(served)
        body = {**CHAT, "stream": stream, "unisono": {"trace": True}}
        response = served.post("/v1/chat/completions", body)
        assert response.status_code == 200
        assert '"degraded":{"b":4}' in response.text
        assert '"absent":["b"]' in response.text
        if not stream:
            assert response.headers["x-unisono-degraded"] == "b=4"
        ready = served.get("/ready")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        its = ready.json()["members"]["duo"]
        assert (its["a"]["state"], its["b"]["state"], its["b"]["losses"]) == ("ready", "away", 1)
        assert served.metric("unisono_choices_degraded_total") == 4
        assert served.metric("unisono_member_losses_total") == 1
        assert "# TYPE unisono_member_losses_total counter" in served.get("/metrics").text
        assert served.metric("unisono_member_up") == 1
        come_back(served)
        served.wait(lambda: served.get("/ready").json()["status"] == "ready")
        assert "x-unisono-degraded" not in served.post("/v1/chat/completions", CHAT).headers
        served.free()
    lines = [record.__dict__["facts"] for record in caplog.records if record.msg == "request"]
    assert [line["degraded"] for line in lines if "degraded" in line] == [{"b": 4}]


def test_requests_that_come_while_a_worker_is_away_are_answered_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tokenizer is away with it; the lead, by which prompts are counted, is it."""
    for module, name in ((circuit_breaker, "FIRST"), (circuit_breaker, "LONGEST"), (caller, "_AWAY")):
        monkeypatch.setattr(module, name, 0.02)
    with contextlib.ExitStack() as held:
        with working(B) as worker:
            port = int(worker.url.rpartition(":")[2])
            far = worker.spec("b", on_failure="degrade", timeout=1, retries=0, weight=2)
            served = held.enter_context(serving({"duo": {"members": [A, far]}}))
            assert "x-unisono-degraded" not in served.post("/v1/chat/completions", CHAT).headers
        response = served.post("/v1/chat/completions", {**CHAT, "unisono": {"trace": True}})
        assert response.status_code == 200, response.text
        assert response.headers["x-unisono-degraded"] == "b=4"
        assert response.json()["usage"]["prompt_tokens"] > 0
        assert served.get("/ready").json()["members"]["duo"]["b"]["state"] == "away"
        with working(B, port=port):
            served.wait(lambda: served.get("/ready").json()["status"] == "ready")  # a probe has asked
            assert "x-unisono-degraded" not in served.post("/v1/chat/completions", CHAT).headers
            served.free()


def test_certificates_of_a_member_are_shown() -> None:
    FAKE_MODELS["b"].top = 20
    with serving({"duo": {"members": [A, B]}}) as served:
        usage = served.post("/v1/chat/completions", CHAT).json()["usage"]
        members = served.get("/ready").json()["members"]["duo"]
        assert "certificates" not in members["a"]
        certificates = members["b"]["certificates"]
        assert certificates["uncertain"] == usage["completion_tokens_details"]["uncertain"]
        assert certificates["certain"] + certificates["uncertain"] == usage["completion_tokens"]
        assert served.metric("unisono_member_choices_total") == usage["completion_tokens"]
        assert served.metric("unisono_member_asked_again_total") == certificates["asked_again"]
