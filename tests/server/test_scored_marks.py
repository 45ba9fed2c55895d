"""Scored token ids that hold marks: each is listed by its name, once, and the text holds its token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.real_server import Served, serving
from support.reasoners import PLAIN, QUESTION, THINKER, THOUGHT, WORDS, make_reasoners, thinking_table
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.messages import Prompt
from unisono.engine.request import Request
from unisono.ensemble import Ensemble
from unisono.testing import LongestMatchTokenizer, byte_level_table

TABLE = thinking_table()
BEGIN, END = (TABLE.texts.index(text) for text in ("<think>", "</think>"))
CUT = LongestMatchTokenizer(byte_level_table(WORDS)).encode
IDS = [*CUT(QUESTION), BEGIN, *CUT(f"\n{THOUGHT}"), END, *CUT("\nBlue")]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    make_reasoners()
    with serving({"both": {"members": [THINKER, PLAIN]}}) as server:
        yield server
    FAKE_MODELS.clear()


def scored(served: Served, **keys: Any) -> Any:
    response = served.post("/v1/completions", {"model": "both/thinker", "prompt": IDS, "max_tokens": 0, **keys})
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]


def test_an_echo_lists_marks_by_their_names(served: Served) -> None:
    logprobs = scored(served, echo=True, logprobs=3)["logprobs"]
    assert [logprobs["tokens"][IDS.index(token)] for token in (BEGIN, END)] == ["reasoning_begin", "reasoning_end"]
    assert logprobs["top_logprobs"][IDS.index(BEGIN)]["reasoning_begin"] == logprobs["token_logprobs"][IDS.index(BEGIN)]
    assert all(len(tops) == 3 for tops in logprobs["top_logprobs"][1:])


def test_the_list_of_a_prompt_has_each_token_of_it_first_and_none_twice(served: Served) -> None:
    found = scored(served, prompt_logprobs=20)["prompt_logprobs"]
    assert [next(iter(each)) for each in found[1:]] == [str(token) for token in IDS[1:]]
    assert found[IDS.index(BEGIN)][str(BEGIN)]["decoded_token"] == "reasoning_begin"
    for each in found[1:]:
        names = [entry["decoded_token"] for entry in each.values() if entry["decoded_token"] != "\ufffd"]
        assert len(names) == len({*names})
        assert sorted(entry["rank"] for entry in each.values())[:20] == [*range(1, 21)]


def test_a_mark_of_several_tokens_is_not_scored_by_its_first() -> None:
    make_reasoners()
    several = {**THINKER, "marks": {"reasoning_begin": "<think>\n", "reasoning_end": "</think>"}}
    with Ensemble.load({"members": [several]}) as alone:
        [(_, found)] = alone.generate_batch([Request("", Prompt(ids=IDS), score=True)])
    FAKE_MODELS.clear()
    assert f"the token {BEGIN} begins reasoning_begin of member 'thinker', which it writes as several" in str(found)


def test_a_scored_text_holds_its_marks_and_has_no_parts() -> None:
    make_reasoners()
    request = Request("", Prompt(ids=IDS), score=True, top_logprobs=300, trace=True)
    with Ensemble.load({"members": [THINKER]}) as alone:
        [(_, found)] = alone.generate_batch([request])
    FAKE_MODELS.clear()
    assert not isinstance(found, Exception)
    assert found.text == f"hy?<think>\n{THOUGHT}</think>\nBlue"
    assert found.reasoning is None
    steps = found.steps or ()
    assert {step.part for step in steps} == {"answer"}
    for step in steps:
        listed = [piece for piece, _ in step.likeliest]
        assert len(listed) == len({*listed})
        assert {"reasoning_begin", "reasoning_end"} < {*listed}
    told = next(step for step in steps if step.mark).to_json()
    assert told["likeliest"][0] == {"bytes": [], "mark": "reasoning_begin", "p": 1.0}  # type: ignore[index]
