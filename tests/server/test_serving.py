"""What a service is loaded with: ensembles, and their members alone, on models that are loaded once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from support.fakes import PROMPTS, make_fakes
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.build import prepare_several
from unisono.config.ensemble import load_spec
from unisono.config.method import Method
from unisono.engine.reference import plain_steps
from unisono.engine.request import Ended, Failed, GenerationRequest, PreparedRequest
from unisono.engine.scheduler import RequestId
from unisono.engine.service import Service
from unisono.ensemble import Ensemble
from unisono.errors import CapacityError, SpecError
from unisono.loaded_models import load_service
from unisono.records import Generation, Limits

A, B, C = ({"name": name, "model": f"fake:{name}"} for name in "abc")


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


def serve(ensembles: Mapping[str, Any], batch: int = 4, **keys: Any) -> Service:
    specs = [load_spec(spec) for spec in ensembles.values()]
    return load_service(dict(zip(ensembles, prepare_several(specs, batch=batch), strict=True)), **keys)


def finish(service: Service) -> dict[RequestId, list[Generation]]:
    found: dict[RequestId, list[Generation]] = defaultdict(list)
    while service.busy:
        for event in service.step():
            assert not isinstance(event, Failed), event
            if isinstance(event, Ended):
                found[event.request_id].append(event.generation)
    return found


def test_members_answer_alone_beside_their_ensemble_as_if_there_were_no_others() -> None:
    service = serve({"duo": {"members": [A, B], "gate": "confidence:0.5", "speculate": "a:3"}})
    models = ("duo", "duo/a", "duo/b")
    assert service.models == models
    asked = [(model, prompt) for prompt in PROMPTS for model in models]
    tickets = [
        service.submit(service.prepare(GenerationRequest("", prompt, Limits(12), model=model)))
        for model, prompt in asked
    ]
    found = finish(service)
    for ticket, (model, prompt) in zip(tickets, asked, strict=True):
        members = {"duo": [A, B], "duo/a": [A], "duo/b": [B]}[model]
        alone = {"members": members, **({"gate": "confidence:0.5"} if model == "duo" else {})}
        with Ensemble.load(alone) as ensemble:
            engine = ensemble._engine
            plain = plain_steps(engine.members, engine.union, prompt, 12, engine.method)
            assert found[ticket][0].data == b"".join(step.piece or b"" for step in plain)


def test_a_member_alone_keeps_of_the_method_what_concerns_a_single_model() -> None:
    method = {"lead": "b", "combine": "geometric", "gate": "first:3", "sampling": "0.7 top_k:3", "speculate": "auto:4"}
    service = serve({"duo": {"members": [A, B], **method}})
    expected = Method(speculate="ngram:4", sampling="0.7 top_k:3")  # type: ignore[arg-type]
    assert service.engine("duo/a").method == service.engine("duo/b").method == expected
    mixture = serve({"mix": {"members": [A, B], "sampling": "one-member member_top_k:3 seed:1"}})
    assert mixture.engine("mix/a").method == Method(sampling="1 member_top_k:3 seed:1")  # type: ignore[arg-type]


def test_ensembles_share_the_models_that_they_run_in_the_same_way() -> None:
    other = {**B, "context": 100}
    service = serve(
        {"duo": {"members": [A, B]}, "trio": {"members": [C, A, other]}, "twice": {"members": [A, A | {"name": "z"}]}}
    )
    backends = {model: [member.backend for member in engine.members] for model, engine in service.engines.items()}
    assert backends["duo"][0] is backends["trio"][1] is backends["twice"][0] is backends["duo/a"][0]
    assert backends["duo"][1] is not backends["trio"][2]
    assert backends["twice"][0] is not backends["twice"][1]
    distinct = {id(backend) for group in backends.values() for backend in group}
    assert len(distinct) == 5
    service.unload()
    assert all(not backend._backend._loaded for group in backends.values() for backend in group)  # type: ignore[attr-defined]


def test_slots_are_counted_by_model_and_shared_by_all_who_use_it() -> None:
    family = {"members": [A, {"name": "b", "share_weights_with": "a", "prefix": "Q: "}]}
    service = serve({"duo": {"members": [A, B]}, "family": family}, batch=2)
    limits = Limits(30)
    for model in ("duo", "family", "duo/b", "duo/a", "duo"):
        service.submit(service.prepare(GenerationRequest("", PROMPTS[0], limits, model=model)))
    service.step()
    # of a there are four slots, as the family needs two for each text: duo 1, family 2, a alone 1; the last one waits
    assert (service.served, service.waiting) == (4, 1)
    with pytest.raises(SpecError, match="slots for 5 texts, and there are slots for 4"):
        service.prepare(GenerationRequest("", PROMPTS[0], n=5, method=Method().but(draw="1"), model="duo/a"))
    with pytest.raises(SpecError, match="there is no model 'dou'; did you mean 'duo'"):
        service.prepare(GenerationRequest("", PROMPTS[0], model="dou"))
    finish(service)


def test_what_would_wait_for_another_engine_that_shares_its_models_cannot_begin_at_once() -> None:
    service = serve({"duo": {"members": [A, B]}}, batch=2)

    def prepared(model: str, n: int = 1) -> PreparedRequest:
        method = Method().but(draw="1 seed:1") if n > 1 else None
        return service.prepare(GenerationRequest("", PROMPTS[0], Limits(6), method=method, n=n, model=model))

    first = service.start(prepared("duo/a"))
    with pytest.raises(CapacityError, match="1 of 2 slots are free"):
        service.start(prepared("duo", 2))
    wide = service.submit(prepared("duo", 2))
    with pytest.raises(CapacityError, match="other requests came before this one"):
        service.start(prepared("duo/a"))
    assert (service.served, service.waiting) == (1, 1)
    found = finish(service)
    assert {request_id: len(texts) for request_id, texts in found.items()} == {first: 1, wide: 2}


def test_a_service_that_cannot_be_loaded_frees_what_was() -> None:
    prepared = prepare_several([load_spec({"members": [A, B]})])
    loaded = []
    loaders = [member.loader for member in prepared[0].members]
    load = loaders[0].load
    loaders[0].load = lambda progress: loaded.append(load(progress)) or loaded[-1]  # type: ignore[method-assign, func-returns-value]

    def fail(progress: object) -> Any:
        raise RuntimeError("no memory")

    loaders[1].load = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="no memory"):
        load_service({"duo": prepared[0]})
    assert not loaded[0]._loaded


@pytest.mark.parametrize("gate", ["always", "confidence:0.5"])
def test_the_likeliest_pieces_are_those_of_the_combined_distribution(gate: str) -> None:
    service = serve({"duo": {"members": [A, B], "gate": gate}}, alone=False)
    engine = service.engines["duo"]
    count = engine.union.size + 5
    tickets = {}
    for prompt in PROMPTS:
        for most in (1, 3, count):
            asked = service.prepare(GenerationRequest("", prompt, Limits(6), most == 3, top_logprobs=most, model="duo"))
            tickets[service.submit(asked)] = prompt, most
    steps: dict[RequestId, list[Any]] = defaultdict(list)
    while service.busy:
        for event in service.step():
            steps[event.request_id] += getattr(event, "steps", ())
    for ticket, (prompt, most) in tickets.items():
        plain = list(plain_steps(engine.members, engine.union, prompt, 6, engine.method))
        assert len(plain) == len(steps[ticket])
        for step, expected in zip(steps[ticket], plain, strict=True):
            order = np.argsort(-np.asarray(expected.q_U, np.float32), kind="stable")[:most]
            assert step.p == pytest.approx(expected.p, rel=1e-4)
            asked, traced = step.likeliest[:most], most == 3  # a trace has ten of them
            assert [p for _, p in asked] == pytest.approx([expected.q_U[i] for i in order], rel=1e-3, abs=1e-9)
            assert len({piece for piece, _ in asked}) == len(order)
            assert traced or len(step.likeliest) == len(order)
            assert len(step.to_json()["likeliest"]) == len(step.likeliest)
            assert bool(step.top) == (most == 3)


def test_a_logit_bias_acts_on_columns_and_on_end() -> None:
    with Ensemble.load({"members": [A, B]}) as duo:
        union = duo._engine.union
        plain = duo.generate("cats", max_new_tokens=30)
        assert plain.usage.pieces > 3
        ended = duo.generate("cats", draw={"logit_bias": {union.end: 100}})
        assert (ended.data, ended.finish_reason) == (b"", "end")
        [first] = union.columns([b"q"]).values()
        forced = duo.generate("cats", max_new_tokens=5, draw={"logit_bias": {first: 100}})
        assert forced.text == "qqqqq"
        endless = duo.generate("cats", max_new_tokens=200, draw={"logit_bias": {union.end: -100, first: 1}})
        assert endless.finish_reason in ("length", "context")
        with pytest.raises(SpecError, match=f"logit_bias is given for {union.size}, and the last column, END, is"):
            duo.generate("cats", draw={"logit_bias": {union.size: 1}})


def test_the_first_constraint_finds_the_union_read() -> None:
    [prepared] = prepare_several([load_spec({"members": [A, B]})])
    service = load_service({"duo": prepared})
    assert "_tokenizer" in vars(prepared.grammars), "no client waits while a union is read"
    service.unload()
