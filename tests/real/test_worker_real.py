"""A real model behind a worker gives what it gives at home, to the last byte."""

from __future__ import annotations

from typing import Any

import pytest

from support.demo import demo_member
from support.workers import working
from unisono.backends.registry import BACKENDS, installed
from unisono.ensemble import Ensemble

pytestmark = [
    pytest.mark.models,
    pytest.mark.skipif(not installed(BACKENDS["llamacpp"]), reason="llamacpp is not installed"),
]


def test_drawn_texts_of_a_model_behind_a_worker_are_those_of_the_model_at_home() -> None:
    smol = demo_member("smol", "llamacpp")
    with working(smol, slots=2) as worker:
        assert written([worker.spec("smol")]) == written([smol])


def written(members: list[dict[str, Any]]) -> list[str]:
    questions = ("What is the capital of France?", "Name three colours.")
    with Ensemble.load({"members": members, "sampling": "0.8 seed:3"}, batch=2) as ensemble:
        asked: Any = [[{"role": "user", "content": question}] for question in questions]
        return [each.text for each in ensemble.generate(messages=asked, max_new_tokens=8)]
