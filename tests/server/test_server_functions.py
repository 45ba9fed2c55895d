"""OpenAI's form of before tools: functions are tools, their calls are told in the form in which they are offered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.fakes import make_fakes
from support.real_server import SAY, A, B, Served, serving
from support.tool_templates import TAGGED
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.server.errors import Refusal
from unisono.server.functions import with_tools
from unisono.server.limits import ServerLimits

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Sofia"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: dict[str, Any] = {"name": "weather", "description": "It.", "parameters": SCHEMA}
PING: dict[str, Any] = {"name": "ping"}
NAMED = {"type": "function", "function": {"name": "weather"}}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    make_fakes()
    with serving({"duo": {"members": [{**member, "chat_template": TAGGED} for member in (A, B)]}}) as server:
        yield server
    FAKE_MODELS.clear()


def ask(served: Served, status: int = 200, **keys: Any) -> Any:
    body = {"model": "duo", "messages": SAY, "max_tokens": 200, **keys}
    response = served.post("/v1/chat/completions", body)
    assert response.status_code == status, response.text
    return response.json()


@pytest.mark.parametrize(
    ("given", "tools"),
    [
        ({}, {}),
        ({"functions": [], "function_call": "auto"}, {}),
        ({"functions": None, "function_call": "none", "tools": [{}]}, {"tools": [{}]}),
        ({"functions": [PING]}, {}),
        ({"functions": [PING], "function_call": "none"}, {"tool_choice": "none"}),
        ({"functions": [WEATHER], "function_call": {"name": "weather"}}, {"tool_choice": NAMED}),
        ({"functions": [PING], "function_call": "auto", "tool_choice": "auto"}, {"tool_choice": "auto"}),
    ],
)
def test_functions_are_tools_of_which_one_is_called(given: dict[str, Any], tools: dict[str, Any]) -> None:
    functions = given.get("functions") or []
    offered = {"tools": [{"type": "function", "function": each} for each in functions], "parallel_tool_calls": False}
    own = {"functions": functions, **offered} if functions else {}
    assert with_tools(given, strict=False) == {**own, **tools}


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"functions": [PING], "tools": [{}]}, "functions"),
        ({"functions": [PING], "function_call": "auto", "tool_choice": "none"}, "function_call"),
        ({"functions": [PING], "function_call": {"name": "ping", "x": 1}}, "function_call"),
        ({"functions": [PING], "function_call": "ping"}, "function_call"),
        ({"function_call": {"name": "ping"}}, "function_call"),
    ],
)
def test_what_says_more_or_two_things_is_refused(given: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal) as caught:
        with_tools(given, strict=False)
    assert caught.value.param == param


def test_a_call_is_told_as_a_function_is_offered(served: Served) -> None:
    pytest.importorskip("llguidance")
    wanted: dict[str, Any] = {"functions": [WEATHER, PING], "function_call": {"name": "weather"}}
    [choice] = ask(served, **wanted)["choices"]
    call = {"name": "weather", "arguments": '{"city": "Sofia"}'}
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"] == call
    assert "tool_calls" not in choice["message"]
    create: Any = served.client().chat.completions.create
    chunks = [*create(model="duo", messages=SAY, stream=True, max_tokens=200, **wanted)]
    [told] = [chunk.choices[0].delta.function_call for chunk in chunks if chunk.choices[0].delta.function_call]
    assert told.model_dump() == call
    assert chunks[-1].choices[0].finish_reason == "function_call"
    tools = [{"type": "function", "function": each} for each in (WEATHER, PING)]
    [same] = ask(served, tools=tools, tool_choice=NAMED, parallel_tool_calls=False)["choices"]
    [its] = same["message"]["tool_calls"]
    assert its["function"] == call


def test_a_free_answer_is_what_it_is_with_tools(served: Served) -> None:
    pytest.importorskip("llguidance")
    tools = [{"type": "function", "function": each} for each in (WEATHER, PING)]
    for choice in ("auto", "none"):
        [old] = ask(served, functions=[WEATHER, PING], function_call=choice)["choices"]
        [new] = ask(served, tools=tools, tool_choice=choice, parallel_tool_calls=False)["choices"]
        assert old["message"]["content"] == new["message"]["content"]
        assert "function_call" not in old["message"]


def test_a_conversation_of_functions_is_that_of_tools(served: Served) -> None:
    call = {"name": "weather", "arguments": json.dumps({"city": "Sofia"})}
    old = [
        *SAY,
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "weather", "content": "rain"},
    ]
    new = [
        *SAY,
        {"role": "assistant", "content": None, "tool_calls": [{"id": "x", "type": "function", "function": call}]},
        {"role": "tool", "tool_call_id": "x", "content": "rain"},
    ]
    answers = [ask(served, messages=given, max_tokens=9)["choices"][0]["message"]["content"] for given in (old, new)]
    assert answers[0] == answers[1]


def test_a_strict_server_refuses_it_by_name() -> None:
    make_fakes()
    with serving({"duo": {"members": [{**A, "chat_template": TAGGED}]}}, limits=ServerLimits(strict=True)) as served:
        assert ask(served, 400, functions=[PING])["error"]["param"] == "functions"
        function = {"role": "function", "name": "ping", "content": "x"}
        assert ask(served, 400, messages=[*SAY, function])["error"]["param"] == "messages[1].role"
        assert ask(served, functions=[], function_call="none")["choices"]
    FAKE_MODELS.clear()
