"""The key ``ray`` of a member: what it may say, and who is placed with whom. No Ray is needed for that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unisono.backends.base import ModelSource
from unisono.backends.registry import BACKENDS, installed
from unisono.build import prepare
from unisono.config.ensemble import load_spec
from unisono.config.model_source import choose_backend, find_model
from unisono.config.ray import RaySource, grouped
from unisono.errors import BackendMissing, SpecError


def source_of(**keys: Any) -> RaySource:
    spec = load_spec({"members": [{"name": "a", "model": "fake:a", **keys}]})
    found = find_model(spec.members[0], Path("somewhere"), lambda fraction, words: None)
    assert isinstance(found, RaySource)
    return found


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"ray": {"num_gpus": 1.5}}, "num_gpus of ray is 1.5"),
        ({"ray": {"resources": {"GPU": 1}}}, "write num_gpus: 1"),
        ({"ray": {"num_cpu": 1}}, "did you mean 'num_cpus'"),
        ({"ray": {"address": "ray://host:10001"}}, "through a proxy"),
        ({"ray": {"slots": 4}}, "an actor without a name"),
        ({"ray": {"name": "a b"}}, "name"),
        ({"backend": "ray"}, "which is where a member lives"),
        ({"ray": {}, "url": "http://127.0.0.1:1"}, "keep one of the two"),
        ({"ray": {}, "tokenizer": "fake:a"}, "for a member behind an endpoint"),
        ({"ray": {}, "api_key_env": "KEY"}, "for a member behind an endpoint"),
        ({"top": 5}, "for a member behind an endpoint"),
    ],
)
def test_what_an_actor_cannot_be_is_refused_with_the_way_out(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as refused:
        load_spec({"members": [{"name": "a", "model": "fake:a", **keys}]})
    assert words in f"{refused.value.message}; {refused.value.hint}"


def test_a_member_that_shares_weights_has_no_actor_of_its_own() -> None:
    members = [{"name": "a", "model": "fake:a"}, {"name": "b", "share_weights_with": "a", "ray": {}}]
    with pytest.raises(SpecError, match="is for the weights to say"):
        load_spec({"members": members})


def test_the_actor_is_told_what_concerns_the_model_and_nothing_else() -> None:
    told = source_of(
        ray={"num_gpus": 1},
        backend="transformers",
        dtype="bfloat16",
        system="Be short.",
        weight=2.0,
        temperature=1.5,
        top=20,
        timeout=5.0,
    )
    assert told.member == '{"model":"fake:a","backend":"transformers","dtype":"bfloat16"}'
    assert Path(told.folder).is_absolute()
    assert (told.top, told.timeout, told.retries) == (20, 5.0, 2)
    assert told == source_of(ray={"num_gpus": 1}, backend="transformers", dtype="bfloat16", top=20, timeout=5.0)
    assert told != source_of(ray={"num_gpus": 2}, backend="transformers", dtype="bfloat16", top=20, timeout=5.0)


def test_the_backend_in_the_actor_is_not_looked_for_here() -> None:
    [member] = load_spec({"members": [{"name": "a", "model": "x.gguf", "dtype": "float32", "ray": {}}]}).members
    assert choose_backend(member, source_of(ray={})).name == "ray"


def test_actors_without_a_name_are_one_group() -> None:
    here = ModelSource("fake", "b")
    sources = [source_of(ray={"num_gpus": 1}), here, source_of(ray={"name": "shared"}), source_of(ray={"num_cpus": 2})]
    first, second, third, fourth = grouped(sources)
    assert isinstance(first, RaySource)
    assert isinstance(third, RaySource)
    assert isinstance(fourth, RaySource)
    assert second is here
    assert third.group is None
    assert first.group is fourth.group is not None
    assert first.group.bundles == ((("CPU", 1.0), ("GPU", 1.0)), (("CPU", 2.0),))
    assert (first.place, fourth.place) == (0, 1)


def test_two_clusters_are_refused() -> None:
    with pytest.raises(SpecError, match=r"two Ray clusters, 10\.0\.0\.1:6379 and auto"):
        grouped([source_of(ray={"address": "10.0.0.1:6379"}), source_of(ray={})])


@pytest.mark.skipif(installed(BACKENDS["ray"]), reason="Ray is installed")
def test_without_ray_it_is_said_what_to_install() -> None:
    with pytest.raises(BackendMissing) as missing:
        prepare(load_spec({"members": [{"name": "a", "model": "fake:a", "ray": {}}]}))
    assert missing.value.hint == "install it: pip install 'unisono[ray]'"
