"""An ensemble with members behind workers writes what it writes with the same members at home."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.fakes import PROMPTS, make_fakes
from support.workers import Worker, working
from unisono.backends.base import LoadRequest
from unisono.backends.endpoint import row_memory
from unisono.backends.endpoint.settings import EndpointSource
from unisono.backends.fake.backend import FAKE_MODELS, FakeModel
from unisono.backends.registry import make_loader
from unisono.ensemble import Ensemble
from unisono.testing import BACKEND_CONTRACT, ContractCase

NAMES = ("a", "b")


@pytest.fixture(scope="module", autouse=True)
def fakes() -> Iterator[dict[str, FakeModel]]:
    make_fakes()
    yield dict(FAKE_MODELS)
    FAKE_MODELS.clear()


@pytest.fixture(scope="module")
def workers(fakes: Any) -> Iterator[dict[str, Worker]]:
    a, b = ({"name": name, "model": f"fake:{name}"} for name in NAMES)
    with working(a, slots=16) as of_a, working(b, slots=16) as of_b:
        yield {"a": of_a, "b": of_b}


def source_of(worker: Worker, top: int | None = None) -> EndpointSource:
    return EndpointSource("endpoint", worker.url, top=top, timeout=20, retries=0)


@pytest.mark.parametrize(("top", "memory"), [(None, True), (None, False), (5, True)])
def test_a_worker_keeps_the_contract_of_the_waist(
    workers: dict[str, Worker], top: int | None, memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_memory, "POSSIBLE", row_memory.POSSIBLE and memory)
    loader = make_loader("endpoint", LoadRequest("a", source_of(workers["a"], top), slots=4))
    tokenizer = loader.tokenizer()
    texts = ("the cat sees a dog", "Hello, Sofia — and the dog sings", "日本 ends here")
    case = ContractCase(tuple(tuple(tokenizer.encode_prompt(text)) for text in texts), 0.0)
    backend = loader.load(lambda fraction, words: None)
    for check in BACKEND_CONTRACT.values():
        check(backend, case)
    backend.unload()


def test_the_tokenizer_is_the_workers(workers: dict[str, Worker]) -> None:
    for name in NAMES:
        own = FAKE_MODELS[name].tokenizer
        there = make_loader("endpoint", LoadRequest(name, source_of(workers[name]))).tokenizer()
        for key in own.table.__dataclass_fields__:
            assert getattr(there.table, key) == getattr(own.table, key), key
        for text in ("", " the cat 日本", "ça va, 🎉! <|user|>\ud800"):
            if "\ud800" not in text:
                assert there.encode(text) == own.encode(text)
                assert there.encode_prompt(text) == own.encode_prompt(text)
            assert there.encode_rendered("<|user|>x") == own.encode_rendered("<|user|>x")


METHODS: list[dict[str, Any]] = [
    {},
    {"sampling": "0.9 seed:3 top_p:0.9"},
    {"lead": "a", "gate": "confidence:0.6"},
    {"lead": "b", "speculate": "a:3"},
    {"sampling": "beam_width:3"},
    {"lead": "a", "gate": "margin:0.5", "speculate": "ngram", "sampling": "0.8 seed:1"},
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: "-".join(map(str, method.values())) or "greedy")
def test_an_ensemble_writes_what_it_writes_at_home(workers: dict[str, Worker], method: dict[str, Any]) -> None:
    home = [{"name": name, "model": f"fake:{name}"} for name in NAMES]
    expected = generations(home, method)
    assert generations([workers[name].spec(name) for name in NAMES], method) == expected


def generations(members: list[dict[str, Any]], method: dict[str, Any], **keys: Any) -> list[tuple[Any, ...]]:
    with Ensemble.load({"members": members, **method}, batch=4) as ensemble:
        texts = [prompt.text for prompt in PROMPTS[:3] if prompt.text]
        written = ensemble.generate(texts, max_new_tokens=12, **keys)
        written += ensemble.generate(messages=[[*(PROMPTS[6].messages or ())]], max_new_tokens=12, **keys)
    return [(each.text, each.finish_reason, each.usage.pieces, each.usage.ensembled) for each in written]


def test_a_constraint_holds_across_workers(workers: dict[str, Worker]) -> None:
    home = [{"name": name, "model": f"fake:{name}"} for name in NAMES]
    away = [workers[name].spec(name) for name in NAMES]
    constraint = {"regex": "(cat|dog){3} (the )+cat"}
    assert generations(away, {}, constraint=constraint) == generations(home, {}, constraint=constraint)
