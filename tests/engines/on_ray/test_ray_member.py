"""A member in a Ray actor is the member: the waist's contract, the texts of an ensemble at home, errors in words."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from support import ray_clusters
from support.fakes import PROMPTS, make_fakes
from unisono import Ensemble
from unisono.backends.base import LoadRequest
from unisono.backends.registry import make_loader
from unisono.config.ensemble import load_spec
from unisono.config.model_source import find_model
from unisono.errors import ModelError, SpecError
from unisono.testing import BACKEND_CONTRACT, ContractCase

ACTOR = {"num_cpus": 0.25}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    make_fakes()
    with ray_clusters.cluster():
        yield


def of_ray(name: str, **keys: Any) -> dict[str, Any]:
    return {"name": name, "model": f"fake:{name}", "ray": ACTOR, **keys}


@pytest.mark.parametrize(("top", "near"), [(None, True), (5, False)])
def test_an_actor_keeps_the_contract_of_the_waist(monkeypatch: pytest.MonkeyPatch, top: int | None, near: bool) -> None:
    monkeypatch.setattr("unisono.ray.caller.ActorSteps.is_near", near)
    [member] = load_spec({"members": [of_ray("a", top=top, timeout=20.0)]}).members
    source = find_model(member, Path(), lambda fraction, words: None)
    loader = make_loader("ray", LoadRequest("a", source, slots=4))
    tokenizer = loader.tokenizer()
    texts = ("the cat sees a dog", "Hello, Sofia — and the dog sings", "日本 ends here")
    case = ContractCase(tuple(tuple(tokenizer.encode_prompt(text)) for text in texts), 0.0)
    backend = loader.load(lambda fraction, words: None)
    for check in BACKEND_CONTRACT.values():
        check(backend, case)
    backend.unload()
    with pytest.raises(RuntimeError):
        backend.open()


METHODS: list[dict[str, Any]] = [
    {},
    {"sampling": "0.9 seed:3 top_p:0.9"},
    {"lead": "a", "gate": "margin:0.5", "speculate": "b:3"},
]


def test_an_ensemble_writes_what_it_writes_at_home() -> None:
    for method in METHODS:
        with Ensemble.load({"members": [of_ray("a"), of_ray("b")], **method}, batch=4) as ensemble:
            written = ensemble.generate(PROMPTS[:4], max_new_tokens=12)
        home = [{"name": name, "model": f"fake:{name}"} for name in "ab"]
        with Ensemble.load({"members": home, **method}, batch=4) as ensemble:
            expected = ensemble.generate(PROMPTS[:4], max_new_tokens=12)
        assert [each.text for each in written] == [each.text for each in expected]
    free = ray.cluster_resources()["CPU"]
    ray_clusters.until(lambda: ray.available_resources().get("CPU") == free)  # actors and their group have gone


def test_actors_with_a_name_are_shared_and_have_one_content() -> None:
    shared = of_ray("a", ray={**ACTOR, "name": "of-all", "slots": 8})
    with Ensemble.load({"members": [shared]}) as first:
        expected = first.generate(PROMPTS[0], max_new_tokens=8).text
        with Ensemble.load({"members": [{**shared, "name": "other"}]}) as second:
            assert second.generate(PROMPTS[0], max_new_tokens=8).text == expected
        assert first.generate(PROMPTS[0], max_new_tokens=8).text == expected
        assert len(ray_clusters.processes("ray::HostedMember")) == 1
        with pytest.raises(SpecError, match=r"the Ray actor 'of-all' loads .*fake:a.*fake:b"):
            Ensemble.load({"members": [{**shared, "model": "fake:b"}]})
    ray.kill(ray.get_actor("of-all", namespace="unisono"))


def test_what_cannot_be_loaded_is_said_in_the_words_of_home() -> None:
    with pytest.raises(ModelError, match="there is no fake model 'lost'"):
        Ensemble.load({"members": [{**of_ray("a"), "model": "fake:lost"}]})
    with pytest.raises(SpecError, match="has no use for the key 'dtype'"):
        Ensemble.load({"members": [of_ray("a", backend="fake", dtype="float32")]})


def test_without_room_the_error_says_what_is_asked_and_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unisono.ray.cluster.PLACING_SECONDS", 0.5)
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"no room for CPU 1, GPU 4 for 0\.5 s"):
        Ensemble.load({"members": [of_ray("a", ray={"num_gpus": 4.0})]})
    assert time.monotonic() - began < 30


def test_another_cluster_than_the_present_one_is_refused() -> None:
    with pytest.raises(SpecError, match="and this process is in"):
        Ensemble.load({"members": [of_ray("a", ray={**ACTOR, "address": "10.255.0.1:6379"})]})


def test_doctor_learns_what_the_actor_is_and_how_long_it_takes() -> None:
    [member] = load_spec({"members": [of_ray("a")]}).members
    loader = make_loader("ray", LoadRequest("a", find_model(member, Path(), lambda fraction, words: None)))
    report = loader.report()  # type: ignore[attr-defined]
    assert "fake" in report.engine
    assert report.latency_ms > 0


def test_a_model_that_changed_is_refused() -> None:
    [member] = load_spec({"members": [of_ray("a")]}).members
    loader = make_loader("ray", LoadRequest("a", find_model(member, Path(), lambda fraction, words: None)))
    told = loader.description  # type: ignore[attr-defined]
    loader.__dict__["description"] = replace(told, model="another")
    with pytest.raises(ModelError, match="another model now"):
        loader.load(lambda fraction, words: None)
