"""What may go wrong between a member and its engine, tried on every wire format that gives rows one by one."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from support.completions_stand_in import CompletionsStandIn
from support.http_stand_in import RESET, Reply, Request, StandIn
from support.llama_server_stand_in import LlamaServerStandIn
from support.sglang_stand_in import SGLangStandIn
from unisono.backends.base import Feed, LoadRequest, ModelSource
from unisono.backends.endpoint.backend import EndpointBackend
from unisono.backends.endpoint.loader import EndpointLoader
from unisono.backends.endpoint.settings import EndpointSource
from unisono.backends.top_logprobs import TopLogprobs
from unisono.errors import MemberUnavailable
from unisono.testing import FakeModel, fake_member, hashed_rule

IDS = tuple((7 * n + 27) % 250 for n in range(9))
FORMATS: dict[str, tuple[Callable[[FakeModel], Any], str]] = {
    "llama-server": (LlamaServerStandIn, "/completion"),
    "/v1/completions": (CompletionsStandIn, "/v1/completions"),
    "SGLang": (SGLangStandIn, "/generate"),
}


@pytest.fixture(params=FORMATS)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, str]]:
    """A stand-in, and the path at which it is asked for rows."""
    monkeypatch.setenv("MEMBER_KEY", "a-key-of-these-tests")
    make, path = FORMATS[request.param]
    stand_in = make(fake_member("served", [" the", "日本"]))
    with stand_in.serve():
        yield stand_in, path


def load(url: str, **keys: Any) -> EndpointBackend:
    plain = {"tokenizer": ModelSource("fake", "served"), "tokenizer_backend": "fake", "api_key_env": "MEMBER_KEY"}
    keys = {**plain, "top": 8, "retries": 0, **keys}
    request = LoadRequest("far", EndpointSource("endpoint", url, **keys), context=64, slots=4)
    return EndpointLoader(request).load(lambda *_: None)


def check_row(backend: EndpointBackend, model: FakeModel, slot: int) -> None:
    """The fault before has left the slot as it was."""
    told = backend.advance([Feed(slot, IDS)])
    assert isinstance(told, TopLogprobs)
    assert told.ids_NK[0, 0] == int(np.argmax(model.next_token(IDS)))


Fault = Callable[[StandIn, Request], Reply]


def changed(change: Callable[[bytes], bytes]) -> Fault:
    """The engine's own answer, with something else in it."""

    def answer(stand_in: StandIn, request: Request) -> Reply:
        reply = stand_in.answer(request)
        return Reply(reply.status, change(reply.content), reply.headers)

    return answer


def only(reply: Reply) -> Fault:
    return lambda stand_in, request: reply


def without_numbers(content: bytes) -> bytes:
    return json.dumps(json.loads(content, parse_float=lambda _: float("nan"))).encode()


FAULTS: dict[str, tuple[Fault, str, float | None]] = {
    "reset": (only(RESET), r"the connection fails", None),
    "half an answer": (only(Reply(content=b"x" * 500, sends=0.5)), r"the connection fails", None),
    "half of its JSON": (changed(lambda content: content[: len(content) // 2]), r"no JSON", None),
    "an expired token": (only(Reply(401, b"expired")), r"answers 401.*the key is not accepted", None),
    "too many requests": (only(Reply(429, b"slow", {"retry-after": "7"})), r"answers 429", 7),
    "unavailable": (only(Reply(503, b"loading", {"retry-after": "9"})), r"answers 503", 9),
    "garbage": (only(Reply(content=bytes(range(256)))), r"no JSON", None),
    "nothing": (only(Reply()), r"an empty answer", None),
    "another answer": (only(Reply(content=b'{"detail": "ok"}')), r"answers? (another text|is not that of)", None),
    "NaN": (changed(without_numbers), r"NaN where a number is expected", None),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_an_error_by_name_and_the_next_answer_is_right(engine: tuple[Any, str], fault: str) -> None:
    stand_in, path = engine
    does, words, seconds = FAULTS[fault]
    backend = load(stand_in.url)
    slot = backend.open()
    stand_in.faults[path] = [lambda request: does(stand_in, request)]
    with pytest.raises(MemberUnavailable, match=words) as raised:
        backend.advance([Feed(slot, IDS)])
    assert (raised.value.member, raised.value.address) == ("far", stand_in.url)
    assert raised.value.retry_after == seconds
    check_row(backend, stand_in.model, slot)


def test_who_is_slow_is_waited_for_until_the_time_out(engine: tuple[Any, str]) -> None:
    stand_in, path = engine
    backend, over = load(stand_in.url, timeout=5.0), threading.Event()
    slot = backend.open()

    def late(request: Request) -> Reply:
        time.sleep(0.1)
        return stand_in.answer(request)

    stand_in.faults[path] = [late]
    check_row(backend, stand_in.model, slot)
    backend.rewind(slot, 0)
    backend._client.timeout = 0.2
    stand_in.faults[path] = [lambda request: Reply(200 if over.wait(10) else 500)]
    with pytest.raises(MemberUnavailable, match=r"not answered within 0\.2 s"):
        backend.advance([Feed(slot, IDS)])
    over.set()
    backend._client.timeout = 5.0
    check_row(backend, stand_in.model, slot)


def test_an_engine_that_comes_back_with_other_weights_is_refused(engine: tuple[Any, str]) -> None:
    """Same name, size and shape; the connection was lost in between."""
    stand_in, path = engine
    model, backend = stand_in.model, load(stand_in.url, retries=1)
    slot = backend.open()
    check_row(backend, model, slot)
    stand_in.model = FakeModel(model.tokenizer, hashed_rule(model.output_rows, seed=9))
    stand_in.faults[path] = [RESET]
    for _ in range(2):
        with pytest.raises(MemberUnavailable, match="it has other weights now than when it was loaded") as raised:
            backend.advance([Feed(slot, [5])])
        assert raised.value.refused
    stand_in.model = model
    backend.rewind(slot, 0)
    check_row(backend, model, slot)
