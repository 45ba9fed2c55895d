"""`prefill`: what a text begins with, given by the client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.real_server import SAY, Served, ask
from support.served_thinkers import serving_thinkers

TOOL: Any = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving_thinkers() as server:
        yield server


def trace_of(answer: Any) -> list[Any]:
    return [
        {key: value for key, value in step.items() if key in ("bytes", "voted")}
        for step in answer["unisono"]["choices"][0]["trace"]
    ]


def complete(served: Served, status: int = 200, **keys: Any) -> Any:
    response = served.post("/v1/completions", {"model": "duo", "prompt": "the cat", "max_tokens": 6, **keys})
    assert response.status_code == status, response.text
    return response.json()


def test_a_chat_goes_on_from_any_piece_of_its_trace(served: Served) -> None:
    traced: Any = {"trace": True}
    whole = ask(served, unisono=traced, max_tokens=8)
    steps, text = whole["unisono"]["choices"][0]["trace"], whole["choices"][0]["message"]["content"]
    for count in (1, 4, 7):
        given = [{"bytes": step["bytes"]} for step in steps[:count]]
        rest = ask(served, unisono=traced, max_tokens=8 - count, prefill=given)
        assert trace_of(rest) == trace_of(whole)[count:]
        assert text.endswith(rest["choices"][0]["message"]["content"])
        assert rest["usage"]["completion_tokens"] == 8 - count
        assert rest["usage"]["prompt_tokens"] > whole["usage"]["prompt_tokens"]


def test_a_text_begins_alike_in_chats_completions_and_streams(served: Served) -> None:
    answer = ask(served, prefill="the dog")["choices"][0]["message"]["content"]
    assert answer != ask(served)["choices"][0]["message"]["content"]
    asked: Any = {"model": "duo", "messages": SAY, "max_tokens": 12, "extra_body": {"prefill": "the dog"}}
    chunks = list(served.client().chat.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == answer
    assert (
        complete(served, prefill=[" dog"])["choices"][0]["text"]
        == complete(served, prompt="the cat dog")["choices"][0]["text"]
    )


def test_log_probabilities_stand_at_the_characters_that_are_written(served: Served) -> None:
    begun = [" sees", {"bytes": list("日".encode()[:1])}]
    choice = complete(served, prefill=begun, logprobs=1)["choices"][0]
    lists = choice["logprobs"]
    assert len(lists["tokens"]) == 6
    assert lists["text_offset"][0] <= 1  # the character that was begun, where it is not gone on with
    chat = ask(served, prefill=begun, logprobs=True, max_tokens=6)["choices"][0]
    assert len(chat["logprobs"]["content"]) == 6


def test_an_answer_with_tools_may_begin_with_text(served: Served) -> None:
    ask(served, prefill="the dog ", tools=[TOOL], tool_choice="none")


@pytest.mark.parametrize(
    "prefill",
    [5, True, {"bytes": [1]}, [5], [{"bytes": []}], [{"bytes": [-1]}], [{"bytes": None}], [{"mark": "x"}], [[]], [None],
     [{"mark": "reasoning_begin"}], [""], "\ud800", ["\udfff"]],
)  # fmt: skip
def test_what_is_no_beginning_is_refused_by_name(served: Served, prefill: Any) -> None:
    for error in (ask(served, 400, prefill=prefill)["error"], complete(served, 400, prefill=prefill)["error"]):
        assert error["param"].startswith("prefill")
        assert "prefill" in error["message"] or "beginning" in error["message"]


def test_what_does_not_go_with_a_beginning_is_refused(served: Served) -> None:
    assert complete(served, 400, prefill="x", echo=True)["error"]["param"] == "prefill"
    assert complete(served, 400, prefill="x", prompt_logprobs=1)["error"]["param"] == "prefill"
    assert ask(served, 400, prefill="x", guided_regex="[0-9]+")["error"]["param"] == "prefill"
    assert ask(served, 400, prefill="the cat " * 100_000)["error"]["code"] == "context_length_exceeded"


def test_an_effort_beside_a_beginning_is_refused_where_somebody_may_reason(served: Served) -> None:
    assert (
        ask(served, prefill="the dog", reasoning_effort="high")["choices"] == ask(served, prefill="the dog")["choices"]
    )
    asked: Any = {"model": "thinkers", "prefill": "the dog", "reasoning_effort": "high"}
    error = ask(served, 400, **asked)["error"]
    assert error["param"] == "prefill"
    assert "reasoning_effort" in error["message"]


def test_an_empty_beginning_changes_nothing(served: Served) -> None:
    for nothing in ("", [], None):
        assert ask(served, prefill=nothing)["choices"] == ask(served)["choices"]
