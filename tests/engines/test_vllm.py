"""A member behind the real vLLM, in float32 as the model at home."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.engine_processes import GEMMA, VLLM_SETTINGS, free_port, running, vllm_command
from support.prompts import TEXTS
from unisono import Ensemble
from unisono.config.ensemble import load_spec

pytestmark = [pytest.mark.models, pytest.mark.skipif(sys.platform != "linux", reason="vLLM is not installed here")]


@pytest.fixture(scope="module")
def vllm(smol_folder: Path) -> Iterator[str]:
    port = free_port()
    with running(vllm_command(smol_folder, port), f"http://127.0.0.1:{port}/health", 300, VLLM_SETTINGS):
        yield f"http://127.0.0.1:{port}/v1"


def test_members_behind_vllm_write_what_they_write_at_home(smol_folder: Path, vllm: str) -> None:
    home = {"name": "smol", "model": str(smol_folder), "backend": "transformers", "dtype": "float32", "threads": 1}
    far = {"name": "smol", "url": vllm, "tokenizer": str(smol_folder), "top": 20}
    gemma = {"name": "gemma", "model": GEMMA, "threads": 1}
    ensembles: list[list[dict[str, Any]]] = [[], [gemma]]
    for others in ensembles:
        texts = {}
        for name, smol in (("home", home), ("far", far)):
            with Ensemble.load(load_spec({"members": [smol, *others]}), batch=4) as ensemble:
                texts[name] = ensemble.generate(list(TEXTS[:12]), max_new_tokens=12)
        assert [text.text for text in texts["far"]] == [text.text for text in texts["home"]]
        assert sum(text.usage.uncertain or 0 for text in texts["far"]) <= 2
