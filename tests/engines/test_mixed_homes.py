"""Members in three homes write what they write in one: behind llama-server, behind a worker, in this process."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from support.engine_processes import CODER, GEMMA, SMOL
from support.prompts import QUESTIONS, TEXTS
from unisono import AsyncEnsemble, Ensemble
from unisono.config.ensemble import load_spec
from unisono.types import Generation

pytestmark = pytest.mark.models
PIECES = 24
PROMPTS = (*QUESTIONS, *TEXTS)
SHARES = {"smol": 0.4, "gemma": 0.4, "coder": 0.2}
ROUNDING = 0.15
"""Of a probability: what llama.cpp's kernels make of other batches of quantised weights (`real/test_laws_real.py`)."""


def at_home() -> dict[str, Any]:
    return {
        "members": [
            {"name": "smol", "model": SMOL, "threads": 1},
            {"name": "gemma", "model": GEMMA, "threads": 1},
            {"name": "coder", "model": CODER, "threads": 1, "weight": 0.5},
        ]
    }


def in_three_homes(llama_server: str, worker: str) -> dict[str, Any]:
    *_, coder = at_home()["members"]
    return {
        "members": [
            {"name": "smol", "backend": "endpoint", "url": llama_server, "tokenizer": SMOL},
            {"name": "gemma", "backend": "endpoint", "url": worker},
            coder,
        ]
    }


def same(own: Generation, elsewhere: Generation) -> bool:
    """Whether two texts are equal, or part where two pieces are as likely but for rounding. Nothing else passes."""
    for here, there in zip(own.steps or (), elsewhere.steps or (), strict=False):
        if here.piece != there.piece:
            assert there.certain is not None
            gap = here.p - sum(SHARES[name] * dict(top).get(there.piece, 0.0) for name, top in here.top.items())
            assert not there.certain or gap < ROUNDING, (here, there)
            return False
    assert own.text == elsewhere.text
    return True


def test_three_homes_write_the_text_of_one(llama_server: str, worker: str) -> None:
    with Ensemble.load(load_spec(at_home()), batch=8) as home:
        own = home.generate(list(PROMPTS), max_new_tokens=PIECES, trace=True)
    with Ensemble.load(load_spec(in_three_homes(llama_server, worker)), batch=8) as mixed:
        elsewhere = mixed.generate(list(PROMPTS), max_new_tokens=PIECES, trace=True)
    equal = [same(here, there) for here, there in zip(own, elsewhere, strict=True)]
    uncertain = sum(there.usage.uncertain or 0 for there in elsewhere)
    pieces = sum(there.usage.pieces for there in elsewhere)
    print(f"{sum(equal)} of {len(equal)} texts equal; {uncertain} of {pieces} pieces uncertain")
    assert sum(equal) >= 0.5 * len(equal)
    assert uncertain <= 0.02 * pieces
    assert uncertain == sum(step.certain is False for there in elsewhere for step in there.steps or ())


def test_requests_that_join_at_random_get_what_each_gets_alone(llama_server: str, worker: str) -> None:
    async def ask() -> list[Generation]:
        draw = random.Random(5)
        async with await AsyncEnsemble.load(load_spec(in_three_homes(llama_server, worker)), batch=8) as mixed:

            async def one(number: int) -> Generation:
                await asyncio.sleep(draw.uniform(0, 6))
                return await mixed.generate(PROMPTS[number % len(PROMPTS)], max_new_tokens=4 + number % 9, trace=True)

            return await asyncio.gather(*(one(number) for number in range(64)))

    answers = asyncio.run(ask())
    with Ensemble.load(load_spec(at_home()), batch=1) as home:
        for number, answer in enumerate(answers):
            own = home.generate(PROMPTS[number % len(PROMPTS)], max_new_tokens=4 + number % 9, trace=True)
            same(own, answer)
