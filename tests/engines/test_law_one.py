"""Law 1 behind llama-server: a member alone writes what the engine writes by itself."""

from __future__ import annotations

import httpx2
import pytest

from support.engine_processes import SMOL
from support.prompts import QUESTIONS, TEXTS
from unisono import Ensemble
from unisono.config.ensemble import load_spec

pytestmark = pytest.mark.models
PIECES = 24
PROMPTS = (*QUESTIONS, *TEXTS)


def test_a_member_alone_writes_the_engines_own_greedy_text(llama_server: str) -> None:
    own = []
    for text in PROMPTS:
        body = {"prompt": text, "n_predict": PIECES, "temperature": 0, "samplers": ["temperature"]}
        own.append(httpx2.post(f"{llama_server}/completion", json=body, timeout=60).json()["content"])
    far = {"name": "smol", "url": llama_server, "tokenizer": SMOL}
    with Ensemble.load(load_spec({"members": [far]}), batch=1) as alone:  # the engine wrote one at a time, too
        texts = alone.generate(list(PROMPTS), max_new_tokens=PIECES)
    assert [text.text for text in texts] == own
    assert sum(text.usage.uncertain or 0 for text in texts) == 0
