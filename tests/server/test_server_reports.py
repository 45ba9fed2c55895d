"""What people met at other servers, by kind: in what forms clients write a thing, and what is done with it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from support.fakes import make_fakes
from support.real_server import SAY, A, B, Served, ask, serving, text
from support.tool_templates import TAGGED
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.server.json_size import DEEPEST
from unisono.server.limits import ServerLimits
from unisono.server.plain_fields import plain_fields

LISTS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
PING: dict[str, Any] = {"type": "function", "function": {"name": "ping"}}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    make_fakes()
    calls = {"members": [{**each, "chat_template": TAGGED} for each in (A, B)]}
    drawn = {"members": [A, B], "sampling": "0.7 seed:3"}
    with serving(
        {"duo": {"members": [A, B]}, "calls": calls, "drawn": drawn}, limits=ServerLimits(output=90)
    ) as server:
        yield server
    FAKE_MODELS.clear()


def complete(served: Served, status: int = 200, **keys: Any) -> Any:
    response = served.post("/v1/completions", {"model": "duo", "prompt": "the cat", "max_tokens": 12, **keys})
    assert response.status_code == status, response.text
    return response.json()


def respond(served: Served, status: int = 200, **keys: Any) -> Any:
    response = served.post("/v1/responses", {"model": "duo", "input": "the cat", "max_output_tokens": 6, **keys})
    assert response.status_code == status, response.text
    return response.json()


def streamed(served: Served, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    events = served.post(path, {**body, "stream": True}).text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]


SCHEMA = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ({"response_format": {}}, {}),
        ({"response_format": {"type": None, "json_schema": None}}, {}),
        ({"response_format": {"type": "text", "strict": False}}, {"response_format": {"type": "text"}}),
        (
            {"response_format": {"type": "json_object", "strict": True, "name": "x", "description": "y"}},
            {"response_format": {"type": "json_object"}},
        ),
        ({"response_format": {"type": "regex", "value": "a+"}}, {"response_format": {"type": "regex", "regex": "a+"}}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": json.dumps(SCHEMA)}}},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
        ),
        ({"response_format": {"type": "json"}}, {"response_format": {"type": "json_object"}}),
        ({"response_format": "json"}, {"response_format": {"type": "json_object"}}),
        (
            {"max_tokens": "256", "temperature": "0.7", "top_k": "-1", "stream": "false", "stop": "5", "user": "7"},
            {"max_tokens": 256, "temperature": 0.7, "top_k": -1, "stream": False, "stop": "5", "user": "7"},
        ),
        ({"temperature": "hot", "n": "1e3", "stream": "yes"}, {"temperature": "hot", "n": "1e3", "stream": "yes"}),
        ({"thinking": True}, {"thinking": {"type": "enabled"}}),
        ({"thinking": False}, {"thinking": {"type": "disabled"}}),
        ({"regex": "", "guided_regex": "", "json_schema": "", "guided_json": "", "previous_response_id": ""}, {}),
        ({"tool_choice": ""}, {}),
        ({"tool_choice": {"name": "ping"}}, {"tool_choice": {"type": "function", "function": {"name": "ping"}}}),
        (
            {"tool_choice": {"function": {"name": "ping"}}},
            {"tool_choice": {"type": "function", "function": {"name": "ping"}}},
        ),
        ({"logit_bias": [[5, -1.5], [6, False], [7, 2]]}, {"logit_bias": {"5": -1.5, "6": -100.0, "7": 2}}),
        ({"logit_bias": {"5": False}}, {"logit_bias": {"5": -100.0}}),
        (
            {"metadata": {"a": 1, "b": None, "c": "d", "e": {"f": []}}},
            {"metadata": {"a": "1", "c": "d", "e": '{"f": []}'}},
        ),
    ],
)
def test_what_clients_write_in_another_way_is_read_as_it_is_meant(given: dict[str, Any], plain: dict[str, Any]) -> None:
    assert plain_fields(given) == plain


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ([], {}),
        ({"type": "object", "properties": [], "required": None}, {"type": "object", "properties": {}}),
        (
            {"type": "OBJECT", "properties": {"a": {"type": ["STRING", "NULL"], "enum": None, "default": None}}},
            {"type": "object", "properties": {"a": {"type": ["string", "null"], "default": None}}},
        ),
        (
            {"anyOf": [{"items": {"type": "Integer", "minimum": None}}], "$defs": [], "properties": {"type": {}}},
            {"anyOf": [{"items": {"type": "integer"}}], "$defs": {}, "properties": {"type": {}}},
        ),
        ({"properties": {"a": {"const": None}, "b": {"type": "WISH"}}},) * 2,
    ],
)
def test_a_schema_is_read_as_programs_write_it(given: Any, meant: Any) -> None:
    def tool(schema: Any) -> dict[str, Any]:
        return {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}

    assert plain_fields(tool(given)) == tool(meant)
    form = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": given}}}
    if isinstance(given, dict):
        assert plain_fields(form)["response_format"]["json_schema"]["schema"] == meant


def test_formats_that_json_schema_does_not_define_say_nothing_and_others_are_kept_or_refused(served: Served) -> None:
    def asked(status: int, form: str, kind: str = "string") -> Any:
        schema = {
            "type": kind,
            "format": form,
            **({"maxLength": 3} if kind == "string" else {"minimum": 3, "maximum": 9}),
        }
        parameters = {"type": "object", "properties": {"a": schema}, "required": ["a"], "additionalProperties": False}
        form_of = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        ask(served, status, response_format=form_of, max_tokens=20)
        tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
        return ask(served, status, model="calls", tools=[tool], tool_choice="required", max_tokens=60)

    for form in ("password", "binary"):
        [call] = asked(200, form)["choices"][0]["message"]["tool_calls"]
        assert len(json.loads(call["function"]["arguments"])["a"]) <= 3
    asked(200, "int32", "integer")
    for form in ("iri", "regex"):
        assert f"Unknown format: {form}" in asked(400, form)["error"]["message"]


def test_completions_have_response_formats_too(served: Served) -> None:
    schema = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
    for keys in ({}, {"prompt": ["the cat", "so"]}, {"n": 2}, {"echo": True, "logprobs": 1}):
        answer = complete(served, response_format=schema, max_tokens=40, **keys)
        for choice in answer["choices"]:
            assert json.loads(choice["text"].removeprefix("the cat"))["n"] in (1, 2)
    assert complete(served, response_format={"type": "regex", "value": "(so )+it"})["choices"][0]["text"].endswith(
        "so it"
    )
    assert complete(served, response_format={"type": "text"})["choices"] == complete(served)["choices"]
    error = complete(served, 400, response_format={"type": "json_object"}, regex="a")["error"]
    assert (error["param"], "regex are given" in error["message"]) == ("response_format", True)


def test_a_regular_expression_is_a_format_of_answers(served: Served) -> None:
    form = {"type": "regex", "regex": "(so )+it"}
    own = {"constraint": {"regex": "(so )+it"}}
    assert text(served, response_format=form, max_tokens=20) == text(served, unisono=own, max_tokens=20)
    error = ask(served, 400, response_format=form, model="calls", tools=[PING])["error"]
    assert (error["param"], "beside tools" in error["message"]) == ("response_format", True)
    for kind in ("grammar", "structural_tag"):
        error = ask(served, 400, response_format={"type": kind})["error"]
        assert "use unisono.constraint" in error["message"]


def test_each_chunk_counts_on_where_that_is_asked_for(served: Served) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    for path, body in (
        ("/v1/chat/completions", {"messages": SAY, "n": 2, "temperature": 1, "seed": 1}),
        ("/v1/completions", {"prompt": ["the cat", "日"], "n": 2, "temperature": 1, "seed": 1}),
    ):
        given = {"model": "duo", "max_tokens": 6, "stream_options": options, **body}
        *chunks, last = streamed(served, path, given)
        counts: dict[int, list[int]] = {}
        for chunk in chunks:
            [choice], usage = chunk["choices"], chunk["usage"]
            counts.setdefault(choice["index"], []).append(usage["completion_tokens"])
            assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
            if choice["finish_reason"]:
                told = chunk["unisono"]["choices"][0]["usage"]
                assert (usage["completion_tokens"], usage["prompt_tokens"]) == (
                    told["pieces"],
                    told["prompt_tokens"]["a"],
                )
        assert all(each == sorted(each) for each in counts.values())
        assert last["usage"]["completion_tokens"] == sum(each[-1] for each in counts.values())
        for fewer in ({"include_usage": True}, {"continuous_usage_stats": True}):
            chunks = streamed(served, path, {**given, "stream_options": fewer})
            assert not any(chunk.get("usage") for chunk in chunks if chunk["choices"])


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_chunks_that_are_to_come_seldom_say_the_same_in_fewer(served: Served, path: str) -> None:
    prompt = {"messages": SAY} if "chat" in path else {"prompt": "the cat"}
    for more in ({}, {"n": 2, "temperature": 1, "seed": 1}):
        body = {"model": "duo", "max_tokens": 24, "logprobs": True if "chat" in path else 2, **prompt, **more}
        began = time.monotonic()
        often = streamed(served, path, {**body, "unisono": {"trace": True}})
        seldom = streamed(served, path, {**body, "unisono": {"trace": True, "chunk_seconds": 1}})
        assert time.monotonic() - began < 10  # the end does not wait
        assert len(seldom) <= 4 * more.get("n", 1) < 24 <= len(often)
        assert gathered(seldom) == gathered(often)


def gathered(chunks: list[dict[str, Any]]) -> dict[int, tuple[str, list[Any], list[Any], list[str]]]:
    """What a stream says of each choice, but for times: its text, probabilities, trace and end."""
    found: dict[int, tuple[str, list[Any], list[Any], list[str]]] = {}
    for chunk in chunks:
        [choice] = chunk["choices"]
        text, probabilities, trace, ends = found.get(choice["index"], ("", [], [], []))
        text += choice["text"] if "text" in choice else choice["delta"].get("content", "")
        told = choice.get("logprobs") or {}
        probabilities += told.get("content") or list(zip(*(told.get(name, []) for name in LISTS), strict=True))
        for report in chunk.get("unisono", {"choices": []})["choices"]:
            trace += [{**step, "seconds": None} for step in report.get("trace") or []]
        ends += [choice["finish_reason"]] if choice.get("finish_reason") else []
        found[choice["index"]] = text, probabilities, trace, ends
    return found


def test_a_text_may_end_with_its_stop_string(served: Served) -> None:
    whole = text(served)
    stop = whole[3:5]
    for keys in ({"include_stop_str_in_output": True}, {"no_stop_trim": True}):
        for stops in (stop, [stop, whole[4:8]], ["nowhere", stop]):
            answer = ask(served, stop=stops, **keys)["choices"][0]
            assert (answer["message"]["content"], answer["finish_reason"]) == (whole[:5], "stop")
    body = {"model": "duo", "messages": SAY, "max_tokens": 12, "stop": stop, "logprobs": True}
    chunks = streamed(served, "/v1/chat/completions", {**body, "include_stop_str_in_output": True})
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == whole[:5]
    assert text(served, stop=stop, include_stop_str_in_output=False) == whole[:3]


def test_other_words_for_probabilities_and_greed_are_done(served: Served) -> None:
    assert ask(served, n_probs=2)["choices"] == ask(served, logprobs=True, top_logprobs=2)["choices"]
    assert complete(served, n_probs=2)["choices"] == complete(served, logprobs=2)["choices"]
    assert ask(served, n_probs=0)["choices"] == ask(served)["choices"]
    assert "top_logprobs is 1" in ask(served, 400, n_probs=2, logprobs=True, top_logprobs=1)["error"]["message"]
    assert "n_probs is 2" in complete(served, 400, n_probs=2, logprobs=1)["error"]["message"]
    assert respond(served, 400, n_probs=2)["error"]["param"] == "n_probs"
    assert text(served, model="drawn", do_sample=False) == text(served)
    assert text(served, model="drawn", do_sample=True) == text(served, model="drawn")
    assert text(served, do_sample=True, temperature=0.7, seed=3) == text(served, model="drawn")
    assert ask(served, 400, do_sample=True)["error"]["param"] == "do_sample"
    assert ask(served, 400, do_sample=False, temperature=0.7)["error"]["param"] == "temperature"
    assert len(ask(served, n_cmpl=2)["choices"]) == 2


def test_a_request_without_a_model_asks_the_only_ensemble(served: Served) -> None:
    for given in ({}, {"model": None}, {"model": ""}):
        error = served.post("/v1/chat/completions", {"messages": SAY, **given}).json()["error"]
        assert (error["param"], error["code"]) == ("model", "missing_field")
        assert "known: duo, calls, drawn" in error["message"]
    for strict in (False, True):
        with serving(limits=ServerLimits(strict=strict)) as alone:
            for path, body in (("/v1/chat/completions", {"messages": SAY}), ("/v1/responses", {"input": "the cat"})):
                answer = alone.post(path, {**body, "max_tokens": 2})
                assert answer.status_code == (400 if strict else 200)
                if not strict:
                    assert answer.json()["model"] == "duo"


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


def test_a_body_that_is_nested_deeply_is_refused_wherever_it_is(served: Served) -> None:
    for field in ("documents", "metadata", "stop", "logit_bias", "features"):
        for levels in (DEEPEST, 500):
            error = ask(served, 400, **{field: nested(levels)})["error"]
            assert (error["code"], "nested too deeply" in error["message"]) == ("invalid_json", True)
    assert ask(served, metadata=nested(DEEPEST - 1), max_tokens=1)
    deep = '{"items":' * 500 + "{}" + "}" * 500
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": deep}}
    assert ask(served, 400, response_format=form)["error"]["param"] == "response_format.json_schema.schema"


def test_what_is_missing_in_a_choice_of_tools_is_named(served: Served) -> None:
    error = ask(served, 400, model="calls", tools=[PING], tool_choice={"type": "function"})["error"]
    assert (error["param"], error["code"]) == ("tool_choice.function", "missing_field")


def test_a_response_follows_none_where_its_id_is_empty(served: Served) -> None:
    told = respond(served, previous_response_id="", metadata={"a": 1}, client_metadata={"x": 1})
    assert (told["previous_response_id"], told["metadata"]) == (None, {"a": "1"})
