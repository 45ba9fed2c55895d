"""A member inside a real `vllm serve` that serves others, too."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from support.engine_processes import VLLM_SETTINGS, free_port, running, vllm_command
from support.prompts import TEXTS
from unisono import Ensemble
from unisono.backends.base import LoadRequest
from unisono.backends.endpoint.settings import EndpointSource
from unisono.backends.registry import make_loader
from unisono.config.ensemble import load_spec
from unisono.testing import ContractCase, check_backend_contract

pytestmark = [pytest.mark.models, pytest.mark.skipif(sys.platform != "linux", reason="vLLM is not installed here")]
KEY = "a-key-of-these-tests"


@pytest.fixture(scope="module")
def server(smol_folder: Path, unisono_path: str) -> Iterator[str]:
    port = free_port()
    command = [
        *vllm_command(smol_folder, port), "--api-key", KEY,
        "--middleware", "unisono.worker.vllm_middleware.UnisonoMember",
        "--logits-processors", "unisono.backends.vllm.library:Rows",
    ]  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    with running(command, f"{address}/health", 300, {**VLLM_SETTINGS, "PYTHONPATH": unisono_path}):
        yield address


def test_a_member_inside_a_server_is_found_and_writes_what_it_writes_at_home(
    smol_folder: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_KEY", KEY)
    source = EndpointSource(kind="endpoint", location=server, api_key_env="SERVER_KEY")
    loader: Any = make_loader("endpoint", LoadRequest("smol", source, slots=4))
    assert loader.description.engine.startswith("unisono ")
    assert loader.facts().truncated is None
    ids = [tuple(loader.tokenizer().encode_prompt(text)) for text in TEXTS[:4]]
    check_backend_contract(loader.load(lambda fraction, words: None), ContractCase(tuple(ids), 1e-4))

    home = {"name": "smol", "model": str(smol_folder), "backend": "transformers", "dtype": "float32", "threads": 1}
    far = {"name": "smol", "url": server, "api_key_env": "SERVER_KEY"}
    texts = {}
    for name, member in (("home", home), ("far", far)):
        with Ensemble.load(load_spec({"members": [member]}), batch=4) as ensemble:
            texts[name] = [text.text for text in ensemble.generate(list(TEXTS[:8]), max_new_tokens=12)]
    assert texts["far"] == texts["home"]


def test_others_are_served_as_before_and_who_has_no_key_is_not(server: str) -> None:
    asked = {"model": "smol", "prompt": TEXTS[0], "max_tokens": 4}
    known = {"authorization": f"Bearer {KEY}"}
    assert httpx2.post(f"{server}/v1/completions", json=asked, headers=known, timeout=60).status_code == 200
    for path in ("/v1/member", "/v1/models"):
        assert httpx2.get(server + path, timeout=60).status_code == 401
        assert httpx2.get(server + path, headers=known, timeout=60).status_code == 200
