"""A chat whose last message is continued, by the names of several servers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.fakes import make_fakes
from support.real_server import SAY, Served, serving
from unisono.backends.fake.backend import FAKE_MODELS


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    make_fakes()
    with serving() as server:
        yield server
    FAKE_MODELS.clear()


def ask(served: Served, status: int = 200, **keys: Any) -> Any:
    response = served.post("/v1/chat/completions", {"model": "duo", "messages": SAY, "max_tokens": 12, **keys})
    assert response.status_code == status, response.text
    return response.json()


def text(served: Served, **keys: Any) -> str:
    return str(ask(served, **keys)["choices"][0]["message"]["content"])


BEGUN: list[dict[str, Any]] = [*SAY, {"role": "assistant", "content": "the dog sees"}]
ANSWER = "add_generation_prompt"
CONTINUE = "continue_final_message"


@pytest.mark.parametrize(
    "keys",
    [
        {CONTINUE: True},
        {CONTINUE: True, ANSWER: False},
        {"chat_template_kwargs": {CONTINUE: True, ANSWER: False}},
        {CONTINUE: True, "chat_template_kwargs": {CONTINUE: True}},
        {"messages": [*SAY, {**BEGUN[1], "prefix": True}]},
        {"messages": [*SAY, {**BEGUN[1], "partial": True}], CONTINUE: True},
        {"messages": [*SAY, {**BEGUN[1], "content": [{"type": "text", "text": "the dog"}, " sees"]}], CONTINUE: True},
        {"messages": [{**SAY[0], "prefix": True}, BEGUN[1]], CONTINUE: True, "tools": []},
    ],
)
def test_a_last_message_is_continued_by_any_name(served: Served, keys: dict[str, Any]) -> None:
    [choice] = ask(served, **{"messages": BEGUN, **keys})["choices"]
    continued = ask(served, messages=BEGUN, continue_final_message=True)
    assert choice == continued["choices"][0] != ask(served, messages=BEGUN)["choices"][0]
    assert continued["usage"]["prompt_tokens"] == ask(served, messages=BEGUN)["usage"]["prompt_tokens"] - 2


def test_it_is_continued_in_a_stream_too(served: Served) -> None:
    asked: Any = {"model": "duo", "messages": BEGUN, "max_tokens": 12, "extra_body": {CONTINUE: True}}
    chunks = list(served.client().chat.completions.create(**asked, stream=True))
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == text(served, messages=BEGUN, continue_final_message=True)


@pytest.mark.parametrize(
    ("keys", "param"),
    [
        ({CONTINUE: True, "messages": SAY}, CONTINUE),
        ({CONTINUE: True, ANSWER: True}, CONTINUE),
        ({CONTINUE: True, "chat_template_kwargs": {CONTINUE: False}}, CONTINUE),
        ({ANSWER: False}, ANSWER),
        ({"chat_template_kwargs": {ANSWER: False}}, ANSWER),
        ({"chat_template_kwargs": {CONTINUE: "content"}}, "chat_template_kwargs"),
        ({"messages": [*SAY, {**BEGUN[1], "prefix": True}], CONTINUE: False}, "messages[1].prefix"),
        ({"messages": [{**SAY[0], "partial": True}]}, "messages[0].partial"),
    ],
)
def test_what_contradicts_a_continuation_is_refused_by_name(served: Served, keys: dict[str, Any], param: str) -> None:
    assert ask(served, 400, **{"messages": BEGUN, **keys})["error"]["param"] == param


def test_a_past_message_that_was_to_be_continued_is_a_message(served: Served) -> None:
    for key in ("prefix", "partial"):
        for whether in (True, False):
            messages = [*SAY, {**BEGUN[1], key: whether}, *SAY]
            assert text(served, messages=messages) == text(served, messages=[*BEGUN, *SAY])
