"""What goes on while a worker is away: its tokenizer is there, too."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from support.fakes import PROMPTS, make_fakes
from support.workers import Worker, working
from unisono.backends.base import Feed, LoadRequest
from unisono.backends.endpoint.settings import EndpointSource
from unisono.backends.endpoint.worker import WorkerAdapter
from unisono.backends.endpoint.worker_tokenizer import WorkerTokenizer
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.backends.registry import make_loader
from unisono.backends.wire import Frame
from unisono.engine import circuit_breaker
from unisono.ensemble import Ensemble
from unisono.errors import MemberUnavailable
from unisono.records import Limits
from unisono.worker.app import WorkerApp

A, B = {"name": "a", "model": "fake:a"}, {"name": "b", "model": "fake:b"}


@pytest.fixture(scope="module", autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with working(B) as served:
        yield served


def silent(fraction: float, words: str) -> None: ...


def test_the_pieces_that_a_worker_lacks_are_learned_behind_the_loading() -> None:
    with working(B) as worker, Ensemble.load({"members": [A, worker.spec("b")]}) as ensemble:
        [_, member] = ensemble.prepared.members
        tokenizer = member.remote_tokenizer
        assert isinstance(tokenizer, WorkerTokenizer)
        union = ensemble._engine.union
        own = {piece.decode() for piece in member.vocabulary.pieces if piece and piece.isascii()}
        lacking = {piece.decode() for n in range(union.texts) if (piece := union.piece(n)) and piece.isascii()} - own
        deadline = time.monotonic() + 10
        while not lacking <= tokenizer._learned.keys():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert lacking
        for text in lacking:
            assert tokenizer.encode(text) == FAKE_MODELS["b"].tokenizer.encode(text)


@pytest.mark.parametrize("method", [{}, {"lead": "a", "gate": "confidence:0.9 boundary"}, {"speculate": "a:3"}])
def test_a_text_goes_on_and_its_pieces_are_spelled(method: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker ends behind the first steps, and knows nothing of the pieces that come."""
    monkeypatch.setattr(WorkerTokenizer, "expect", lambda self, texts: None)
    with working(B) as worker:
        spec = worker.spec("b", on_failure="degrade", timeout=5, retries=0)
        ensemble = Ensemble.load({"members": [A, spec], **method})
        engine = ensemble._engine
        far = next(member for member in engine.members if member.name == "b")
        text = engine.add(PROMPTS[0], Limits(24), trace=True)
        engine.step()
    far.speller._known.clear()
    began = time.monotonic()
    ids: list[int] = []
    while engine.active:
        ids = engine.groups[0].open[0].cursors["b"].ids
        engine.step()
    assert time.monotonic() - began < 3
    written = text.generation()
    assert written.finish_reason in ("end", "length")
    assert written.usage.degraded
    chosen = b"".join(step.piece or b"" for step in written.steps or ())
    assert far.speller.vocabulary.join(ids).endswith(chosen)
    with pytest.raises(MemberUnavailable, match="connection fails") as failed:
        far.encoder.tokenizer.encode("a text that is not known")
    assert failed.value.address == worker.url
    ensemble.close()


def test_a_frozen_worker_costs_a_text_one_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WorkerTokenizer, "expect", lambda self, texts: None)
    with working(B) as worker:
        spec = worker.spec("b", on_failure="degrade", timeout=0.3, retries=0)
        with Ensemble.load({"members": [A, spec]}) as ensemble:
            engine = ensemble._engine
            text = engine.add(PROMPTS[0], Limits(24))
            engine.step()
            engine.members[1].speller._known.clear()
            asked: list[str] = []

            async def freeze(app: object, scope: dict[str, Any], *args: object) -> None:
                asked.append(scope["path"])
                await asyncio.sleep(0.5)

            async def freeze_step(app: object, body: bytes, *args: object) -> None:
                asked.append("step")
                await asyncio.sleep(0.5)

            monkeypatch.setattr(WorkerApp, "_placed", freeze_step)
            monkeypatch.setattr(WorkerApp, "__call__", freeze)
            while engine.active:
                engine.step()
            assert [each for each in asked if each != "/v1/leave"] == ["step"]  # nobody waits for a farewell
            assert text.generation().usage.degraded


def test_what_is_learned_is_of_one_process_and_ends_with_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    async def learn(*args: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(WorkerTokenizer, "_learn", learn)
    with working(B) as worker, Ensemble.load({"members": [A, worker.spec("b")]}) as ensemble:
        tokenizer = ensemble.prepared.members[1].remote_tokenizer
        assert isinstance(tokenizer, WorkerTokenizer)
        assert begun.wait(10)
        twin = pickle.loads(pickle.dumps(tokenizer))
        assert twin.encode("the cat") == tokenizer.encode("the cat")
        [running] = tokenizer._client._started
        ensemble.close()
        assert running.cancelled()


def test_who_is_known_to_be_away_is_not_asked_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    with working(B) as worker:
        ensemble = Ensemble.load({"members": [A, worker.spec("b", timeout=5, retries=0)]})
    tokenizer = ensemble.prepared.members[1].remote_tokenizer
    assert isinstance(tokenizer, WorkerTokenizer)
    client = tokenizer._client
    with pytest.raises(MemberUnavailable):
        client.run(client.get("/v1/member"))
    monkeypatch.setattr(client, "run", None)  # whoever asked would fail otherwise
    with pytest.raises(MemberUnavailable, match="the connection fails") as failed:
        tokenizer.encode("unknown text")
    assert failed.value.retry_after
    monkeypatch.undo()
    client.hear()
    with pytest.raises(MemberUnavailable) as failed:
        tokenizer.encode("unknown text")
    assert failed.value.retry_after is None
    ensemble.close()


def changed(**keys: Any) -> Callable[[Frame], Frame]:
    return lambda frame: Frame({**frame.head, **keys}, frame.arrays)


def spoiled(number: float) -> Callable[[Frame], Frame]:
    def spoil(frame: Frame) -> Frame:
        logits = frame.arrays["logits"].copy()
        logits[0, 3] = number
        return Frame(frame.head, {"logits": logits})

    return spoil


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed(lengths=[4]), "about another text"),
        (changed(lengths=None), "about another text"),
        (changed(number=-1), "about another text"),
        (changed(session="another"), "about another text"),
        (changed(model="another"), "another model"),
        (spoiled(float("nan")), "no numbers"),
        (spoiled(float("inf")), "no numbers"),
    ],
)
def test_an_answer_that_cannot_be_used_is_a_member_that_is_away(
    worker: Worker, change: Callable[[Frame], Frame], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_loader("endpoint", LoadRequest("b", EndpointSource("endpoint", worker.url, retries=0))).load(silent)
    slot, post = backend.open(), WorkerAdapter._post

    def answer(*args: Any) -> Frame:
        return change(post(*args))

    monkeypatch.setattr(WorkerAdapter, "_post", answer)
    with pytest.raises(MemberUnavailable, match=words) as failed:
        backend.advance([Feed(slot, [1, 2, 3], 1)])
    assert failed.value.address == worker.url
    monkeypatch.undo()
    assert np.isfinite(backend.advance([Feed(slot, [1, 2, 3], 1)])).all()
    backend.unload()
    leases = worker.service._leases
    assert leases is not None
    assert not leases.sessions


def test_a_token_that_is_accepted_no_longer_is_an_error_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMBER_KEY", "a-token-of-some-length")
    monkeypatch.setattr(circuit_breaker, "FIRST", 0.01)
    monkeypatch.setattr(circuit_breaker, "SPARED", 0.0)
    with working(B, token="a-token-of-some-length") as worker:
        ensemble = Ensemble.load({"members": [worker.spec("b", api_key_env="MEMBER_KEY", retries=0)]})
        expected = ensemble.generate(PROMPTS[0], max_new_tokens=4).text
    port = int(worker.url.rpartition(":")[2])
    with working(B, token="another-token-of-length", port=port):
        with pytest.raises(MemberUnavailable, match=r"answers 401 .* the key is not accepted") as failed:
            ensemble.generate(PROMPTS[0], max_new_tokens=4)
        assert "a-token" not in str(failed.value)
    with working(B, token="a-token-of-some-length", port=port):
        time.sleep(0.02)
        assert ensemble.generate(PROMPTS[0], max_new_tokens=4).text == expected
    ensemble.close()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"truncated": [-1, 5, 5]}, "cannot be"),
        ({"truncated": [5, 4, 0]}, "cannot be"),
        ({"rows": 3}, "and its model 3"),
    ],
)
def test_a_description_that_cannot_be_is_refused(
    worker: Worker, keys: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = make_loader("endpoint", LoadRequest("b", EndpointSource("endpoint", worker.url, retries=0)))
    monkeypatch.setitem(worker.service.member.__dict__, "description", worker.service.member.description | keys)
    with pytest.raises(MemberUnavailable, match=words):
        loader.facts()


def test_warnings_are_those_of_the_model(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    told = worker.service.member.description | {"warnings": ["its weights are odd"]}
    monkeypatch.setitem(worker.service.member.__dict__, "description", told)
    loader = make_loader("endpoint", LoadRequest("b", EndpointSource("endpoint", worker.url, retries=0)))
    assert loader.facts().warnings == ("its weights are odd",)
