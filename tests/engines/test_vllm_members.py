"""Members in engines of vLLM of their own, in float32 as the model at home."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.prompts import TEXTS
from unisono import AsyncEnsemble, Ensemble
from unisono.backends.base import Backend, Feed, LoadRequest, ModelSource
from unisono.backends.registry import make_loader
from unisono.config.ensemble import load_spec
from unisono.testing import ContractCase, check_backend_contract, total_variation
from unisono.types import Generation

pytestmark = [pytest.mark.models, pytest.mark.skipif(sys.platform != "linux", reason="vLLM is not installed here")]
CONTEXT = 1024
ROUNDING = 1e-4


def options(python: str, **more: object) -> dict[str, object]:
    return {"python": python, "enforce_eager": True, "kv_cache_memory_bytes": 1 << 28, **more}


def load(backend: str, folder: Path, slots: int, options: dict[str, object]) -> tuple[Backend, Any]:
    source = ModelSource("folder", str(folder))
    request = LoadRequest("smol", source, "float32", context=CONTEXT, threads=1, slots=slots, options=options)
    loader = make_loader(backend, request)
    return loader.load(lambda fraction, words: None), loader.tokenizer()


def member(name: str, folder: Path, python: str, **more: object) -> dict[str, Any]:
    told = {"name": name, "model": str(folder), "backend": "vllm", "dtype": "float32", "threads": 1, "context": CONTEXT}
    return {**told, "options": options(python, **more)}


def test_an_engine_keeps_the_contract_and_tells_what_transformers_tells(smol_folder: Path, vllm_python: str) -> None:
    """At most 1e-4 of total variation, after prompts and after single ids, on 30 prompts."""
    home, tokenizer = load("transformers", smol_folder, 1, {})
    far, _ = load("vllm", smol_folder, 4, options(vllm_python))
    prompts = [tokenizer.encode_prompt(text) for text in (TEXTS * 8)[:30]]
    worst = 0.0
    for number, ids in enumerate(prompts):
        ids = ids[number // len(TEXTS) :]
        rows = []
        for backend in (home, far):
            slot = backend.open()
            told = [np.array(backend.advance([Feed(slot, ids[:-3])]))]
            told += [
                np.array(backend.advance([Feed(slot, [ids[-3]])])),
                np.array(backend.advance([Feed(slot, ids[-2:], 2)])),
            ]
            backend.close(slot)
            rows.append(np.concatenate(told))
        worst = max(worst, *(total_variation(left, right) for left, right in zip(*rows, strict=True)))
    print(f"total variation {worst:.2g} at most")
    assert worst < ROUNDING
    long = (tokenizer.encode_prompt(" ".join(TEXTS) * 4))[:700]
    check_backend_contract(far, ContractCase((*(tuple(ids) for ids in prompts[:3]), tuple(long)), ROUNDING))
    home.unload()


def test_an_ensemble_of_one_is_that_model(smol_folder: Path, vllm_python: str) -> None:
    home = {"name": "smol", "model": str(smol_folder), "backend": "transformers", "dtype": "float32", "threads": 1}
    with Ensemble.load(load_spec({"members": [home]}), batch=4) as ensemble:
        own = ensemble.generate(list(TEXTS[:8]), max_new_tokens=16)
    with Ensemble.load(load_spec({"members": [member("smol", smol_folder, vllm_python)]}), batch=4) as ensemble:
        far = ensemble.generate(list(TEXTS[:8]), max_new_tokens=16)
        drawn = [ensemble.generate(TEXTS[0], max_new_tokens=16, temperature=1.0, seed=3).text for _ in range(2)]
    assert [text.text for text in far] == [text.text for text in own]
    assert drawn[0] == drawn[1]


def near_tie(here: Generation, there: Generation) -> bool:
    """Whether two texts part where two pieces are equally likely but for rounding, if they part at all."""
    for left, right in zip(here.steps or (), there.steps or (), strict=False):
        if left.piece != right.piece:
            return abs(left.p - right.p) < 10 * ROUNDING
    return here.text == there.text


def test_two_engines_that_hold_few_texts_answer_requests_that_join_at_random(
    smol_folder: Path, gemma_folder: Path, vllm_python: str
) -> None:
    """64 requests with a gate and drafts on engines of 3 and 5 texts: it ends, with what each gets alone."""
    spec: dict[str, Any] = {
        "members": [
            member("smol", smol_folder, vllm_python, max_num_seqs=3),
            member("gemma", gemma_folder, vllm_python, max_num_seqs=5),
        ],
        "gate": {"kind": "confidence", "threshold": 0.6},
        "speculate": "smol:3",
    }
    draw = random.Random(5)
    lengths = [4 + number % 7 for number in range(64)]

    async def ask() -> list[Generation]:
        async with await AsyncEnsemble.load(load_spec(spec), batch=8) as ensemble:

            async def one(number: int) -> Generation:
                await asyncio.sleep(draw.uniform(0, 8))
                return await ensemble.generate(TEXTS[number % len(TEXTS)], max_new_tokens=lengths[number], trace=True)

            return await asyncio.gather(*(one(number) for number in range(64)))

    answers = asyncio.run(ask())
    plain = {**spec, "members": [{**each, "options": options(vllm_python)} for each in spec["members"]]}
    del plain["speculate"]
    with Ensemble.load(load_spec(plain), batch=1) as ensemble:
        alone = [
            ensemble.generate(TEXTS[number % len(TEXTS)], max_new_tokens=lengths[number], trace=True)
            for number in range(64)
        ]
    equal = [near_tie(here, there) for here, there in zip(answers, alone, strict=True)]
    print(f"{sum(each.text == other.text for each, other in zip(answers, alone, strict=True))} of 64 texts equal")
    assert all(equal)
