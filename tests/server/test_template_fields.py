"""Variables of chat templates are read where other servers have them."""

from __future__ import annotations

from typing import Any

import pytest

from support.real_server import SAY
from unisono.server.body import read_record
from unisono.server.errors import Refusal
from unisono.server.field_tables import OF_CHATS, OF_COMPLETIONS, OF_RESPONSES
from unisono.server.reasoning import wish_of
from unisono.server.responses_api.schemas import ResponseRequest
from unisono.server.schemas import ChatRequest, CompletionRequest


def record(**keys: Any) -> ChatRequest:
    return read_record(ChatRequest, {"model": "duo", "messages": SAY, **keys}, OF_CHATS)


@pytest.mark.parametrize(
    ("given", "own"),
    [
        ({"chat_template_args": {"enable_thinking": False}}, {"chat_template_kwargs": {"enable_thinking": False}}),
        ({"chat_template_args": {}}, {}),
        (
            {"chat_template_args": {"a": 1}, "chat_template_kwargs": {"a": 1, "b": 2}},
            {"chat_template_kwargs": {"a": 1, "b": 2}},
        ),
        ({"clear_thinking": False}, {"chat_template_kwargs": {"clear_thinking": False}}),
        ({"preserve_thinking": True}, {"chat_template_kwargs": {"preserve_thinking": True}}),
        (
            {"thinking": {"type": "enabled", "clear_thinking": False}},
            {"thinking": {"type": "enabled"}, "chat_template_kwargs": {"clear_thinking": False}},
        ),
        ({"thinking": {"type": "disabled", "clear_thinking": None}}, {"thinking": {"type": "disabled"}}),
        ({"disable_reasoning": True}, {"enable_thinking": False}),
        ({"disable_reasoning": False, "enable_thinking": True}, {"enable_thinking": True}),
        ({"min_completion_tokens": 3}, {"min_tokens": 3}),
    ],
)
def test_a_variable_is_moved_where_it_is_read(given: dict[str, Any], own: dict[str, Any]) -> None:
    assert record(**given) == record(**own)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"chat_template_args": {"a": 1}, "chat_template_kwargs": {"a": True}}, "chat_template_args.a"),
        ({"clear_thinking": True, "chat_template_kwargs": {"clear_thinking": False}}, "clear_thinking"),
        ({"clear_thinking": True, "thinking": {"clear_thinking": False}}, "thinking.clear_thinking"),
        ({"disable_reasoning": True, "enable_thinking": True}, "disable_reasoning"),
        ({"disable_reasoning": "yes"}, "disable_reasoning"),
        ({"chat_template_args": "x"}, "chat_template_args"),
        ({"chat_template_kwargs": "x"}, "chat_template_kwargs"),
        ({"thinking": {"type": "wish"}}, "thinking.type"),
        ({"reasoning_history": "preserved"}, "reasoning_history"),
        ({"prompt_mode": "reasoning"}, "prompt_mode"),
        ({"min_completion_tokens": 3, "min_tokens": 4}, "min_tokens"),
    ],
)
def test_two_things_are_not_said_and_nothing_is_lost(given: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal) as caught:
        record(**given)
    assert caught.value.param == param


def test_whether_to_think_may_be_left_to_the_members() -> None:
    for kind in ("auto", "adaptive"):
        assert wish_of(record(thinking={"type": kind, "display": "summarized"})) is None


def test_other_endpoints_read_what_they_can() -> None:
    asked = {"model": "duo", "input": "the cat", "chat_template_args": {"a": 1}, "clear_thinking": True}
    read = read_record(ResponseRequest, asked, OF_RESPONSES)
    assert read.chat_template_kwargs == {"a": 1, "clear_thinking": True}
    for name in ("chat_template_args", "clear_thinking", "disable_reasoning"):
        with pytest.raises(Refusal, match=name):
            read_record(CompletionRequest, {"model": "duo", "prompt": "x", name: {"a": 1}}, OF_COMPLETIONS)
    with pytest.raises(Refusal, match="use reasoning"):
        read_record(ResponseRequest, {**asked, "disable_reasoning": True}, OF_RESPONSES)
    chat = {"model": "duo", "messages": SAY, "chat_template_args": {"a": 1}}
    with pytest.raises(Refusal, match="chat_template_args"):
        read_record(ChatRequest, chat, OF_CHATS, strict=True)
