"""Every field of OpenAI's requests is honoured, without effect or refused; what is wrong is told in OpenAI's form."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai.types.chat import (
    ChatCompletionAssistantMessageParam,
    ChatCompletionContentPartTextParam,
    ChatCompletionDeveloperMessageParam,
    ChatCompletionFunctionMessageParam,
    ChatCompletionMessageFunctionToolCallParam,
    ChatCompletionStreamOptionsParam,
    ChatCompletionSystemMessageParam,
    ChatCompletionToolMessageParam,
    ChatCompletionUserMessageParam,
)
from openai.types.chat.chat_completion_message_function_tool_call_param import Function
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsStreaming as CompletionParams
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming as ResponseParams
from openai.types.shared_params import FunctionDefinition
from openai.types.shared_params.response_format_json_schema import JSONSchema

from support.fakes import make_fakes
from support.real_server import SAY, A, B, Served, serving
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.server.body import parse, read_record
from unisono.server.errors import Refusal
from unisono.server.field_tables import OF_CHATS, OF_COMPLETIONS, OF_MESSAGES, OF_RESPONSES, OF_TOKENS
from unisono.server.fields import NAMES_OF_ONE, Field
from unisono.server.limits import ServerLimits
from unisono.server.messages import CALL_KEYS, FUNCTION_KEYS, KEYS, TEXT_KEYS
from unisono.server.plain_fields import FORMAT_KEYS, TOOL_KEYS
from unisono.server.responses_api.schemas import ResponseRequest
from unisono.server.schemas import ChatRequest, CompletionRequest, Record, StreamOptions, UnisonoOptions
from unisono.server.token_schemas import DetokenizeRequest, TokenizeRequest

CHAT: dict[str, Any] = {"model": "duo", "messages": SAY, "max_tokens": 2}
COMPLETION: dict[str, Any] = {"model": "duo", "prompt": "the cat", "max_tokens": 2}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    make_fakes()
    drawn = {"members": [A, B], "sampling": "0.7 top_p:0.9 seed:3"}
    base = {"members": [A, {"name": "c", "model": "fake:c", "prefix": "x"}]}
    with serving({"duo": {"members": [A, B]}, "drawn": drawn, "odd": base}) as server:
        yield server
    FAKE_MODELS.clear()


@pytest.fixture(scope="module")
def strict(served: Served) -> Iterator[Served]:
    with serving(limits=ServerLimits(strict=True)) as server:
        yield server


def keys_of(params: Any) -> set[str]:
    return {
        key
        for kind in (params, *params.__mro__, *params.__orig_bases__)
        for key in getattr(kind, "__annotations__", {})
    }


def test_all_of_openais_fields_are_honoured_or_without_effect_or_refused() -> None:
    for params, record, table in (
        (ChatParams, ChatRequest, OF_CHATS),
        (CompletionParams, CompletionRequest, OF_COMPLETIONS),
        (ResponseParams, ResponseRequest, OF_RESPONSES),
    ):
        honoured, names = set(record.model_fields), {name for names in NAMES_OF_ONE for name in names}
        assert honoured & set(table) == set()
        assert keys_of(params) <= honoured | names | set(table)
    assert set(StreamOptions.model_fields) == keys_of(ChatCompletionStreamOptionsParam) | {"continuous_usage_stats"}
    for message in (
        ChatCompletionDeveloperMessageParam,
        ChatCompletionFunctionMessageParam,
        ChatCompletionSystemMessageParam,
        ChatCompletionUserMessageParam,
        ChatCompletionAssistantMessageParam,
        ChatCompletionToolMessageParam,
    ):
        assert keys_of(message) - {"role", *KEYS, "prompt_cache_breakpoint"} <= set(OF_MESSAGES)
    for part, known in (
        (FunctionDefinition, TOOL_KEYS),
        (JSONSchema, FORMAT_KEYS),
        (ChatCompletionMessageFunctionToolCallParam, CALL_KEYS),
        (Function, FUNCTION_KEYS),
        (ChatCompletionContentPartTextParam, (*TEXT_KEYS, "prompt_cache_breakpoint")),
    ):
        assert keys_of(part) <= set(known)


HARMLESS = {
    "chat": "metadata prediction prompt_cache_key prompt_cache_options prompt_cache_retention service_tier store "
    "verbosity",
    "completion": "",
    "refused in a chat": "audio modalities moderation web_search_options",
    "refused in a completion": "suffix",
    "response": "max_tool_calls prompt_cache_key prompt_cache_options prompt_cache_retention service_tier truncation",
    "refused in a response": "access_programs background background_options context_management conversation image "
    "moderation prompt",
}


def test_which_of_openais_fields_have_no_effect_is_written_down() -> None:
    for what, params, table in (
        ("chat", ChatParams, OF_CHATS),
        ("completion", CompletionParams, OF_COMPLETIONS),
        ("response", ResponseParams, OF_RESPONSES),
    ):
        theirs = keys_of(params) & set(table)
        assert {name for name in theirs if not table[name].matters} == set(HARMLESS[what].split())
        assert {name for name in theirs if table[name].matters} == set(HARMLESS[f"refused in a {what}"].split())


def test_the_page_on_serving_names_every_field_and_every_metric(served: Served) -> None:
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    records = {*ChatRequest.model_fields, *CompletionRequest.model_fields, *UnisonoOptions.model_fields}
    aliases = {name for names in NAMES_OF_ONE for name in names}
    theirs = {*keys_of(ChatParams), *keys_of(CompletionParams), *keys_of(ResponseParams)}
    records |= {*ResponseRequest.model_fields, *TokenizeRequest.model_fields, *DetokenizeRequest.model_fields}
    for name in {*theirs, *records, *aliases, *OF_CHATS, *OF_COMPLETIONS, *OF_RESPONSES, *OF_TOKENS}:
        assert f"`{name}`" in page or f"`{name}: " in page, name
    for name in set(re.findall(r"^# TYPE (unisono_\w+)", served.get("/metrics").text, re.MULTILINE)):
        assert name.removesuffix("_created") in page, name


def refused_with(response: httpx2.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = body["error"]
    return error


RESPONSE: dict[str, Any] = {"model": "duo", "input": "the cat", "max_output_tokens": 2}
ENDPOINTS: dict[str, tuple[type[Record], dict[str, Any], dict[str, Field]]] = {
    "/v1/chat/completions": (ChatRequest, CHAT, OF_CHATS),
    "/v1/completions": (CompletionRequest, COMPLETION, OF_COMPLETIONS),
    "/v1/responses": (ResponseRequest, RESPONSE, OF_RESPONSES),
}
EMPTY: list[Any] = ["", [], {}, [None], {"a": False, "b": {}}]


def asking(path: str) -> Iterator[tuple[str, Field, dict[str, Any]]]:
    """The fields of an endpoint that are not honoured, and requests with a value of each that asks for something."""
    _, given, table = ENDPOINTS[path]
    for name, field in table.items():
        yield name, field, {**given, **dict.fromkeys(field.only_with[:1], 1.5), name: "whatever"}


@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_field_has_no_effect_or_is_refused_by_name(path: str) -> None:
    record, given, table = ENDPOINTS[path]
    plain = read_record(record, given, table)
    for name, field, body in asking(path):
        if field.matters and not field.of_sampling:
            with pytest.raises(Refusal) as refused:
                read_record(record, body, table)
            assert (refused.value.param, refused.value.code) == (name, "unsupported")
            assert field.why in refused.value.message
        elif not field.only_with:
            assert read_record(record, body, table) == plain, name


@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_value_that_turns_a_field_off_has_no_effect(path: str) -> None:
    record, given, table = ENDPOINTS[path]
    plain = read_record(record, given, table)
    for name, field in table.items():
        off = [*field.values, *(() if field.empty_asks else EMPTY)]
        off += [] if field.at_most is None else [field.at_most, field.at_most - 0.5, -1, -1e9]
        for value in off:
            assert read_record(record, {**given, name: value}, table) == plain, (name, value)
        if field.matters and not field.of_sampling and not field.only_with:
            asks = 10**9 if field.at_most is not None else {} if field.empty_asks else "whatever"
            assert field.asks(asks), name


@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_strict_server_refuses_what_has_no_effect_but_what_asks_for_nothing(path: str) -> None:
    record, given, table = ENDPOINTS[path]
    for name, field, body in asking(path):
        with pytest.raises(Refusal) as refused:
            read_record(record, body, table, strict=True)
        assert (refused.value.param, refused.value.code) == (name, "unsupported")
        for value in field.values:
            read_record(record, {**given, name: value}, table, strict=True)


def texts_of(response: httpx2.Response) -> Any:
    """What an answer says, without its ids."""
    body = response.json()
    return body["choices"] if "choices" in body else [item["content"] for item in body["output"]]


@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_server_reads_all_fields_that_have_no_effect_and_names_one_that_is_refused(served: Served, path: str) -> None:
    _, given, table = ENDPOINTS[path]
    harmless = {name: "whatever" for name, field in table.items() if not field.matters}
    off = {name: field.values[-1] for name, field in table.items() if field.matters}
    assert texts_of(served.post(path, {**given, **harmless, **off})) == texts_of(served.post(path, given))
    error = refused_with(served.post(path, {**given, "stop_regex": "a+"}))
    assert (error["param"], error["code"]) == ("stop_regex", "unsupported")
    error = refused_with(served.post(path, {**given, "repeat_last_n": 64, "repetition_penalty": 1.5}))
    assert (error["param"], error["code"]) == ("repeat_last_n", "unsupported")


def test_null_stands_for_leaving_an_optional_field_out(served: Served) -> None:
    for path, record, given in (
        ("/v1/chat/completions", ChatRequest, CHAT),
        ("/v1/completions", CompletionRequest, COMPLETION),
    ):
        nulls = {name: None for name, field in record.model_fields.items() if not field.is_required()}
        assert served.post(path, {**nulls, **given}).status_code == 200


def form(schema: object, **more: object) -> dict[str, Any]:
    """A ``response_format`` of a schema."""
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, **more}}


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"temprature": 1}, "temprature", "did you mean 'temperature'"),
    ({"temperature": "hot"}, "temperature", "a number"),
    ({"temperature": True}, "temperature", "a number"),
    ({"temperature": -1}, "temperature", "0 or more"),
    ({"temperature": -0.001}, "temperature", "temperature is -0.001"),
    ({"top_p": 1.5}, "top_p", "1 or less"),
    ({"presence_penalty": 3}, "presence_penalty", "2 or less"),
    ({"frequency_penalty": -2.5}, "frequency_penalty", "-2 or more"),
    ({"n": 0}, "n", "1 or more"),
    ({"n": 17}, "n", "16 texts at most"),
    ({"n": 5}, "n", "slots for 4"),
    ({"max_tokens": 0}, "max_tokens", "1 or more"),
    ({"max_tokens": 2.5}, "max_tokens", "a whole number"),
    ({"max_completion_tokens": 3}, "max_tokens", "leave one out"),
    ({"stop": ["x"] * 65}, "stop", "64 entries or fewer"),
    ({"stop": [1]}, "stop[0]", "it must be text"),
    ({"stop": "\ud800"}, "stop", "Unicode"),
    ({"seed": 2**64}, "seed", "less than"),
    ({"seed": 1.5}, "seed", "a whole number"),
    ({"logit_bias": {"x": 1}}, "logit_bias", "columns of the union"),
    ({"logit_bias": {"999999": 1}}, "logit_bias", "numbers from 0 to"),
    ({"logit_bias": {"7": 101}}, "logit_bias.7", "100 or less"),
    ({"model": "duo/a", "logit_bias": {"0": 1}}, "logit_bias", "never written"),
    ({"top_logprobs": 3}, "top_logprobs", "logprobs is not true"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "20 or less"),
    ({"logprobs": 3}, "logprobs", "true or false"),
    ({"stream": True, "stream_options": {"x": True}}, "stream_options.x", "unknown field"),
    ({"stream": "yes"}, "stream", "true or false"),
    ({"messages": []}, "messages", "not be empty"),
    ({"messages": "hello"}, "messages", "a list"),
    ({"messages": ["hello"]}, "messages[0]", "not an object"),
    ({"messages": [{"role": "usr", "content": "x"}]}, "messages[0].role", "did you mean 'user'"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "missing"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "it must be text"),
    (
        {"messages": [*SAY, {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages[1].content[0].type",
        "messages are text",
    ),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text", "missing"),
    ({"messages": [{"role": "user", "content": [3]}]}, "messages[0].content[0]", "an object"),
    ({"messages": [{"role": "user", "content": ""}]}, "messages", "empty"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages", "surrogate"),
    ({"messages": [{"role": "user", "content": "x" * 6000}]}, "messages", "context of 4096"),
    ({"model": 3}, "model", "it must be text"),
    ({"response_format": {"type": "yaml"}}, "response_format.type", "json_object"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.name", "missing"),
    ({"response_format": {"type": "json_object", "x": 1}}, "response_format.x", "unknown field"),
    ({"response_format": form({"type": "wish"})}, "response_format", "wish"),
    (
        {"response_format": {"type": "json_object"}, "unisono": {"constraint": "regex:a"}},
        "response_format",
        "leave one",
    ),
    ({"unisono": {"constraint": "regex:("}}, "unisono.constraint", "regex"),
    ({"unisono": {"constraint": "yaml"}}, "unisono.constraint", "known"),
    ({"unisono": {"gate": "confidence:2"}}, "unisono.gate", "confidence"),
    ({"unisono": {"gat": "x"}}, "unisono.gat", "unknown field"),
    ({"unisono": {"combine": "mode"}}, "unisono.combine", "mode"),
    ({"unisono": {"lead": "nobody"}}, "unisono.lead", "nobody"),
    ({"unisono": {"weights": {"a": 1.0}}}, "unisono.weights", "is missing"),
    ({"unisono": {"weights": {"a": 1.0, "b": -1.0}}}, "unisono.weights", "above 0"),
    ({"unisono": {"draw": "0.7 top_q:1"}}, "unisono.draw", "top_q"),
    ({"unisono": {"draw": "one-member"}, "temperature": 0}, "temperature", "one-member"),
    ({"unisono": {"sampling": "0.8"}, "do_sample": False}, "do_sample", "unisono.sampling is '0.8'"),
    ({"unisono": {"sampling": "greedy beam_width:2"}, "early_stopping": True}, "early_stopping", "beam_width"),
    ({"unisono": {"sampling": "greedy beam_width:2"}, "length_penalty": 0.6}, "length_penalty", "beam_width"),
    ({"stream": True, "incremental_output": False}, "incremental_output", "what is new"),
    ({"truncation_length": 2}, "truncation_length", "shorten it"),
    ({"truncate_prompt_tokens": 2}, "truncate_prompt_tokens", "shorten it"),
    ({"prompt": "x"}, "prompt", "/v1/completions"),
    ({"prompt": "", "messages": None}, "prompt", "/v1/completions"),
    ({"unisono": {"combine": "geometric", "draw": "one-member"}}, "unisono", "one-member"),
    ({"unisono": {"trace": "yes"}}, "unisono.trace", "true or false"),
    ({"unisono": {"chunk_seconds": 1.1}}, "unisono.chunk_seconds", "1"),
    ({"unisono": {"chunk_seconds": -1}}, "unisono.chunk_seconds", "0"),
    ({"model": "duo/a", "unisono": {"gate": "confidence:0.5"}}, "unisono.gate", "votes alone"),
    ({"n": 2, "unisono": {"draw": "beam_width:2"}}, "n", "beam"),
    ({"unisono": {"draw": "beam_width:9"}}, "unisono.draw", "beam_width is 9"),
    ({"unisono": {"sampling": "beam_width:9"}}, "unisono.sampling", "beam_width is 9"),
    ({"unisono": {"sampling": "mixture", "combine": "max"}}, "unisono", "mixture draws"),
    ({"unisono": {"sampling": 1, "draw": 1}}, "unisono", "sampling and draw, its old name, are both given"),
]


@pytest.mark.parametrize(("change", "param", "words"), WRONG)
def test_whatever_is_wrong_is_named(served: Served, change: dict[str, Any], param: str, words: str) -> None:
    error = refused_with(served.post("/v1/chat/completions", {**CHAT, **change}))
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param


def tools_of(function: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": function, **more}]}


WRONG_WHERE_STRICT: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]", "an object"),
    ({"messages": [*SAY, {"role": "assistant", "content": ""}]}, "messages", "empty"),
    ({"messages": [{"role": "system", "content": None}, *SAY]}, "messages[0].content", "it must be text"),
    ({"max_tokens": 5.0}, "max_tokens", "a whole number"),
    ({"user": 3}, "user", "it must be text"),
    ({"logit_bias": []}, "logit_bias", "an object"),
    ({"reasoning_effort": ""}, "reasoning_effort", "'low'"),
    ({"response_format": form({}, description=None)}, "response_format.json_schema.description", "it must be text"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
        "response_format.json_schema.name",
        "",
    ),
    ({"timeout": 3}, "timeout", "client"),
    ({"max_tokens": 10**6}, "max_tokens", "4096 at most"),
    ({"max_tokens": None, "max_completion_tokens": 10**6}, "max_completion_tokens", "4096 at most"),
    ({"stop": ""}, "stop", "not be empty"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "stream is not true"),
    ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation", "padded"),
    ({"messages": [{"role": "user", "content": "x", "nme": "y"}]}, "messages[0].nme", "unknown field"),
    ({"messages": [{"role": "user", "content": "x", "name": "y"}]}, "messages", "name"),
    ({"response_format": form({}, description="x")}, "response_format.json_schema.description", "into a message"),
    ({"max_tokens": -1}, "max_tokens", "1 or more"),
    ({"messages": [{"role": "user", "content": "x", "tool_call_id": "y"}]}, "messages[0].tool_call_id", "no place"),
    ({"messages": [*SAY, {"role": "assistant", "content": "x", "annotations": []}]}, "messages[1].annotations", ""),
    ({"messages": [{"role": "assistant", "content": None}]}, "messages[0].content", "missing"),
    (tools_of({"name": "x", "cache_control": {}}), "tools[0].function.cache_control", "no place there"),
    (tools_of({"name": "x"}, cache_control={}), "tools[0].cache_control", "no place there"),
    (tools_of({"name": "a.b"}), "tools[0].function.name", "up to 64 letters"),
    ({"messages": [*SAY, {"role": "assistant", "content": None, "refusal": "x"}]}, "messages[1].refusal", "write it"),
    ({"tool_choice": "auto"}, "tool_choice", "no tools"),
    ({"prompt": ""}, "prompt", "/v1/completions"),
]


@pytest.mark.parametrize(("change", "param", "words"), WRONG_WHERE_STRICT)
def test_a_strict_server_refuses_what_changes_nothing(
    strict: Served, change: dict[str, Any], param: str, words: str
) -> None:
    error = refused_with(strict.post("/v1/chat/completions", {**CHAT, **change}))
    assert words in error["message"]
    assert "did you mean" not in error["message"] or "nme" in error["message"]
    assert error["param"] == param


def test_a_strict_server_reads_responses_strictly(served: Served, strict: Served) -> None:
    def format_of(schema: object) -> dict[str, Any]:
        return {"text": {"format": {"type": "json_schema", "name": "it", "schema": schema}}}

    assert strict.post("/v1/responses", {**RESPONSE, **format_of({"type": "string"})}).status_code == 200
    function = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    for change, param in (
        (format_of({"type": "STRING"}), "text.format"),
        (format_of({"type": "string", "format": "password"}), "text.format"),
        ({"tools": [{**function, "cache_control": {}}]}, "tools[0].cache_control"),
        ({"tools": [function], "tool_choice": {"type": "auto"}}, "tool_choice.type"),
    ):
        error = refused_with(strict.post("/v1/responses", {**RESPONSE, **change}))
        assert error["param"] == param, error
    assert served.post("/v1/responses", {**RESPONSE, **format_of({"type": "STRING"})}).status_code == 200


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": [[1], [2]]}, "prompt"),
        ({"model": "duo/a", "prompt": [1, 10**6]}, "prompt"),
        ({"model": "duo/a", "prompt": [1, -1]}, "prompt"),
        ({"model": "duo/a", "prompt": [1, "a"]}, "prompt[1]"),
        ({"model": "duo/a", "prompt": [1.0, 2.5]}, "prompt[1]"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"echo": True, "logprobs": 1, "stream": True}, "echo"),
        ({"echo": True, "max_tokens": 0, "n": 2}, "n"),
        ({"model": "duo/a", "prompt": [5, 0], "echo": True, "max_tokens": 0}, "prompt"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"prompt_logprobs": 1, "echo": True, "stream": True}, "prompt_logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"prompt_logprobs": True}, "prompt_logprobs"),
        ({"prompt_logprobs": 0, "max_tokens": 0, "n": 2}, "n"),
        ({"prompt": ["a"] * 17}, "n"),
        ({"model": "odd", "messages": SAY}, "messages"),
        ({"best_of": 3}, "best_of"),
    ],
)
def test_whatever_is_wrong_with_a_completion_is_named(served: Served, change: dict[str, Any], param: str) -> None:
    assert refused_with(served.post("/v1/completions", {**COMPLETION, **change}))["param"] == param


def test_a_missing_field_is_named(served: Served) -> None:
    for field in ("model", "messages"):
        body = {name: value for name, value in CHAT.items() if name != field}
        error = refused_with(served.post("/v1/chat/completions", body))
        assert (error["param"], error["code"]) == (field, "missing_field")


def test_an_unknown_model_is_404_with_the_nearest_name(served: Served) -> None:
    error = refused_with(served.post("/v1/chat/completions", {**CHAT, "model": "dou"}), 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert "did you mean 'duo'" in error["message"]
    with pytest.raises(openai.NotFoundError):
        served.client().models.retrieve("dou")
    refused_with(served.get("/v1/nothing"), 404)
    assert "takes POST, not GET: send" in refused_with(served.get("/v1/completions"), 405)["message"]
    assert "takes GET, not POST" in refused_with(served.post("/v1/models", {}), 405)["message"]
    assert "its usage counts" in refused_with(served.post("/v1/responses/input_tokens", {}), 405)["message"]
    assert "use /v1/chat/completions" in refused_with(served.post("/v1/messages", {}), 404)["message"]
    assert served.metric("unisono_requests_total") > 0
    assert "dou" not in served.get("/metrics").text.replace("double", "")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "at character 0"),
        (b"{", "at character 1"),
        (b"[1]", "not an object"),
        (b'"x"', "not an object"),
        (b"\xff", "not UTF-8"),
        (b'{"model": NaN}', "NaN is no number"),
        (b'{"model": -Infinity}', "no number"),
        (b'{"model": "a", "model": "b"}', "stands twice"),
        (b'{"n": {"a": 1, "a": 2}}', "stands twice"),
        (b'{"n": %s}' % (b"9" * 5000), "too long"),
        (b'{"n": %s' % (b"[" * 200_000), "nested too deeply"),
    ],
)
def test_what_is_no_json_object_is_refused(served: Served, body: bytes, words: str) -> None:
    response = httpx2.post(
        served.url + "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
    )
    assert words in refused_with(response)["message"]
    with pytest.raises(Refusal):
        parse(body)


def test_what_does_not_say_that_it_is_json_is_refused(served: Served) -> None:
    for headers in ({}, {"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"}):
        response = httpx2.post(served.url + "/v1/chat/completions", content=b"{}", headers=headers)
        refused_with(response, 415)


def test_the_files_draw_stands_where_nothing_is_given_and_gives_way_by_the_key(served: Served) -> None:
    ask = served.client().chat.completions.create
    keys: dict[str, Any] = {"model": "drawn", "messages": SAY, "max_tokens": 12}
    seeds = [ask(**keys).unisono["choices"][0]["seed"] for _ in range(2)]
    assert seeds == [3, 3]
    texts = [ask(**keys, **more).choices[0].message.content for more in ({}, {"temperature": 0.7}, {"seed": 4})]
    assert texts[0] == texts[1] != texts[2]
    assert "seed" in ask(**keys).unisono["choices"][0]
    greedy = ask(**keys, temperature=0)
    assert "seed" not in greedy.unisono["choices"][0]
    assert greedy.choices[0].message.content == ask(**{**keys, "model": "duo"}).choices[0].message.content


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_who_asks_for_the_head_of_a_state_gets_its_status(served: Served, path: str) -> None:
    shown = httpx2.head(served.url + path)
    whole = served.get(path)
    assert (shown.status_code, shown.content) == (whole.status_code, b"")
    assert shown.headers["content-length"] == whole.headers["content-length"]
    assert set(served.get("/openapi.json").json()["paths"][path]) == {"get", "head"}


def test_the_openapi_document_has_every_route_and_every_reference(served: Served) -> None:
    document = served.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/responses/{response}",
        "/v1/responses/{response}/input_items",
        "/v1/pieces",
        "/tokenize",
        "/detokenize",
        "/v1/models",
        "/v1/models/{model}",
        "/health",
        "/ready",
        "/metrics",
        "/openapi.json",
    }
    references: list[str] = []

    def look(node: Any) -> None:
        if isinstance(node, dict):
            references.extend([node["$ref"]] if isinstance(node.get("$ref"), str) else [])
            for value in node.values():
                look(value)
        elif isinstance(node, list):
            for value in node:
                look(value)

    look(document)
    schemas = document["components"]["schemas"]
    assert {reference.removeprefix("#/components/schemas/") for reference in references} <= set(schemas)
    assert schemas["ChatRequest"]["additionalProperties"] is False
    assert schemas["ChatRequest"]["properties"]["model"]["enum"] == list(served.service.models)
    names = {name for names in NAMES_OF_ONE for name in names}
    assert set(schemas["ChatRequest"]["properties"]) == {*ChatRequest.model_fields, *OF_CHATS, *names}
    assert set(schemas["CompletionRequest"]["properties"]) == {*CompletionRequest.model_fields, *OF_COMPLETIONS, *names}


def test_an_answer_is_bound_to_what_its_format_says(served: Served) -> None:
    schema = {
        "type": "object",
        "properties": {"cat": {"type": "boolean"}, "mood": {"enum": ["sings", "sees"]}},
        "required": ["cat", "mood"],
        "additionalProperties": False,
    }
    ask = served.client().chat.completions.create
    for stream in (False, True):
        keys: dict[str, Any] = {"model": "duo", "messages": SAY, "max_tokens": 100, "stream": stream}
        found = ask(**keys, response_format=form(schema, strict=True))
        text = (
            found.choices[0].message.content if not stream else "".join(c.choices[0].delta.content or "" for c in found)
        )
        answer = json.loads(text)
        assert set(answer) == {"cat", "mood"}
        assert answer["mood"] in ("sings", "sees")
    bound = ask(model="duo/b", messages=SAY, extra_body={"unisono": {"constraint": "regex:(so )+it"}}, max_tokens=40)
    assert bound.choices[0].message.content.endswith("so it")
    free = ask(model="duo", messages=SAY, max_tokens=5, response_format={"type": "text"})
    assert free.choices[0].message.content == ask(model="duo", messages=SAY, max_tokens=5).choices[0].message.content
    opened = ask(model="duo", messages=SAY, max_tokens=5, response_format={"type": "json_object"})
    assert opened.choices[0].message.content.lstrip().startswith("{")


@pytest.mark.parametrize(
    ("path", "change", "param"),
    [("/v1/completions", {"prompt": {}}, "prompt"), ("/v1/completions", {"prompt": "a", "stop": {}}, "stop")],
)
def test_a_value_of_another_type_is_blamed_on_its_field(
    served: Served, path: str, change: dict[str, Any], param: str
) -> None:
    response = served.post(path, {"model": "duo", **change})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_a_byte_order_mark_before_the_body_is_passed_over_unless_strict(served: Served, strict: Served) -> None:
    body = b"\xef\xbb\xbf" + json.dumps(COMPLETION).encode()
    given: Any = {"content": body, "headers": {"content-type": "application/json"}}
    assert httpx2.post(f"{served.url}/v1/completions", **given).status_code == 200
    refused = httpx2.post(f"{strict.url}/v1/completions", **given)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "invalid_json"
