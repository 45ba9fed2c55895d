"""A member behind /v1/completions: the contract with vLLM's additions and without, and what servers may not do."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from support.completions_stand_in import CompletionsStandIn
from support.fakes import make_fakes
from support.far_member import check_writes_as_at_home
from support.http_stand_in import Reply, Request, as_json
from unisono.backends.base import Feed, LoadRequest, ModelSource, Truncation
from unisono.backends.endpoint.backend import EndpointBackend
from unisono.backends.endpoint.loader import EndpointLoader
from unisono.backends.endpoint.settings import EndpointSource
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.backends.top_logprobs import TopLogprobs
from unisono.errors import MemberUnavailable, ModelUnsupported, SpecError
from unisono.testing import ContractCase, check_backend_contract, fake_member

TEXTS = tuple(tuple((7 * n + 3 * size) % 250 for n in range(size)) for size in (9, 14, 21))
IDS = TEXTS[0]


def loader(url: str, **keys: Any) -> EndpointLoader:
    keys = {"tokenizer": ModelSource("fake", "served"), "tokenizer_backend": "fake", **keys}
    return EndpointLoader(LoadRequest("far", EndpointSource("endpoint", url, **keys), context=64, slots=5))


def load(url: str, **keys: Any) -> EndpointBackend:
    return loader(url, **keys).load(lambda *_: None)


def stand_in(**keys: Any) -> CompletionsStandIn:
    return CompletionsStandIn(fake_member("served", [" the", "日本"]), **keys)


@pytest.mark.parametrize("extras", [True, False])
def test_it_keeps_the_contract(extras: bool) -> None:
    with stand_in(extras=extras).serve() as url:
        check_backend_contract(load(url, top=8), ContractCase(TEXTS, tolerance=1e-6))


def test_what_the_server_takes_is_found_out_by_asking() -> None:
    with stand_in(most=100).serve() as url:
        told = loader(url).description
        assert told.truncated == Truncation(20, 100, 128)
        assert told.engine == "vLLM 0.0-stand-in"
    with stand_in(most=7, extras=False).serve() as url:
        told = loader(url).description
        assert told.truncated == Truncation(5, 5, 0)
        assert [note for note in told.notes if "/tokenize" in note]
        with pytest.raises(SpecError, match=r"top is 8, but .* tells at most 5 ids"):
            load(url, top=8)
    with stand_in(by_id=False).serve() as url, pytest.raises(ModelUnsupported, match="by the texts of tokens"):
        load(url)


def test_a_block_of_a_short_text_is_one_request_and_of_a_long_one_several() -> None:
    server = stand_in()
    with server.serve() as url:
        backend = load(url, top=8)
        slot = backend.open()
        before = len(server.asked("/v1/completions"))
        backend.advance([Feed(slot, TEXTS[2], 4)])
        assert len(server.asked("/v1/completions")) == before + 1
        backend.advance([Feed(slot, TEXTS[2], 2)])
        assert len(server.asked("/v1/completions")) == before + 3


def test_an_ensemble_writes_the_text_of_its_members_at_home() -> None:
    make_fakes()
    with CompletionsStandIn(FAKE_MODELS["a"]).serve() as url:
        check_writes_as_at_home(f"{url}/v1")


@pytest.mark.parametrize("known", [{"root": ""}, {"owned_by": "a gateway"}])
def test_models_of_which_little_is_told_are_several(known: dict[str, str]) -> None:
    server = stand_in()
    server.entries = [{**server.entries[0], **known, "id": name} for name in ("org/fake", "another")]
    with server.serve() as url, pytest.raises(SpecError, match="serves several models"):
        load(url)


def test_one_of_several_models_has_to_be_named() -> None:
    server = stand_in()
    server.entries.append({**server.entries[0], "id": "lora", "root": "/loras/1", "parent": "org/fake"})
    with server.serve() as url:
        with pytest.raises(SpecError, match="serves several models") as raised:
            load(url)
        assert "org/fake, lora" in str(raised.value.hint)
        load(url, served_model="lora")
        assert server.requests[-1].path == "/v1/completions"
        assert (server.requests[-1].body or {})["model"] == "lora"


def test_any_name_of_a_model_that_has_several_may_stand_in_its_answers() -> None:
    server = stand_in()
    [entry] = server.entries
    server.entries = [entry, {**entry, "id": "alias"}]

    def by_its_first_name(request: Request) -> Reply:
        return as_json({**json.loads(server.answer(request).content), "model": "org/fake"})

    with server.serve() as url:
        assert loader(url).description.engine == "vLLM 0.0-stand-in"
        backend = load(url, served_model="alias")
        server.faults["/v1/completions"] = [by_its_first_name]
        assert len(backend.advance([Feed(backend.open(), IDS)])) == 1


@pytest.mark.parametrize("status", [204, 302, 308, 401, 403, 406, 410, 451])
def test_what_a_gateway_says_of_paths_that_it_does_not_know_is_no_obstacle(status: int) -> None:
    server = stand_in()
    unknown = ("/v1/member", "/props", "/model_info", "/get_model_info", "/version", "/tokenize")
    server.faults = {path: [Reply(status)] for path in unknown}
    with server.serve() as url:
        assert loader(url).description.engine == "vLLM"


def test_a_refused_start_says_what_the_engine_has_said() -> None:
    server = stand_in()
    moved = Reply(302, headers={"location": "https://elsewhere.example/v1/models?key=1"})
    server.faults = {"/v1/models": [moved, moved]}
    with server.serve() as url:
        with pytest.raises(MemberUnavailable, match=r"redirects to 'https://elsewhere.example/v1/models', and"):
            load(url)
        server.faults = {"/v1/completions": [as_json({"error": "no such deployment"}, 404)] * 10}
        with pytest.raises(MemberUnavailable, match=r"takes no token ids.*answers 404 .*no such deployment"):
            load(url)


@pytest.mark.parametrize("shift", [-30.0, -3.0])
def test_logits_in_the_place_of_log_probabilities_are_refused(shift: float) -> None:
    server = stand_in(most=200)

    def shifted(request: Request) -> Reply:
        told = json.loads(server.answer(request).content)
        for row in told.get("choices", [{}])[0]["logprobs"]["top_logprobs"]:
            row |= {name: logp + shift for name, logp in row.items()}
        return as_json(told)

    with server.serve() as url:
        server.faults["/v1/completions"] = [Reply(400), Reply(400), shifted]
        with pytest.raises(MemberUnavailable, match=r"no distribution: its ids have a mass of .* it tells logits"):
            load(url)


def test_a_tokenizer_of_another_model_is_refused() -> None:
    fake_member("other", ["Hello"])
    with stand_in().serve() as url, pytest.raises(SpecError, match="is not that of the model at"):
        load(url, tokenizer=ModelSource("fake", "other"))


Tamper = Callable[[dict[str, Any]], object]


def _of_block(told: dict[str, Any]) -> list[Any]:
    return told["choices"][0]["prompt_logprobs"]


def _first(told: dict[str, Any], *, name: str | None = None, logp: float | None = None) -> None:
    """Change the first entry of the next token's distribution."""
    row = told["choices"][0]["logprobs"]["top_logprobs"][0]
    own = next(iter(row))
    value = row.pop(own)
    row[own if name is None else name] = value if logp is None else logp


WRONG: dict[str, tuple[Tamper, str]] = {
    "too few ids": (lambda told: told["choices"][0]["logprobs"]["top_logprobs"][0].popitem(), "told 7 ids where the 8"),
    "ids of another text": (lambda told: told["usage"].update(prompt_tokens=10), "it read 10 ids"),
    "another model": (lambda told: told.update(model="x"), "'x' answers, and not 'org/fake'"),
    "stale positions": (
        lambda told: told["usage"].update(prompt_tokens_details={"cached_tokens": 4}),
        "which are stale",
    ),
    "rows of another text": (lambda told: _of_block(told)[-1].pop(str(IDS[-1])), "not of the text"),
    "positions that are missing": (lambda told: _of_block(told).pop(), "of other positions"),
    "a number beyond all floats": (lambda told: _first(told, logp=10**400), r"told 1000.* as the log-probability"),
    "one below all floats": (lambda told: _first(told, logp=-(10**400)), "no distribution"),
    "an id of a thousand digits": (lambda told: _first(told, name="token_id:" + "9" * 5000), "a token without an id"),
    "a place of a thousand digits": (
        lambda told: _of_block(told)[-1].update({"9" * 5000: {"rank": 1}}),
        "without an id",
    ),
    "an error": (lambda told: told.update(choices=[], error={"message": "overloaded"}), r"but an error: .*overloaded"),
    "no choice": (lambda told: told.update(choices=[]), "not that of /v1/completions"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_answer_is_an_error_and_the_slot_is_as_before(wrong: str) -> None:
    tamper, words = WRONG[wrong]
    server = stand_in()

    def wrongly(request: Request) -> Reply:
        told = json.loads(server.answer(request).content)
        tamper(told)
        return as_json(told)

    with server.serve() as url:
        backend = load(url, top=8)
        slot = backend.open()
        server.faults["/v1/completions"] = [wrongly]
        with pytest.raises(MemberUnavailable, match=words) as raised:
            backend.advance([Feed(slot, IDS, 2)])
        assert raised.value.refused == (wrong == "another model")
        told = backend.advance([Feed(slot, IDS)])
    assert isinstance(told, TopLogprobs)
    assert told.ids_NK[0, 0] == int(np.argmax(server.model.next_token(IDS)))


def test_another_model_behind_the_address_is_noticed_when_a_text_begins() -> None:
    server = stand_in()
    with server.serve() as url:
        backend = load(url)
        server.entries[0]["root"] = "org/other"
        with pytest.raises(MemberUnavailable, match="another model is served"):
            backend.advance([Feed(backend.open(), IDS)])


def test_a_server_with_a_cache_of_prefixes_gets_none_of_ours() -> None:
    from unisono.build import prepare
    from unisono.config.ensemble import load_spec
    from unisono.loaded_models import load_models

    with stand_in().serve() as url:
        members = [{"name": "far", "url": url, "tokenizer": "fake:served"}, {"name": "near", "model": "fake:served"}]
        prepared = prepare(load_spec({"members": members}))
        with load_models([prepared], keep_prefixes=True) as models:
            far, near = models.engine(prepared).members
            assert far.prefixes is None
            assert near.prefixes is not None
