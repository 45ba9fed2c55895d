"""What clients write in the forms of other APIs is read as what it means: tools, choices, formats, thoughts, paths."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from support.at_once import at_once
from support.fakes import make_fakes
from support.real_server import SAY, A, B, Served, serving
from support.tool_templates import TAGGED
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.server.body import read_record
from unisono.server.constraint import read_constraint
from unisono.server.errors import Refusal
from unisono.server.field_tables import OF_CHATS
from unisono.server.limits import ServerLimits
from unisono.server.messages import read_messages
from unisono.server.middleware import usual_path
from unisono.server.schemas import ChatRequest

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
GOOGLES: dict[str, Any] = {
    "type": "OBJECT",
    "properties": {"city": {"type": "STRING", "enum": None}},
    "required": ["city"],
    "nullable": True,
}
FUNCTION: dict[str, Any] = {"name": "weather", "description": "Tell it.", "parameters": SCHEMA}
TOOL: dict[str, Any] = {"type": "function", "function": FUNCTION}
NAMED = {"type": "function", "function": {"name": "weather"}}
HEADERS = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    make_fakes()
    ensembles = {
        "duo": {"members": [A, B]},
        "calls": {"members": [{**each, "chat_template": TAGGED} for each in (A, B)]},
    }
    with serving(ensembles, limits=ServerLimits(output=90)) as server:
        yield server
    FAKE_MODELS.clear()


def record(**keys: Any) -> ChatRequest:
    return read_record(ChatRequest, {"model": "duo", "messages": SAY, **keys}, OF_CHATS)


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "function", **FUNCTION},
        {"type": "function", **FUNCTION, "cache_control": {"type": "ephemeral"}},
        FUNCTION,
        {"name": "weather", "description": "Tell it.", "input_schema": SCHEMA},
        {"type": "custom", "name": "weather", "description": "Tell it.", "input_schema": SCHEMA},
        {"name": "weather", "description": "Tell it.", "inputSchema": SCHEMA},
        {"name": "weather", "description": "Tell it.", "input_schema": SCHEMA, "parameters": SCHEMA},
        {"name": "weather", "description": "Tell it.", "input_schema": SCHEMA, "parameters": GOOGLES},
        {"type": "function", "function": {**FUNCTION, "input_schema": GOOGLES}},
        {"type": "function", "function": FUNCTION, "parameters": GOOGLES},
        {"type": "function", "function": {"name": "weather", "description": "Tell it."}, "parameters": GOOGLES},
        {
            "type": "function",
            "name": "weather",
            "parameters": SCHEMA,
            "function": {"name": "weather", "description": "Tell it."},
        },
    ],
)
def test_a_tool_in_another_apis_form_is_that_tool(tool: dict[str, Any]) -> None:
    assert record(tools=[tool]).tools == [TOOL]


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({"name": "weather", "input_schema": "x"}, "tools[0].function.parameters"),
        ({"name": "weather", "input_schema": [1]}, "tools[0].function.parameters"),
        ({"name": "weather", "inputschema": SCHEMA}, "tools[0].function.inputschema"),
        ({"name": "weather", "input_schema": SCHEMA, "parameters": {}}, "tools[0].function.input_schema"),
        ({"type": "function", "function": FUNCTION, "parameters": {}}, "tools[0].parameters"),
        ({"type": "function", "function": {**FUNCTION, "strict": False}, "strict": True}, "tools[0].strict"),
    ],
)
def test_a_schema_is_never_lost(tool: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal) as caught:
        record(tools=[tool])
    assert caught.value.param == param


def test_what_is_said_of_a_function_beside_it_counts() -> None:
    [tool] = record(tools=[{"type": "function", "function": FUNCTION, "strict": True}]).tools or ()
    assert tool["function"]["strict"] is True


@pytest.mark.parametrize(
    "tool", [{"type": "web_search"}, {"type": "custom", "name": "sql"}, {"type": "code", **FUNCTION}]
)
def test_what_is_no_function_stays_refused(tool: dict[str, Any]) -> None:
    with pytest.raises(Refusal, match=r"tools\[0\]"):
        record(tools=[tool])


@pytest.mark.parametrize(
    ("given", "choice"),
    [
        *(({"type": name}, name) for name in ("auto", "none", "required")),
        ({"type": "any"}, "required"),
        ("any", "required"),
        ({"type": "tool", "name": "weather"}, NAMED),
        ({"type": "function", "name": "weather"}, NAMED),
        ("weather", NAMED),
        ({"type": "function", "function": "weather"}, NAMED),
        (NAMED, NAMED),
    ],
)
def test_a_choice_in_another_apis_form_is_that_choice(given: Any, choice: Any) -> None:
    assert record(tools=[TOOL], tool_choice=given).tool_choice == choice


@pytest.mark.parametrize(
    "given",
    [{"type": "auto", "disable_parallel_tool_use": 1}, "wether", "anything", {"type": "tool"}, {"type": ["auto"]}, 1],
)
def test_a_choice_that_says_more_or_nothing_is_refused(given: Any) -> None:
    with pytest.raises(Refusal, match="tool_choice"):
        record(tools=[TOOL], tool_choice=given)


def test_one_call_at_a_time_may_be_said_within_the_choice() -> None:
    for kind, choice in (("auto", "auto"), ("any", "required"), ("none", "none")):
        read = record(tools=[TOOL], tool_choice={"type": kind, "disable_parallel_tool_use": True})
        assert (read.tool_choice, read.parallel_tool_calls) == (choice, False)
    given = {"type": "tool", "name": "weather", "disable_parallel_tool_use": False}
    assert record(tools=[TOOL], tool_choice=given, parallel_tool_calls=True).tool_choice == NAMED
    with pytest.raises(Refusal, match=r"parallel_tool_calls is false, but tool_choice\.disable_parallel_tool_use"):
        record(tools=[TOOL], tool_choice=given, parallel_tool_calls=False)


OWN: dict[str, Any] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"type": "json_schema", "schema": SCHEMA}, OWN),
        ({"type": "json_schema", "name": "answer", "schema": SCHEMA}, OWN),
        ({"type": "json_object", "json_schema": {"name": "answer", "schema": SCHEMA}}, OWN),
        ({"type": "json", "value": SCHEMA}, OWN),
        ({"type": "json_object", "value": SCHEMA}, OWN),
        ("json_object", {"type": "json_object"}),
        ("text", {"type": "text"}),
    ],
)
def test_a_format_in_another_servers_form_is_that_format(given: Any, read: Any) -> None:
    assert record(response_format=given).response_format == read


@pytest.mark.parametrize(
    "given", [{"type": "grammar", "value": "a+"}, {"type": "json", "value": "{}"}, "yaml", {"a": 1}]
)
def test_a_format_that_is_not_known_is_refused(given: Any) -> None:
    with pytest.raises(Refusal, match="response_format"):
        record(response_format=given)


@pytest.mark.parametrize(
    "keys",
    [
        {"guided_json": {"type": "STRING", "format": "password"}},
        {"guided_json": '{"type": "STRING", "format": "password"}'},
        {"json_schema": {"type": "string", "enum": None}},
        {"structured_outputs": {"json": {"type": "STRING"}}},
        {"unisono": {"constraint": {"json_schema": {"type": "string", "format": "int32"}}}},
        {"unisono": {"constraint": 'json_schema:{"type": "STRING"}'}},
    ],
)
def test_a_schema_is_read_alike_wherever_it_stands(keys: dict[str, Any]) -> None:
    constraint, _ = read_constraint(record(**keys))
    assert constraint is not None
    assert constraint.schema == {"type": "string"}
    kept, _ = read_constraint(record(**keys), strict=True)
    assert kept is not None
    assert kept.schema != {"type": "string"}


def test_what_is_empty_asks_for_no_format_and_no_choice() -> None:
    for empty in ("", {}):
        asked = record(response_format=empty, tool_choice=empty)
        assert (asked.response_format, asked.tool_choice) == (None, None)


def test_a_bias_of_a_text_is_no_bias_of_an_id() -> None:
    assert record(logit_bias={"15": -100}).logit_bias == record(logit_bias=[[15, -100]]).logit_bias == {"15": -100}
    assert record(logit_bias={"15": "-1.5"}).logit_bias == {"15": -1.5}
    for text in ("15", " cat"):
        with pytest.raises(Refusal, match=r"is a text.*give ids.*/v1/pieces"):
            record(logit_bias=[[text, -100]])


def test_strict_takes_openais_forms_alone() -> None:
    for keys in ({"tools": [FUNCTION]}, {"tool_choice": {"type": "auto"}}, {"response_format": "text"}):
        with pytest.raises(Refusal):
            read_record(ChatRequest, {"model": "duo", "messages": SAY, **keys}, OF_CHATS, strict=True)


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_a_choice_among_no_functions_asks_for_nothing(choice: str) -> None:
    assert record(function_call=choice, functions=[], reasoning_effort="default").reasoning_effort is None
    assert record(function_call=choice, functions=[FUNCTION]).tools == [TOOL]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "thinking", "thinking": "So.", "signature": "abc"},
        {"type": "thinking", "thinking": [{"type": "text", "text": "So."}]},
        {"type": "reasoning", "reasoning": "So."},
        {"type": "reasoning", "text": "So."},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "So."}]},
    ],
)
def test_thoughts_among_the_parts_of_a_past_answer_are_its_reasoning(part: dict[str, Any]) -> None:
    answer = {"role": "assistant", "content": [part, {"type": "text", "text": "Yes."}]}
    [_, read, _] = read_messages([*SAY, answer, *SAY])
    assert read == {"role": "assistant", "content": "Yes.", "extra": {"reasoning_content": "So."}}
    with pytest.raises(Refusal, match="content"):
        read_messages([{**answer, "role": "user"}])
    with pytest.raises(Refusal, match="content"):
        read_messages([*SAY, answer, *SAY], strict=True)


def test_thoughts_that_nobody_can_read_are_left_out() -> None:
    hidden = {
        "role": "assistant",
        "content": [{"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "Yes."}],
    }
    assert read_messages([*SAY, hidden, *SAY])[1] == {"role": "assistant", "content": "Yes."}
    only = {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}]}
    assert read_messages([*SAY, only, *SAY])[1] == {"role": "assistant", "content": ""}


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/v1//chat/completions", "/v1/chat/completions"),
        ("//v1/chat//completions/", "/v1/chat/completions/"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/completions", "/v1/completions"),
        ("/models", "/v1/models"),
        ("/v1/v1/models/duo/b", "/v1/models/duo/b"),
        ("/v1//models//duo", "/v1/models/duo"),
        ("//metrics", "//metrics"),
        ("/v1/v1/embeddings", "/v1/v1/embeddings"),
        ("/v2/models", "/v2/models"),
        ("/modelsx", "/modelsx"),
        ("/openai/v1/chat/completions", "/v1/chat/completions"),
        ("/api/v1/models", "/v1/models"),
        ("/models/chat/completions", "/v1/chat/completions"),
        ("/models/chat", "/v1/models/chat"),
        ("/api/chat", "/api/chat"),
        ("/api/generate/", "/api/generate/"),
        ("/openai/deployments/duo/embeddings", "/openai/deployments/duo/embeddings"),
        ("/deploymentsx/duo/completions", "/deploymentsx/duo/completions"),
        ("/openai/deployments//chat/completions", "/v1/chat/completions"),
        ("/openai/deployments//completions/", "/v1/completions/"),
    ],
)
def test_a_path_that_is_joined_wrongly_is_that_path(given: str, path: str) -> None:
    assert usual_path(given) == (path, None)


@pytest.mark.parametrize(
    ("given", "path", "model"),
    [
        ("/openai/deployments/duo/chat/completions", "/v1/chat/completions", "duo"),
        ("/openai/v1/openai//deployments//duo//completions/", "/v1/completions/", "duo"),
        ("/openai/deployments/duo/b/chat/completions", "/v1/chat/completions", "duo/b"),
        ("/deployments/my.model-1/completions", "/v1/completions", "my.model-1"),
        ("/openai/deployments//chat//chat/completions", "/v1/chat/completions", "chat"),
        ("/openai/deployments/chat/completions", "/v1/completions", "chat"),
    ],
)
def test_a_path_may_name_the_model_as_azures_does(given: str, path: str, model: str) -> None:
    assert usual_path(given) == (path, model)


def test_a_path_of_slashes_is_read_at_once() -> None:
    with at_once(1):
        for path in ("/openai/deployments" + "/" * 16_000, "/openai/deployments/" + "a/" * 8_000, "/v1/" * 4_000):
            assert usual_path(path) == (path, None)


def test_a_base_url_may_end_anyhow(served: Served) -> None:
    body = {"model": "duo", "messages": SAY, "max_tokens": 3}
    answers = {
        served.post(f"{base}/chat/completions", body).json()["choices"][0]["message"]["content"]
        for base in ("/v1", "/v1/", "/v1/v1", "")
    }
    assert len(answers) == 1
    assert served.get("/models").json()["data"][0]["id"] == "duo"
    missing = served.post("/v1/embeddings", body)
    assert missing.status_code == 404
    assert "by /v1/chat/completions and /v1/completions" in missing.json()["error"]["message"]


def test_azures_client_asks_the_model_that_its_path_names(served: Served) -> None:
    with openai.AzureOpenAI(
        azure_endpoint=served.url, azure_deployment="duo/a", api_version="2024-10-21", api_key="none", max_retries=0
    ) as client:
        for model in ("duo/a", "gpt-4o"):
            answer = client.chat.completions.create(model=model, messages=SAY, max_tokens=3)  # type: ignore[call-overload]
            assert answer.model == "duo/a"
        with pytest.raises(openai.BadRequestError, match="model is 'duo', but the path's deployment is 'duo/a'"):
            client.chat.completions.create(model="duo", messages=SAY)  # type: ignore[call-overload]
        with pytest.raises(openai.NotFoundError, match="/v1/chat/completions and /v1/completions, and do nothing else"):
            client.embeddings.create(model="duo", input="x")
    path = "/openai/deployments/{}/completions?api-version=2024-10-21"
    assert served.post(path.format("duo"), {"prompt": "the cat", "max_tokens": 2}).json()["model"] == "duo"
    assert "did you mean 'duo'" in served.post(path.format("duoo"), {"prompt": "the cat"}).json()["error"]["message"]
    refused = served.post(path.format("duo"), {"model": 5, "prompt": "the cat"}).json()["error"]
    assert (refused["param"], "model is 5" in refused["message"]) == ("model", True), refused


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/duo", "/health", "/ready", "/metrics", "/openapi.json"])
def test_what_can_be_got_has_a_head(served: Served, path: str) -> None:
    answer = httpx2.head(served.url + path, timeout=60)
    assert answer.status_code == 200
    assert answer.content == b""


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ({"content-encoding": "gzip"}, "content-encoding is 'gzip'"),
        ({"content-encoding": "br"}, "content-encoding is 'br'"),
        ({"content-type": "application/json; charset=iso-8859-1"}, "charset is 'iso-8859-1'"),
        ({"content-type": 'application/json;charset="UTF-16"'}, "charset is 'UTF-16'"),
    ],
)
def test_a_body_that_is_packed_or_in_another_encoding_is_refused_by_name(
    served: Served, headers: dict[str, str], named: str
) -> None:
    body = json.dumps({"model": "duo", "messages": SAY, "max_tokens": 1}).encode()
    sent = gzip.compress(body) if "content-encoding" in headers else body
    answer = httpx2.post(served.url + "/v1/chat/completions", content=sent, headers={**HEADERS, **headers}, timeout=60)
    assert answer.status_code == 415
    assert named in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "headers", [{"content-encoding": "identity"}, {"content-type": "application/json; charset=UTF-8"}]
)
def test_a_body_that_says_that_it_is_plain_is_read(served: Served, headers: dict[str, str]) -> None:
    body = json.dumps({"model": "duo", "messages": SAY, "max_tokens": 1}).encode()
    answer = httpx2.post(served.url + "/v1/chat/completions", content=body, headers={**HEADERS, **headers}, timeout=60)
    assert answer.status_code == 200


def test_tools_of_another_api_are_called(served: Served) -> None:
    body = {
        "model": "calls",
        "messages": SAY,
        "max_tokens": 90,
        "tools": [
            {"name": "weather", "input_schema": {"type": "object", "properties": {}, "additionalProperties": False}}
        ],
        "tool_choice": {"type": "tool", "name": "weather"},
    }
    answer = served.post("/v1/chat/completions", body).json()
    [call] = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": "{}"}
