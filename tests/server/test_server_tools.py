"""Tools through OpenAI's client: calls are those of the text, whole, streamed and not, and go back as messages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.fakes import make_fakes
from support.real_server import SAY, A, B, Served, serving
from support.tool_templates import TAGGED
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.constraints.grammar import Grammars, Parse
from unisono.server.limits import ServerLimits
from unisono.server.requests import read_chat
from unisono.server.schemas import ChatRequest
from unisono.server.tools import read_calling

PING: dict[str, Any] = {"type": "function", "function": {"name": "ping", "strict": None}}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Sofia", "日本"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Sofia"}}\n</tool_call>'


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    make_fakes()
    knowing = [{**member, "chat_template": TAGGED} for member in (A, B)]
    with serving({"duo": {"members": knowing}, "deaf": {"members": [A, B]}}) as server:
        yield server
    FAKE_MODELS.clear()


def ask(served: Served, **keys: Any) -> Any:
    return served.client().chat.completions.create(
        **{"model": "duo", "messages": SAY, "max_tokens": 200, "tools": [PING, WEATHER], **keys}
    )


def forced(text: str) -> dict[str, Any]:
    """Let the members write just this."""
    return {"unisono": {"constraint": {"lark": f"start: {json.dumps(text)}"}}}


def streamed(chunks: Any) -> tuple[str, list[tuple[str, str]], str | None]:
    """The content, the calls and the reason of a stream."""
    content, calls, reason = "", [], None
    for chunk in chunks:
        [choice] = chunk.choices
        content += choice.delta.content or ""
        for call in choice.delta.tool_calls or []:
            assert call.index == len(calls)
            assert call.type == "function"
            calls.append((call.function.name, call.function.arguments))
        reason = choice.finish_reason or reason
    return content, calls, reason


def whole(answer: Any) -> tuple[str, list[tuple[str, str]], str | None]:
    [choice] = answer.choices
    calls = [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or []]
    return choice.message.content or "", calls, choice.finish_reason


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"ping", "weather"}),
        ({"type": "function", "function": {"name": "weather"}}, {"weather"}),
        ({"type": "function", "function": {"name": "ping"}}, {"ping"}),
    ],
)
def test_where_a_call_has_to_be_made_one_is(served: Served, choice: Any, names: set[str]) -> None:
    content, calls, reason = whole(ask(served, tool_choice=choice, parallel_tool_calls=False))
    assert (content, reason) == ("", "tool_calls")
    [(name, arguments)] = calls
    assert name in names
    assert json.loads(arguments) in ([{}] if name == "ping" else [{"city": "Sofia"}, {"city": "日本"}])
    chunks = ask(served, tool_choice=choice, parallel_tool_calls=False, stream=True)
    assert streamed(chunks) == (content, calls, reason)


def allowed(*names: str, mode: str = "required", **more: Any) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}, **more}


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (allowed("weather"), {"weather"}),
        (allowed("ping"), {"ping"}),
        (allowed("ping", "weather"), {"ping", "weather"}),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "ping"}]}, {"ping"}),
    ],
)
def test_of_the_tools_only_those_that_are_allowed_are_called(served: Served, choice: Any, names: set[str]) -> None:
    _, calls, _ = whole(ask(served, tool_choice=choice))
    assert {name for name, _ in calls} <= names
    assert calls


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_the_others_stay_in_the_prompt_and_out_of_the_grammar(served: Served, mode: str) -> None:
    keys = {"messages": SAY, "tools": [PING, WEATHER], "model": "duo", "tool_choice": allowed("ping", mode=mode)}
    call = read_chat(ChatRequest(**keys), served.service, ServerLimits())
    plain = read_chat(ChatRequest(**{**keys, "tool_choice": None}), served.service, ServerLimits())
    assert call.first.prompt == plain.first.prompt
    assert call.first.constraint is not None
    grammar = Grammars(served.service.engines["duo"].union)
    texts = ['<tool_call>\n{"name": "ping", "arguments": {}}\n</tool_call>', CALL, "Words alone."]
    fitting = [accepts(served, grammar(call.first.constraint), text) for text in texts]
    assert fitting == [True, False, mode == "auto"]


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (CALL, "", [("weather", '{"city": "Sofia"}')]),
        (f"I look.\n{CALL}", "I look.", [("weather", '{"city": "Sofia"}')]),
        (
            f"{CALL}\n{CALL.replace('Sofia', '日本')}",
            "",
            [("weather", '{"city": "Sofia"}'), ("weather", '{"city": "日本"}')],
        ),
        ("No calls, <tool> nor any.", "No calls, <tool> nor any.", []),
        (
            '<tool_call>\n{"name": "weather", "arguments": {"city": ]',
            '<tool_call>\n{"name": "weather", "arguments": {"city": ]',
            [],
        ),
        (CALL.replace("weather", "whether"), CALL.replace("weather", "whether"), []),
    ],
)
def test_calls_are_found_in_what_is_written_freely(
    served: Served, text: str, content: str, calls: list[tuple[str, str]]
) -> None:
    reason = "tool_calls" if calls else "stop"
    assert whole(ask(served, extra_body=forced(text))) == (content, calls, reason)
    assert streamed(ask(served, extra_body=forced(text), stream=True)) == (content, calls, reason)
    assert whole(ask(served, extra_body=forced(text), tool_choice="none")) == (text, [], "stop")


@pytest.mark.parametrize("choice", [None, "required", {"type": "function", "function": {"name": "weather"}}])
def test_a_call_that_a_limit_cuts_off_keeps_what_was_written_of_it_and_is_no_content(
    served: Served, choice: Any
) -> None:
    words = forced("So.\n" + CALL) if choice is None else None
    said = "So." if choice is None else ""
    for most in range(4, 81, 4):
        keys = {"max_tokens": most, "tools": [WEATHER], "tool_choice": choice, "extra_body": words}
        content, calls, reason = whole(ask(served, **keys, parallel_tool_calls=False if choice else None))
        assert content.rstrip("\n<") == said
        assert reason == "length" or most > 60
        for name, arguments in calls:
            assert name == "weather"
            assert any(each.startswith(arguments) for each in ('{"city": "Sofia"}', '{"city": "日本"}'))
        chunks = ask(served, **keys, parallel_tool_calls=False if choice else None, stream=True)
        assert streamed(chunks) == (content, calls, reason)
    assert calls


def test_a_call_that_a_stop_string_cuts_off_is_content(served: Served) -> None:
    keys = {"extra_body": forced(CALL), "stop": "Sof"}
    for found in (whole(ask(served, **keys)), streamed(ask(served, **keys, stream=True))):
        assert found == (CALL.partition("Sof")[0], [], "stop")


def test_where_no_call_may_be_made_no_member_is_shown_the_tools(served: Served) -> None:
    called = ask(served, extra_body=forced(CALL)).choices[0].message
    [call] = called.tool_calls
    answered = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    for messages in (SAY, [*SAY, called.model_dump(exclude_none=True), answered]):
        keys = {"model": "duo", "messages": messages, "max_tokens": 6}
        sides = [ask(served, **keys, tools=tools, tool_choice="none") for tools in ([PING, WEATHER], None)]
        assert whole(sides[0]) == whole(sides[1])
        read = [side.unisono["choices"][0]["usage"]["prompt_tokens"] for side in sides]
        assert read[0] == read[1]


def test_where_none_may_be_made_after_calls_no_call_is_written(served: Served) -> None:
    called = ask(served, extra_body=forced(CALL)).choices[0].message
    answered = {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": "rain"}
    past = [*SAY, called.model_dump(exclude_none=True), answered]
    body = {"model": "duo", "tools": [WEATHER], "tool_choice": "none"}
    engine = served.service.engines["duo"]

    def bound(messages: Any, **more: Any) -> Any:
        request = ChatRequest.model_validate({**body, "messages": messages, **more})
        [wanted] = read_chat(request, served.service, ServerLimits()).requests
        return wanted.constraint

    silence = bound(past)
    grammars = Grammars(engine.union)
    for text, fits in (("It rains.", True), ("", True), ("a <tool_cal", True), (CALL, False), (f"Hm {CALL}", False)):
        assert accepts(served, grammars(silence), text) == fits
    assert bound(SAY) is None
    assert bound(past, tool_choice="auto") is None
    assert bound(past, response_format={"type": "json_object"}).kind == "json_object"
    assert bound(past, regex="a").kind == "regex"
    assert whole(ask(served, messages=past, tool_choice="none", max_tokens=6))[2] == "length"


def test_calls_and_their_answers_go_back_as_messages(served: Served) -> None:
    choice = ask(served, extra_body=forced(CALL)).choices[0]
    [call] = choice.message.tool_calls
    assert len(call.id) == 9
    messages = [
        *SAY,
        choice.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": [{"type": "text", "text": "rain"}]},
    ]
    assert whole(ask(served, messages=messages, max_tokens=3))[2] == "length"
    read = served.service.engines["duo"].members[0]
    assert read.name == "a"


def function_with(**more: Any) -> dict[str, Any]:
    """A tool whose function has other keys."""
    return {"type": "function", "function": {"name": "x", **more}}


def bound_to(parameters: dict[str, Any]) -> dict[str, Any]:
    """A call that has to be made, with arguments of some schema."""
    return {
        "tools": [{"type": "function", "function": {"name": "x", "parameters": parameters}}],
        "tool_choice": "required",
    }


def strictly(parameters: dict[str, Any]) -> dict[str, Any]:
    """A call that may be made, with arguments of some schema."""
    function = {"name": "x", "strict": True, "parameters": parameters}
    return {"tools": [{"type": "function", "function": function}]}


def saving(where: str) -> dict[str, Any]:
    """A strict function with formats that no grammar has, and one that it has."""
    properties = {
        "file": {"type": "string", "format": "path"},
        "secrets": {"type": "array", "items": {"anyOf": [{"type": "string", "format": "password"}, {"type": "null"}]}},
        "day": {"type": "string", "format": "date"},
        "format": {"$ref": "#/$defs/Json"},
    }
    parameters = {
        "type": "object",
        "properties": properties,
        "$defs": {"Json": {"type": "string", "format": "json-string"}},
        "required": [*properties],
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": where, "strict": True, "parameters": parameters}}


SAVED = '{"file": "a/b", "secrets": ["x"], "day": "%s", "format": "{}"}'


@pytest.mark.parametrize("more", [{}, {"tool_choice": "auto"}, {"parallel_tool_calls": False}])
def test_a_format_that_the_grammar_lacks_keeps_no_function_from_being_offered(
    served: Served, more: dict[str, Any]
) -> None:
    body = {"model": "duo", "messages": SAY, "max_tokens": 4, "tools": [saving("save"), WEATHER], **more}
    for answer in ({}, {"response_format": {"type": "json_object"}}):
        response = served.post("/v1/chat/completions", {**body, **answer})
        assert response.status_code == 200, response.text
    request = ChatRequest.model_validate(body)
    calling = read_calling(request, served.service.engines["duo"], "a", None)
    assert calling is not None
    assert calling.tools[0] == saving("save")  # as the members read it
    assert calling.constraint is not None
    grammars = Grammars(served.service.engines["duo"].union)
    for day, fits in (("2024-02-29", True), ("tomorrow", False)):
        call = '<tool_call>\n{"name": "save", "arguments": %s}\n</tool_call>' % (SAVED % day)
        assert accepts(served, grammars(calling.constraint), call) == fits


def accepts(served: Served, parse: Parse, text: str) -> bool:
    union = served.service.engines["duo"].union
    for byte in text.encode():
        column = next(column for column in range(union.end) if union.piece(column) == bytes([byte]))
        if not parse.allowed(())[column]:
            return False
        parse.consume(column)
    return bool(parse.allowed(())[union.end])


def test_a_call_that_is_required_keeps_to_each_format_or_is_refused(served: Served) -> None:
    tool = json.loads(json.dumps(saving("save")).replace('"path"', '"iri"'))
    body = {"model": "duo", "messages": SAY, "tools": [tool], "tool_choice": "required"}
    response = served.post("/v1/chat/completions", body)
    assert response.status_code == 400
    assert "Unknown format" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": "deaf"}, "tools"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "two words"}}]}, "tools"),
        ({"tools": [PING, PING]}, "tools"),
        ({"tools": [PING, function_with(params={})]}, "tools[1].function.params"),
        ({"tools": [function_with(inputSchema={})]}, "tools[0].function.inputSchema"),
        ({"tools": [function_with(stric=True)]}, "tools[0].function.stric"),
        ({"tool_choice": "every"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "wether"}}}, "tool_choice"),
        ({"tools": None, "tool_choice": "required"}, "tool_choice"),
        ({"tools": None, "tool_choice": allowed("ping", mode="auto")}, "tool_choice"),
        ({"tool_choice": allowed("pin")}, "tool_choice"),
        ({"tool_choice": allowed()}, "tool_choice.allowed_tools.tools"),
        ({"tool_choice": allowed("ping", mode="none")}, "tool_choice.allowed_tools.mode"),
        ({"tool_choice": allowed("ping", extra=1)}, "tool_choice.extra"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "web_search"}]}}, "tool_choice"),
        ({"parallel_tool_calls": False, "unisono": {"constraint": "regex:a"}}, "parallel_tool_calls"),
        (strictly({"minProperties": 3}), "tools[0].function.parameters"),
        (strictly({"properties": {"n": {"not": {}}}}), "tools[0].function.strict"),
        ({**strictly({}), "unisono": {"constraint": "regex:a"}}, "tools[0].function.strict"),
        ({"response_format": {"type": "json_object"}, "unisono": {"constraint": "regex:a"}}, "response_format"),
        ({"tool_choice": "required", "unisono": {"constraint": "regex:a"}}, "tools"),
        (bound_to({"properties": {"n": {"minimun": 3}}}), "tools[0].function.parameters"),
        (bound_to({"properties": {"n": {"x-guidance": {}}}}), "tools[0].function.parameters"),
        (bound_to({"minProperties": 3}), "tools[0].function.parameters"),
        (bound_to({"properties": {"n": {"const": 10**20}}}), "tools[0].function.parameters"),
        (bound_to({"properties": {"n": {"not": {}}}}), "tools"),
        ({"messages": [*SAY, {"role": "tool", "tool_call_id": 0.5, "content": "rain"}]}, "messages[1].tool_call_id"),
    ],
)
def test_what_cannot_be_called_is_refused_by_name(served: Served, change: dict[str, Any], param: str) -> None:
    body = {"model": "duo", "messages": SAY, "max_tokens": 2, "tools": [PING, WEATHER], **change}
    response = served.post("/v1/chat/completions", body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param, response.text
    message = response.json()["error"]["message"]
    assert "lark" not in message
    assert "tool 1" not in message
