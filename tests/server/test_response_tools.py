"""Tools of responses that are no plain functions: of namespaces, taking text, or run elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from support.fakes import make_fakes
from support.real_server import Served, serving
from support.tool_templates import TAGGED
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.server.limits import ServerLimits
from unisono.server.responses_api.tools import CallName, flat

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
DAY = {"type": "object", "properties": {"day": {"enum": [7]}}, "required": ["day"], "additionalProperties": False}
PLAN = {"type": "function", "name": "plan", "parameters": DAY}
CRM = {
    "type": "namespace",
    "name": "crm",
    "description": "About customers.",
    "tools": [{**PLAN, "description": "Plan."}],
}
WORD = {"type": "custom", "name": "say", "format": {"type": "grammar", "syntax": "regex", "definition": '"(a|b)\\n'}}
SEARCH = {"type": "web_search", "external_web_access": True}
LARK = {"type": "grammar", "syntax": "lark", "definition": "start: /a/"}
SOME = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "crm__plan"}, SEARCH]}
FOUND = {"type": "allowed_tools", "mode": "auto", "tools": [SEARCH]}
NAMED = {"type": "function", "function": {"name": "plan", "when": "now"}}
TOOLS = {"members": [{"name": "a", "model": "fake:a", "chat_template": TAGGED}]}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    make_fakes()
    with serving({"tools": TOOLS}) as server:
        yield server
    FAKE_MODELS.clear()


def respond(served: Served, status: int = 200, **keys: Any) -> Any:
    response = served.post("/v1/responses", {"model": "tools", "input": "the cat", "max_output_tokens": 60, **keys})
    assert response.status_code == status, response.text
    return response.json() | {"left out": response.headers.get("x-unisono-left-out")}


def streamed(served: Served, **keys: Any) -> list[Any]:
    body = {"model": "tools", "input": "the cat", "max_output_tokens": 60, "stream": True, **keys}
    blocks = served.post("/v1/responses", body).text.strip().split("\n\n")
    return [EVENTS.validate_json(block.partition("\ndata: ")[2]) for block in blocks]


@pytest.mark.parametrize("choice", [{"type": "function", "name": "plan"}, "required", SOME])
def test_a_call_of_a_namespace_is_told_with_it(served: Served, choice: Any) -> None:
    asked: Any = {"tools": [CRM, SEARCH], "tool_choice": choice, "parallel_tool_calls": False}
    response = respond(served, **asked)
    [call] = response["output"]
    assert (call["namespace"], call["name"], json.loads(call["arguments"])) == ("crm", "plan", {"day": 7})
    [told] = Response.model_validate(response).model_dump(exclude_none=True, exclude_unset=True)["tools"]
    assert (told["name"], told["description"], told["tools"][0]["name"]) == ("crm", "About customers.", "plan")
    assert response["left out"] == "web_search"
    [added] = [event for event in streamed(served, **asked) if event.type == "response.output_item.added"]
    assert (added.item.namespace, added.item.name) == ("crm", "plan")


def test_members_read_past_calls_by_the_name_that_they_are_offered(served: Served) -> None:
    call = {"type": "function_call", "call_id": "c", "arguments": '{"day": 7}'}
    result = {"type": "function_call_output", "call_id": "c", "output": "done"}
    inside = [{"role": "user", "content": "the cat"}, {**call, "namespace": "crm", "name": "plan"}, result]
    joined = [{"role": "user", "content": "the cat"}, {**call, "name": "crm__plan"}, result]
    plain = {
        "type": "function",
        "name": "crm__plan",
        "parameters": DAY,
        "description": "[crm: About customers.]\nPlan.",
    }
    assert (
        respond(served, input=inside, tools=[CRM], tool_choice="none")["output"][0]["content"]
        == respond(served, input=joined, tools=[plain], tool_choice="none")["output"][0]["content"]
    )
    assert [flat("read", "mcp__files__"), flat("read", ""), flat("read", None)] == ["mcp__files__read", "read", "read"]


def test_a_custom_tool_is_given_text_that_its_expression_allows(served: Served) -> None:
    asked: Any = {"tools": [WORD, PLAN], "tool_choice": {"type": "custom", "name": "say"}}
    response = respond(served, **asked)
    [call] = response["output"]
    assert (call["type"], call["name"], call["status"]) == ("custom_tool_call", "say", "completed")
    assert call["input"] in ('"a\n', '"b\n')
    Response.model_validate(response)
    events = streamed(served, **asked)
    told = [event for event in events if event.type.startswith("response.custom_tool_call_input")]
    assert [told[0].delta, told[1].input, events[-1].response.output[0].input] == [call["input"]] * 3
    result = {"type": "custom_tool_call_output", "call_id": call["call_id"], "output": "it sleeps"}
    more: Any = {"tools": [WORD, PLAN], "tool_choice": "none"}
    after = respond(served, input=[result], previous_response_id=response["id"], **more)
    whole = respond(served, input=[{"role": "user", "content": "the cat"}, call, result], **more)
    assert after["output"][0]["content"] == whole["output"][0]["content"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"input": "ls\\n"}', "ls\n"),
        ('{"input": "ls\\', "ls"),
        ('{"input": "caf\\u00', "caf"),
        ('{"input": "a \\"b\\" c', 'a "b" c'),
        ('{"inp', ""),
        ('{"command": "ls"}', '{"command": "ls"}'),
    ],
)
def test_what_a_custom_tool_is_given_is_read_as_far_as_it_was_written(arguments: str, text: str) -> None:
    assert CallName("shell", is_custom=True).given(arguments) == text


@pytest.mark.parametrize(
    ("keys", "param"),
    [
        ({"tools": [SEARCH]}, "tools[0].type"),
        ({"tools": [PLAN, SEARCH], "tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"tools": [PLAN, SEARCH], "tool_choice": FOUND}, "tool_choice.tools[0].type"),
        ({"tools": [PLAN], "tool_choice": NAMED}, "tool_choice.function.when"),
        ({"tools": [CRM, SEARCH], "tool_choice": {**SOME, "mode": "maybe"}}, "tool_choice.allowed_tools.mode"),
        ({"tools": [CRM], "tool_choice": SOME}, "tool_choice.tools[1].type"),
        ({"tools": [{"type": "wizardry"}]}, "tools[0].type"),
        ({"tools": [{**CRM, "tools": None}]}, "tools[0].tools"),
        ({"tools": [{**CRM, "name": ""}]}, "tools[0].name"),
        ({"tools": [{**CRM, "tools": [SEARCH]}]}, "tools[0].tools[0].type"),
        ({"tools": [{**WORD, "format": LARK}]}, "tools[0].format.syntax"),
        ({"tools": [{**WORD, "format": "text"}]}, "tools[0].format"),
        ({"tools": [PLAN, {**WORD, "format": {**LARK, "syntax": "regex", "definition": "("}}]}, "tools[1].format"),
        ({"tools": [CRM, CRM]}, "tools"),
        ({"input": [{"type": "custom_tool_call", "call_id": "c", "name": "say"}]}, "input[0].input"),
        ({"input": "the cat " * 4000}, "input"),
    ],
)  # fmt: skip
def test_what_nobody_can_call_is_refused_by_name(served: Served, keys: dict[str, Any], param: str) -> None:
    assert respond(served, 400, **keys)["error"]["param"] == param


def test_tools_among_the_items_of_the_input_are_offered_once() -> None:
    """As Codex sends them in every turn."""
    make_fakes()
    added = {"type": "additional_tools", "role": "developer", "tools": [CRM, PLAN]}
    say = {"role": "user", "content": "the cat"}
    choice = {"type": "function", "name": "plan", "namespace": "crm"}
    with serving({"tools": TOOLS}) as server:
        response = respond(server, input=[added, say, added], tools=[PLAN], tool_choice=choice)
        assert (response["output"][0]["namespace"], response["output"][0]["name"]) == ("crm", "plan")
        assert [tool["type"] for tool in response["tools"]] == ["function", "namespace"]
        plain = respond(server, input=[say], tools=[PLAN, CRM], tool_choice=choice)
        assert response["usage"]["input_tokens"] == plain["usage"]["input_tokens"]
        after = respond(server, input="And?", previous_response_id=response["id"], tool_choice="none", store=False)
        assert [tool["type"] for tool in after["tools"]] == ["namespace", "function"]
        changed = {**added, "tools": [{**CRM, "tools": [{**PLAN, "description": "Plans."}, {**PLAN, "name": "more"}]}]}
        for items in ([added, changed, say], [changed, added, changed, say]):
            [plan, crm] = respond(server, input=items, tools=[PLAN], tool_choice="none")["tools"]
            assert (plan["name"], [tool["name"] for tool in crm["tools"]]) == ("plan", ["plan", "more"])
            assert crm["tools"][0]["description"] == "Plans."
        odd = {**added, "tools": [{**PLAN, "name": "odd", "parameters": {"type": "number"}}]}
        assert "input[0].tools[0] are" in respond(server, 400, input=[odd, say])["error"]["message"]
        assert respond(server, 400, input=[{**added, "tools": {}}, say])["error"]["param"] == "input[0].tools"


def test_a_tool_of_a_namespace_that_cannot_be_followed_is_left_out_beside_others(served: Served) -> None:
    bash = {**WORD, "name": "bash", "format": LARK}
    response = respond(served, tools=[{**CRM, "tools": [bash, PLAN]}], tool_choice="required")
    assert response["left out"] == "custom"
    assert response["output"][0]["name"] == "plan"
    assert [tool["name"] for tool in response["tools"][0]["tools"]] == ["plan"]
    alone = respond(served, 400, tools=[{**CRM, "tools": [bash]}])
    assert alone["error"]["param"] == "tools[0].tools[0].format.syntax"


def test_a_tool_of_a_namespace_is_named_by_its_place_in_the_request(served: Served) -> None:
    odd = {**PLAN, "name": "odd", "parameters": {"type": "number"}}
    for given in ([SEARCH, {**CRM, "tools": [PLAN, odd]}], [SEARCH, CRM, {**CRM, "name": "b", "tools": [odd]}]):
        error = respond(served, 400, tools=given, tool_choice="required")["error"]
        assert f"tools[{len(given) - 1}].tools[{3 - len(given)}] are" in error["message"]


def test_the_limit_of_prompts_names_the_field() -> None:
    make_fakes()
    with serving({"tools": TOOLS}, limits=ServerLimits(prompt=40)) as server:
        for text in ("the cat " * 30, "the cat " * 300):
            said = [{"role": "user", "content": text}]
            assert respond(server, 400, input=text)["error"]["param"] == "input"
            for path, keys, param in (
                ("chat/completions", {"messages": said}, "messages"),
                ("completions", {"prompt": text}, "prompt"),
            ):
                error = server.post(f"/v1/{path}", {"model": "tools", **keys}).json()["error"]
                assert (error["param"], error["code"]) == (param, "context_length_exceeded")
    FAKE_MODELS.clear()


def test_tools_that_may_not_be_called_keep_nobody_from_an_answer(served: Served) -> None:
    response = respond(served, tools=[SEARCH], tool_choice="none")
    assert (response["tools"], response["left out"]) == ([], "web_search")


def test_a_strict_server_leaves_no_tool_out() -> None:
    make_fakes()
    with serving({"tools": TOOLS}, limits=ServerLimits(strict=True)) as server:
        assert respond(server, 400, tools=[PLAN, SEARCH])["error"]["param"] == "tools[1].type"
        assert respond(server, tools=[CRM, WORD], tool_choice="required")["output"]
    FAKE_MODELS.clear()
