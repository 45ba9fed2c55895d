"""A server whose members tell their likeliest ids only says how many pieces that does not prove."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from support.fakes import make_fakes
from support.real_server import SAY, A, B, Served, serving
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.ensemble import Ensemble

KEYS: dict[str, Any] = {"model": "duo", "max_tokens": 9}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    make_fakes()
    for name in "ab":
        FAKE_MODELS[name].top = 2
    with serving({"duo": {"members": [A, B]}}) as server:
        yield server
    FAKE_MODELS.clear()


def test_uncertain_pieces_are_told_in_answers_streams_and_metrics(served: Served) -> None:
    with Ensemble.load({"members": [A, B]}) as ensemble:
        expected = ensemble.generate(messages=SAY, max_new_tokens=9).usage.uncertain
    assert expected
    before = served.metric("unisono_pieces_uncertain_total")
    answer = served.client().chat.completions.create(messages=SAY, **KEYS)
    assert answer.usage.completion_tokens_details.uncertain == expected
    assert answer.unisono["choices"][0]["usage"]["uncertain"] == expected
    *_, last = served.client().chat.completions.create(
        messages=SAY, stream=True, stream_options={"include_usage": True}, **KEYS
    )
    assert last.usage.completion_tokens_details.uncertain == expected
    assert served.metric("unisono_pieces_uncertain_total") == before + 2 * expected
    traced = served.client().completions.create(prompt="the", extra_body={"unisono": {"trace": True}}, **KEYS)
    steps = traced.unisono["choices"][0]["trace"]
    assert traced.usage.completion_tokens_details.uncertain == sum(not step["certain"] for step in steps)


def test_drawing_has_to_be_asked_for_by_a_field(served: Served) -> None:
    with pytest.raises(openai.BadRequestError, match="needs whole distributions, but member 'a', 'b' tell") as refused:
        served.client().chat.completions.create(messages=SAY, temperature=1, **KEYS)
    assert "truncated_sampling: true" in json.dumps(refused.value.body)
    for body in ({"truncated_sampling": True}, {"unisono": {"sampling": "1 truncated_sampling"}}):
        answer = served.client().chat.completions.create(messages=SAY, temperature=1, extra_body=body, **KEYS)
        report = answer.unisono["choices"][0]["usage"]
        assert report["uncertain"] == report["pieces"] + (answer.choices[0].finish_reason == "stop")
