"""A member behind llama-server: the contract over its wire format, and what its answers must hold."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.llama_server_stand_in import LlamaServerStandIn
from unisono.backends.base import LoadRequest, ModelSource
from unisono.backends.endpoint.backend import EndpointBackend
from unisono.backends.endpoint.loader import EndpointLoader
from unisono.backends.endpoint.settings import EndpointSource
from unisono.testing import ContractCase, check_backend_contract, fake_member

TEXTS = tuple(tuple((7 * n + 3 * size) % 250 for n in range(size)) for size in (9, 14, 21))


def source(url: str, **keys: object) -> EndpointSource:
    keys = {"tokenizer": ModelSource("fake", "served"), "tokenizer_backend": "fake", "top": 8, **keys}
    return EndpointSource("endpoint", url, **keys)  # type: ignore[arg-type]


def load(url: str, slots: int = 5, **keys: object) -> EndpointBackend:
    return EndpointLoader(LoadRequest("far", source(url, **keys), slots=slots)).load(lambda *_: None)


@pytest.fixture
def engine() -> Iterator[LlamaServerStandIn]:
    model = fake_member("served", [" the", "日本"])
    stand_in = LlamaServerStandIn(model, slots=5)
    with stand_in.serve():
        yield stand_in


def test_it_keeps_the_contract(engine: LlamaServerStandIn) -> None:
    engine.model.context = 64
    check_backend_contract(load(engine.url), ContractCase(TEXTS, tolerance=1e-6))
