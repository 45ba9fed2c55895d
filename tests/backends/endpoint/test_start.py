"""Engines that are not there when an ensemble begins, and whose weights are looked at again."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from support.engine_processes import free_port
from support.fakes import PROMPTS, make_fakes
from support.http_stand_in import Reply
from support.llama_server_stand_in import LlamaServerStandIn
from support.workers import working
from unisono.backends.base import Feed, LoadRequest, ModelSource
from unisono.backends.endpoint import loader, weights_print
from unisono.backends.endpoint.loader import EndpointLoader
from unisono.backends.endpoint.rows import Row
from unisono.backends.endpoint.settings import EndpointSource
from unisono.backends.endpoint.weights_print import is_same
from unisono.backends.fake.backend import FAKE_MODELS, FakeModel, hashed_rule
from unisono.engine import circuit_breaker
from unisono.engine.lost_members import health
from unisono.ensemble import Ensemble
from unisono.errors import MemberUnavailable

A = {"name": "a", "model": "fake:a"}


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


def source_of(url: str, **keys: Any) -> EndpointSource:
    keys = {"tokenizer": ModelSource("fake", "b"), "tokenizer_backend": "fake", "retries": 0, "top": 8, **keys}
    return EndpointSource("endpoint", url, **keys)


def loader_of(url: str, *, may_be_away: bool = False, **keys: Any) -> EndpointLoader:
    return EndpointLoader(LoadRequest("far", source_of(url, **keys), slots=2, may_be_away=may_be_away))


@contextlib.contextmanager
def later(stand_in: LlamaServerStandIn, port: int, seconds: float) -> Iterator[None]:
    """Serve from so many seconds on."""
    done = threading.Event()

    def serve() -> None:
        time.sleep(seconds)
        with stand_in.serve(port):
            done.wait(30)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_who_does_not_answer_yet_is_waited_for_and_that_is_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "PAUSE", 0.02)
    port = free_port()
    with later(LlamaServerStandIn(FAKE_MODELS["b"]), port, 0.2):
        assert loader_of(f"http://127.0.0.1:{port}", wait=10.0).facts().architecture.startswith("llama-server")
    assert sum("waiting for it, for 10 s at most" in line for line in caplog.messages) == 1


def test_who_loads_its_weights_is_waited_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "PAUSE", 0.01)
    stand_in = LlamaServerStandIn(FAKE_MODELS["b"])
    stand_in.faults["/v1/member"] = [Reply(503, b'{"error":{"message":"Loading model"}}')] * 5
    with stand_in.serve() as url:
        assert loader_of(url, wait=0.001).facts().rows == FAKE_MODELS["b"].output_rows
        stand_in.faults["/v1/member"] = [Reply(503, b"")]
        with pytest.raises(MemberUnavailable, match="503"):
            loader_of(url, wait=0.0).facts()


def test_what_does_not_pass_is_an_error_at_once() -> None:
    with LlamaServerStandIn(FAKE_MODELS["b"], key="secret").serve() as url:
        began = time.monotonic()
        with pytest.raises(MemberUnavailable, match="401"):
            loader_of(url, wait=10.0).facts()
        assert time.monotonic() - began < 5


def test_nobody_there_is_an_error_that_names_the_address() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(MemberUnavailable, match=f"'far' at {url}"):
        loader_of(url, wait=0.0).facts()


def test_without_a_worker_nothing_can_begin_and_the_error_says_what_to_do() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    spec = {"name": "b", "url": url, "on_failure": "degrade", "wait": 0}
    with pytest.raises(MemberUnavailable, match=r"'b' at .* no ensemble can begin without its vocabulary: start it"):
        Ensemble.load({"members": [A, spec]})


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_breaker, "FIRST", 0.01)
    monkeypatch.setattr(circuit_breaker, "LONGEST", 0.01)
    monkeypatch.setattr(circuit_breaker, "SPARED", 0.0)


def spec_of(url: str, **keys: Any) -> dict[str, Any]:
    far = {"name": "b", "url": url, "tokenizer": "fake:b", "on_failure": "degrade", "wait": 0, "retries": 0, "top": 20}
    return {"members": [A, {**far, **keys}]}


@pytest.mark.usefixtures("quick")
def test_an_ensemble_begins_without_an_engine_and_it_joins_when_it_is_there() -> None:
    port = free_port()
    with Ensemble.load(spec_of(f"http://127.0.0.1:{port}")) as ensemble:
        away = ensemble.generate(PROMPTS[0], max_new_tokens=6)
        assert away.usage.degraded == {"b": away.usage.pieces + (away.finish_reason == "end")}
        with LlamaServerStandIn(FAKE_MODELS["b"]).serve(port) as url:
            time.sleep(0.02)
            back = ensemble.generate(PROMPTS[0], max_new_tokens=6)
            assert not back.usage.degraded
            with Ensemble.load(spec_of(url)) as other:
                assert other.generate(PROMPTS[0], max_new_tokens=6).text == back.text


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("wrong", ["rows", "context", "tokenizer", "worker"])
def test_what_is_not_the_engine_that_was_assumed_stays_away_by_name(
    wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    port, served = free_port(), FAKE_MODELS["b"]
    url, words = (
        f"http://127.0.0.1:{port}",
        {
            "rows": "start unisono again while it runs",
            "context": "set the member's context to 99",
            "tokenizer": "is not that of the model",
            "worker": "leave the key tokenizer out, and start unisono again",
        },
    )
    with Ensemble.load(spec_of(url)) as ensemble:
        if wrong == "rows":
            served = FakeModel(served.tokenizer, hashed_rule(400), rows=400)
        elif wrong == "context":
            served = FakeModel(served.tokenizer, served.next_token, context=100)
        elif wrong == "tokenizer":
            served = FAKE_MODELS["a"]
        serving = working({"name": "b", "model": "fake:b"}, port=port) if wrong == "worker" else None
        with serving or LlamaServerStandIn(served).serve(port):
            time.sleep(0.02)
            assert ensemble.generate(PROMPTS[0], max_new_tokens=4).usage.degraded
            assert [health(member, ()).state for member in ensemble._engine.members] == ["ready", "refused"]
    assert any("stays away" in line and words[wrong] in line for line in caplog.messages)


def test_after_a_silence_the_weights_are_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = LlamaServerStandIn(FAKE_MODELS["b"])
    with stand_in.serve() as url:
        backend = loader_of(url).load(lambda *_: None)
        looks = len(stand_in.requests) - len(stand_in.asked("/completion"))
        backend.advance([Feed(backend.open(), [5])])
        same = len(stand_in.requests) - len(stand_in.asked("/completion"))
        assert same == looks + 2  # /props and /v1/models
        monkeypatch.setattr(weights_print, "SILENCE", 0.0)
        stand_in.model = FakeModel(stand_in.model.tokenizer, hashed_rule(stand_in.model.output_rows, seed=9))
        with pytest.raises(MemberUnavailable, match="other weights"):
            backend.advance([Feed(backend.open(), [5])])


def test_rounding_is_no_other_model() -> None:
    first = Row(list(range(20)), [-0.1 * n - 1 for n in range(20)], 0.01)
    assert is_same(first, Row(list(range(20)), [-0.1 * n - 1.02 for n in range(20)], 0.01))
    assert is_same(first, Row([*range(18), 20, 21], [-0.1 * n - 1 for n in range(20)], 0.01))
    assert not is_same(first, Row(list(range(20)), [-0.1 * n - 1.4 for n in range(20)], 0.01))
    assert not is_same(first, Row(list(range(10, 30)), [-0.1 * n - 1 for n in range(20)], 0.01))
