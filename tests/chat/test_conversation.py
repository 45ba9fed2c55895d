"""What a conversation may hold: its shapes, and that every call is answered once."""

from __future__ import annotations

from typing import Any

import pytest

from support.tool_templates import NAMES, PING, USER, WEATHER, call, exchange
from unisono.chat.json_values import read_arguments
from unisono.chat.messages import Prompt, new_call_id
from unisono.errors import SpecError

CALL = call("ping", {})


def assistant(**keys: Any) -> dict[str, Any]:
    return {"role": "assistant", **keys}


def test_a_conversation_with_calls_and_answers_is_taken_as_it_is() -> None:
    messages = [USER, *exchange(CALL, call("get_weather", {"city": "Bonn"}, "two")), USER]
    prompt = Prompt(messages=messages, tools=[WEATHER, PING])
    assert prompt.messages == tuple(messages)
    assert prompt.tools == (WEATHER, PING)
    assert [tool["function"]["name"] for tool in prompt.tools] == list(NAMES)


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([{"role": "user"}], "message 1 has no role and content"),
        ([{"role": "user", "content": None}], "message 1 has no role and content"),
        ([assistant(content=3, tool_calls=[CALL])], "message 1 has no role and content"),
        ([{**USER, "nmae": "x"}], r"unknown key 'nmae'.*; did you mean 'name'"),
        ([{**USER, "name": ""}], "the name of message 1 is ''"),
        ([{**USER, "tool_calls": [CALL]}], "message 1 has tool_calls and the role 'user'"),
        ([assistant(tool_calls=[])], r"the tool_calls of message 1 are \[\]"),
        ([assistant(content="x", tool_calls=None)], "the tool_calls of message 1 are null"),
        ([assistant(tool_calls=["x"])], "call 1 of message 1 is 'x'"),
        ([assistant(tool_calls=[{**CALL, "type": "custom"}])], "not the call of a function"),
        ([assistant(tool_calls=[{**CALL, "index": 0}])], "unknown key 'index' in call 1"),
        ([assistant(tool_calls=[{**CALL, "id": ""}])], "call 1 of message 1 has no id"),
        ([assistant(tool_calls=[{**CALL, "function": {"name": "a b", "arguments": "{}"}}])], "the name 'a b'"),
        ([assistant(tool_calls=[{**CALL, "function": {"name": "a", "arguments": {}}}])], "are {}, not text"),
        ([assistant(tool_calls=[CALL])], "the call 'abcdefgh1' is not answered in these messages"),
        ([assistant(tool_calls=[CALL]), USER], "the call 'abcdefgh1' is not answered before message 2"),
        ([assistant(tool_calls=[CALL, CALL])], "two calls of message 1 have the id 'abcdefgh1'"),
        ([{"role": "tool", "content": "x"}], "the role 'tool' and no tool_call_id"),
        ([{**USER, "tool_call_id": "x"}], "the role 'user' and a tool_call_id"),
        ([{"role": "tool", "content": "x", "tool_call_id": "y"}], "answers the call 'y', which no"),
        ([*exchange(CALL), exchange(CALL)[1]], "message 3 answers the call 'abcdefgh1', which no"),
        ([exchange(CALL)[0], {**exchange(CALL)[1], "name": "pong"}], "the name 'pong' and answers a call of 'ping'"),
    ],
)
def test_messages_of_the_wrong_shape_are_refused_by_number(messages: list[Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem) as caught:
        Prompt(messages=messages)
    assert caught.value.hint or "unknown key" in problem


def function(**keys: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **keys}}


DEEP: dict[str, Any] = {}
for _ in range(300):
    DEEP = {"items": DEEP}


@pytest.mark.parametrize(
    ("tools", "problem"),
    [
        ({}, "tools is dict, not a list"),
        ([], "tools is empty"),
        (["f"], "tool 1 is 'f'"),
        ([{"type": "web_search"}], "not a function"),
        ([function(), function()], "tool 2 has the name of an earlier one, 'f'"),
        ([function(name="a b")], "tool 1 has the name 'a b'"),
        ([function(name="a" * 129)], "tool 1 has the name"),
        ([function(name="")], "tool 1 has the name"),
        ([function(name="a\u200b")], "tool 1 has the name"),
        ([function(name="☀")], "tool 1 has the name"),
        ([function(description=1)], "the description of tool 1 is 1"),
        ([function(strict="yes")], "strict of tool 1 is 'yes'"),
        ([function(params={})], "unknown key 'params' .*did you mean"),
        ([function(parameters=[])], r"the parameters of tool 1 are \[\]"),
        ([function(parameters={"type": "string"})], "the parameters of tool 1"),
        ([function(parameters={"default": float("nan")})], r"tool 1 \(f\) holds nan"),
        ([function(parameters={"default": object})], r"tool 1 \(f\) holds <class"),
        ([function(parameters=DEEP)], "nested more than 200 levels"),
    ],
)
def test_tools_of_the_wrong_shape_are_refused_by_number(tools: Any, problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        Prompt(messages=[USER], tools=tools)


def test_raw_text_calls_no_tools() -> None:
    with pytest.raises(SpecError, match="raw text calls no tools"):
        Prompt(text="x", tools=[PING])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": 1, "a": 2}',
        "[" * 100_000,
        '{"a":' * 300 + "1" + "}" * 300,
    ],
)
def test_arguments_are_the_json_of_an_object(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_arguments(text)


def test_ids_of_calls_are_nine_letters_and_digits_and_differ() -> None:
    ids = {new_call_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(identity) == 9 and identity.isalnum() and identity.isascii() for identity in ids)
