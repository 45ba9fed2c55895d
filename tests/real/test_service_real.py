"""64 requests with mixed parameters on the real pair, joining at random: each gets what it gets alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from support.covering import ALL
from support.demo import demo_spec
from support.prompts import CHATS, RAW
from unisono.backends.prefix_cache import PrefixCache
from unisono.backends.transformers.backend import RowBackend
from unisono.build import prepare
from unisono.chat.messages import Message, Prompt
from unisono.config.ensemble import load_spec
from unisono.config.method import Method
from unisono.engine.request import Ended, Failed, GenerationRequest, Wrote
from unisono.engine.scheduler import RequestId
from unisono.engine.service import Service
from unisono.loaded_models import load_service
from unisono.records import Generation, Limits
from unisono.step_records import StepRecord

pytestmark = pytest.mark.models

BACKENDS = {"transformers": {"dtype": "float32"}, "llamacpp": {}}
REQUESTS = 64 if ALL else 12
SLOTS = 8
CLOSE = 0.15
"""A difference of probabilities that llama.cpp's kernels may make (`test_laws_real.py`)."""
PAIR = [
    {},
    {"gate": "confidence:0.5"},
    {"gate": "entropy:1.5 boundary", "speculate": "smol:3"},
    {"lead": "gemma", "gate": "every:3"},
    {"speculate": "auto"},
    {"combine": "geometric"},
    {"combine": {"rule": "mean", "weights": "perplexity"}},
    {"draw": "one-member seed:5"},
    {"draw": "beam_width:2"},
]
ANY = [
    {},
    {"draw": "0.8 seed:1 top_p:0.9"},
    {"draw": "1 seed:2 top_k:20 presence_penalty:1"},
    {"draw": "greedy repetition_penalty:1.3 logit_bias:10=-100"},
    {"speculate": "ngram"},
]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and when it joins."""

    model: str
    prompt: Prompt
    limits: Limits
    method: Method
    n: int
    turns_before: int


@pytest.fixture(scope="module", params=BACKENDS)
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    spec = demo_spec(backend=request.param, context=512, **BACKENDS[request.param])
    service = load_service({"duo": prepare(load_spec(spec), batch=SLOTS)}, chunk=24)
    yield service
    service.unload()


def requests_at_random(service: Service) -> list[Asked]:
    chance = random.Random(4)
    found = []
    for number in range(REQUESTS):
        model = chance.choice(["duo", "duo", "duo", "duo/smol", "duo/gemma"])
        keys: dict[str, Any] = chance.choice([*ANY, *(PAIR if model == "duo" else [])])
        method = service.engine(model).method.but(**keys)
        stop = chance.choice(["", "", ".", "the "])
        limits = Limits(chance.randint(1, 9), (stop,) if stop else ())
        n = 2 if not method.draw.is_greedy and chance.random() < 0.5 else 1
        prompt = chance.choice([*CHATS, *RAW])
        found.append(Asked(model, prompt, limits, method, n, 0 if number < 4 else chance.randint(0, 4)))
    return found


def together(service: Service, asked: list[Asked]) -> list[list[Generation]]:
    """Let them join the running batch; a text must be the sum of what was told of it."""
    ended: dict[RequestId, dict[int, Generation]] = {}
    told: dict[tuple[RequestId, int], str] = {}

    def turn() -> None:
        for event in service.step():
            assert not isinstance(event, Failed), event
            if isinstance(event, Wrote):
                told[event.request_id, event.index] = told.get((event.request_id, event.index), "") + event.text
            elif isinstance(event, Ended):
                ended.setdefault(event.request_id, {})[event.index] = event.generation

    tickets = []
    for request in asked:
        for _ in range(request.turns_before):
            turn()
        wanted = GenerationRequest(
            "", request.prompt, request.limits, True, request.method, n=request.n, model=request.model
        )
        tickets.append(service.submit(service.prepare(wanted)))
    while service.busy:
        turn()
    for (ticket, index), text in told.items():
        assert text == ended[ticket][index].text
    return [[ended[ticket][index] for index in sorted(ended[ticket])] for ticket in tickets]


def alone(service: Service, request: Asked, index: int) -> Generation:
    """What one text gets on an engine that serves nobody else and remembers nothing."""
    engine, draw = service.engines[request.model], request.method.draw
    for member in engine.members:
        assert isinstance(member.backend, PrefixCache)
        member.backend.limit(0)
    seeded = draw if draw.seed is None else replace(draw, seed=draw.seed + index)
    text = engine.add(request.prompt, request.limits, method=replace(request.method, sampling=seeded), trace=True)
    while text.finish is None:
        if ids := engine.backlog(text):
            engine.read({text: ids})
        engine.step()
    return text.generation()


def test_requests_that_join_at_random_get_what_each_gets_alone(service: Service) -> None:
    asked = requests_at_random(service)
    exact = isinstance(service.engines["duo"].members[0].backend._backend, RowBackend)  # type: ignore[attr-defined]
    for request, found in zip(asked, together(service, asked), strict=True):
        assert len(found) == request.n
        if not exact and not (request.method.draw.is_greedy and request.method.draw.beam_width == 1):
            continue  # other last bits draw and search for other texts
        for index, generation in enumerate(found):
            expected = alone(service, request, index)
            if exact:
                assert (generation.data, generation.finish_reason) == (expected.data, expected.finish_reason), request
                assert [step.p for step in generation.steps or ()] == pytest.approx(
                    [step.p for step in expected.steps or ()], abs=1e-4
                )
            else:
                agree(generation.steps or (), expected.steps or ())
    assert service.engines["duo"].free == SLOTS


def test_a_conversation_is_not_read_again(service: Service) -> None:
    """Each turn sends all turns before it; what is new of it is all that is read, and nothing else changes."""
    messages = [Message(role="system", content="You answer in short sentences. " * 12)]
    for question in ("What is a lighthouse?", "日本語で?"):
        messages.append(Message(role="user", content=question))
        request = Asked("duo", Prompt(messages=tuple(messages)), Limits(4), service.engine("duo").method, 1, 0)
        stores = [member.backend for member in service.engines["duo"].members]
        before = [store.reused for store in stores]  # type: ignore[attr-defined]
        [[found]] = together(service, [request])
        if len(messages) > 2:
            assert all(store.reused > had + 80 for store, had in zip(stores, before, strict=True))  # type: ignore[attr-defined]
        expected = alone(service, request, 0)
        assert found.steps is not None
        agree(found.steps, expected.steps or ())
        together(service, [request])  # `alone` has forgotten it
        messages.append(Message(role="assistant", content=found.text))


def agree(one: tuple[StepRecord, ...], other: tuple[StepRecord, ...]) -> None:
    """Where kernels differ in the last bits: as far as the same is written, it is about as likely."""
    for left, right in zip(one, other, strict=False):
        assert left.p == pytest.approx(right.p, abs=CLOSE)
        if left.piece != right.piece:
            break
