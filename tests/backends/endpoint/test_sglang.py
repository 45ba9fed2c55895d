"""A member behind SGLang: the contract over its wire format, and what its answers must hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from support.fakes import make_fakes
from support.far_member import check_writes_as_at_home
from support.http_stand_in import Reply, Request, as_json
from support.sglang_stand_in import SGLangStandIn
from unisono.backends.base import Feed, LoadRequest, ModelSource, Truncation
from unisono.backends.endpoint.loader import EndpointLoader
from unisono.backends.endpoint.settings import EndpointSource
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.errors import MemberUnavailable
from unisono.testing import ContractCase, check_backend_contract, fake_member

TEXTS = tuple(tuple((7 * n + 3 * size) % 250 for n in range(size)) for size in (9, 14, 21))


def loader(url: str) -> EndpointLoader:
    keys: dict[str, Any] = {"tokenizer": ModelSource("fake", "served"), "tokenizer_backend": "fake", "top": 8}
    return EndpointLoader(LoadRequest("far", EndpointSource("endpoint", url, **keys), context=64, slots=5))


@pytest.fixture
def server() -> SGLangStandIn:
    return SGLangStandIn(fake_member("served", [" the", "日本"]))


def test_it_keeps_the_contract(server: SGLangStandIn) -> None:
    with server.serve() as url:
        told = loader(url)
        assert told.description.engine == "SGLang 0.0-stand-in"
        assert told.description.truncated == Truncation(8, server.model.output_rows, 128)
        check_backend_contract(told.load(lambda *_: None), ContractCase(TEXTS, tolerance=1e-6))


def test_a_block_is_one_request_where_the_server_tells_positions_of_the_prompt(server: SGLangStandIn) -> None:
    with server.serve() as url:
        backend = loader(url).load(lambda *_: None)
        asked = len(server.requests)
        slot = backend.open()
        rows = backend.advance([Feed(slot, TEXTS[1], wanted=5, also=[3, 200])])
        assert [request.path for request in server.requests[asked:]].count("/generate") == 1
        server.tells_blocks = False
        plain = loader(url).load(lambda *_: None)
        asked = len(server.requests)
        again = plain.advance([Feed(plain.open(), TEXTS[1], wanted=5, also=[3, 200])])
        assert [request.path for request in server.requests[asked:]].count("/generate") == 5
    assert np.array_equal(rows.ids_NK, again.ids_NK)
    assert np.array_equal(rows.logp_NK, again.logp_NK)
    assert np.array_equal(rows.unseen_N, again.unseen_N)


def test_rows_are_not_those_of_greedy_requests_in_a_batch_with_others(server: SGLangStandIn) -> None:
    """While others draw with min_p, SGLang cuts distributions to top_k, which is 1 at a temperature of 0."""

    def one_id(told: dict[str, Any]) -> None:
        for _, *others in told["meta_info"]["output_top_logprobs"]:
            for entry in others:
                entry[0] = -3.4e38

    def cut(request: Request) -> Reply:
        body = request.body or {}
        told = server.generate(body)
        drawn = body["sampling_params"]
        if drawn["temperature"] == 0 or drawn["top_k"] == 1:
            one_id(told)
        return as_json(told)

    with server.serve() as url:
        backend = loader(url).load(lambda *_: None)
        alone = backend.advance([Feed(backend.open(), TEXTS[0])])
        server.faults["/generate"] = [cut] * 3
        among_others = backend.advance([Feed(backend.open(), TEXTS[0])])
    assert np.array_equal(alone.logp_NK, among_others.logp_NK)


def tampering(server: SGLangStandIn, tamper: Callable[[dict[str, Any]], object]) -> Callable[[Request], Reply]:
    """Answers as the server does, but for what is changed."""

    def wrongly(request: Request) -> Reply:
        told = json.loads(server.answer(request).content)
        tamper(told["meta_info"])
        return as_json(told)

    return wrongly


WRONG_BLOCKS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "too few positions": (lambda meta: meta["input_top_logprobs"].pop(), "within the prompt"),
    "too few ids": (lambda meta: meta["input_top_logprobs"][1].pop(), "told 7 ids where the 8"),
    "another text": (lambda meta: meta["input_token_logprobs"][1].__setitem__(1, 77), "of another text"),
    "no positions": (lambda meta: meta.pop("input_token_logprobs"), "within the prompt"),
}


@pytest.mark.parametrize("wrong", WRONG_BLOCKS)
def test_a_wrong_block_is_an_error(server: SGLangStandIn, wrong: str) -> None:
    tamper, words = WRONG_BLOCKS[wrong]

    with server.serve() as url:
        backend = loader(url).load(lambda *_: None)
        server.faults["/generate"] = [tampering(server, tamper)]
        with pytest.raises(MemberUnavailable, match=words):
            backend.advance([Feed(backend.open(), TEXTS[0], wanted=3)])


def test_an_ensemble_writes_the_text_of_its_members_at_home() -> None:
    make_fakes()
    with SGLangStandIn(FAKE_MODELS["a"]).serve() as url:
        check_writes_as_at_home(url, top=2)


WRONG: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "too few ids": (lambda meta: meta["output_top_logprobs"][0].pop(), "told 7 ids where the 8"),
    "rows of another text": (lambda meta: meta.update(prompt_tokens=3), "it read 3 ids"),
    "other weights": (lambda meta: meta.update(weight_version="v2"), "its weights are other ones"),
    "an id that was asked for": (lambda meta: meta["output_token_ids_logprobs"][0].clear(), "did not tell the id"),
    "no distribution": (lambda meta: meta.pop("output_top_logprobs"), "no log-probabilities"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_answer_is_an_error(server: SGLangStandIn, wrong: str) -> None:
    tamper, words = WRONG[wrong]

    with server.serve() as url:
        backend = loader(url).load(lambda *_: None)
        unlikely = int(server.model.next_token(TEXTS[0]).argmin())
        server.faults["/generate"] = [tampering(server, tamper)]
        with pytest.raises(MemberUnavailable, match=words) as raised:
            backend.advance([Feed(backend.open(), TEXTS[0], also=[unlikely])])
        assert raised.value.refused == (wrong == "other weights")
