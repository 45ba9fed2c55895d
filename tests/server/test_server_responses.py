"""The Responses API, by openai's client and by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from support.real_server import DUO, SAY, Served, ask, serving
from support.served_thinkers import serving_thinkers
from support.tool_templates import TAGGED
from unisono.server.limits import ServerLimits
from unisono.server.middleware import Keys

LOGPROBS = "message.output_text.logprobs"
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
KEYS = ("first-key-of-sixteen", "second-key-of-sixteen")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving_thinkers() as server:
        yield server


def respond(served: Served, status: int = 200, **keys: Any) -> Any:
    response = served.post("/v1/responses", {"model": "duo", "input": "the cat", "max_output_tokens": 12, **keys})
    assert response.status_code == status, response.text
    return response.json()


def written(response: Any) -> str:
    return Response.model_validate(response).output_text


def test_a_question_is_answered_as_a_chat_is(served: Served) -> None:
    chat = ask(served)
    for given in (
        {"input": "the cat"},
        {"input": [{"role": "user", "content": "the cat"}]},
        {"input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "the cat"}]}]},
    ):
        response = respond(served, **given)
        assert written(response) == chat["choices"][0]["message"]["content"]
        assert response["usage"]["input_tokens"] == chat["usage"]["prompt_tokens"]
        assert response["usage"]["output_tokens"] == chat["usage"]["completion_tokens"] == 12
        assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    system = [{"role": "system", "content": "be brief"}, *SAY]
    assert (
        written(respond(served, instructions="be brief"))
        == ask(served, messages=system)["choices"][0]["message"]["content"]
    )


def test_events_are_those_of_openai_and_add_up(served: Served) -> None:
    asked: Any = {
        "model": "duo",
        "input": "the cat",
        "max_output_tokens": 40,
        "include": ["message.output_text.logprobs"],
    }
    whole = served.client().responses.create(**asked, top_logprobs=2)
    events = list(served.client().responses.create(**asked, top_logprobs=2, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = list(dict.fromkeys(event.type for event in events))
    last = f"response.{whole.status}"
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        last,
    ]
    deltas: Any = [event for event in events if event.type == "response.output_text.delta"]
    assert "".join(each.delta for each in deltas) == whole.output_text
    end: Any = events[-1]
    assert end.response.output_text == whole.output_text
    [item], [ended] = whole.output, end.response.output
    probabilities: Any = item.content[0].logprobs  # type: ignore[union-attr, index]
    assert len(probabilities) == whole.usage.output_tokens  # type: ignore[union-attr]
    assert probabilities == ended.content[0].logprobs
    assert all(len(each.top_logprobs) == 2 for each in probabilities)
    stopped: Any = {**asked, "extra_body": {"stop": whole.output_text[8:12]}}
    with served.client().responses.stream(**stopped) as stream:
        assert stream.get_final_response().output_text == whole.output_text[:8]


def test_every_event_on_the_wire_is_valid_and_named(served: Served) -> None:
    body = {"model": "thinkers", "input": "Hello", "max_output_tokens": 30, "stream": True}
    text = served.post("/v1/responses", body).text
    kinds = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        EVENTS.validate_python(event)
        kinds.append(event["type"])
    assert "response.reasoning_text.delta" in kinds
    response = event["response"]
    Response.model_validate(response)
    whole = respond(served, model="thinkers", input="Hello", max_output_tokens=30)
    for kind in ("reasoning", "message"):
        texts = [
            "".join(item["content"][0]["text"] for item in each["output"] if item["type"] == kind)
            for each in (response, whole)
        ]
        assert texts[0] == texts[1] != ""
    assert response["usage"] == whole["usage"]
    assert whole["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    again = [{"role": "user", "content": "Hello"}, *whole["output"], {"role": "user", "content": "the cat"}]
    follows = respond(served, model="thinkers", input="the cat", previous_response_id=whole["id"])
    assert written(follows) == written(respond(served, model="thinkers", input=again))


def test_a_response_follows_another(served: Served) -> None:
    client = served.client()
    first = client.responses.create(model="duo", input="the cat", max_output_tokens=5, instructions="be brief")
    second = client.responses.create(model="duo", input="and?", max_output_tokens=5, previous_response_id=first.id)
    third = respond(served, input="so", previous_response_id=second.id)
    messages = [
        *SAY, {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "and?"}, {"role": "assistant", "content": second.output_text},
        {"role": "user", "content": "so"},
    ]  # fmt: skip
    assert written(third) == ask(served, messages=messages)["choices"][0]["message"]["content"]
    assert client.responses.retrieve(first.id).output_text == first.output_text
    [item] = client.responses.input_items.list(first.id).data
    assert item.content == "the cat"  # type: ignore[union-attr]
    client.responses.delete(first.id)
    for lost in (lambda: client.responses.retrieve(first.id), lambda: client.responses.delete(first.id)):
        with pytest.raises(openai.NotFoundError, match="keeps the last 1000"):
            lost()
    error = respond(served, 400, previous_response_id=second.id)["error"]
    assert (error["param"], error["code"]) == ("previous_response_id", "previous_response_not_found")


def test_an_answer_of_the_past_is_sent_by_its_id_too(served: Served) -> None:
    first = respond(served)
    whole = respond(served, input=[*SAY, *first["output"], {"role": "user", "content": "so"}])
    for kind in ({}, {"type": None}, {"type": "item_reference"}):
        refers = {**kind, "id": first["output"][0]["id"]}
        second = respond(served, input=[*SAY, refers, {"type": None, "role": "user", "content": "so"}])
        assert (written(second), second["usage"]) == (written(whole), whole["usage"])
    listed = served.client().responses.input_items.list(second["id"]).data
    assert {item.type for item in listed} == {"message"}
    third, again = (respond(served, input="and?", previous_response_id=each["id"]) for each in (second, whole))
    assert written(third) == written(again)
    served.client().responses.delete(first["id"])
    assert "is no item" in respond(served, 400, input=[*SAY, refers])["error"]["message"]
    assert written(respond(served, input="and?", previous_response_id=second["id"])) == written(third)


def test_what_follows_a_text_that_was_begun_has_all_of_it(served: Served) -> None:
    continued = [*SAY, {"role": "assistant", "content": "the dog", "prefix": True}]
    for given in ({"prefill": "the dog"}, {"input": continued}):
        first = respond(served, **given)
        second = respond(served, input="so", previous_response_id=first["id"])
        said = {"role": "assistant", "content": "the dog" + written(first)}
        messages = [*SAY, said, {"role": "user", "content": "so"}]
        assert written(second) == ask(served, messages=messages)["choices"][0]["message"]["content"]
        assert written(served.get(f"/v1/responses/{first['id']}").json()) == written(first)


def test_input_is_listed_whatever_its_ids_are(served: Served) -> None:
    ids = [5, None, "\ud800", "a", "a", ["b"], "c"]
    given = [{"role": "user", "content": str(place), "id": own} for place, own in enumerate(ids)]
    response = respond(served, input=given, metadata={"a": "\udfff"})
    path = f"/v1/responses/{response['id']}/input_items"
    assert served.get(f"/v1/responses/{response['id']}").json()["metadata"] == {"a": "\udfff"}
    whole = served.get(path).json()
    assert [item["content"] for item in whole["data"]] == [*"6543210"]
    told = [item["id"] for item in whole["data"]]
    assert len(set(told)) == 7
    assert (whole["has_more"], whole["first_id"], whole["last_id"]) == (False, "c", told[-1])
    ascending = served.get(f"{path}?order=asc&limit=2").json()
    assert [item["content"] for item in ascending["data"]] == ["0", "1"]
    assert ascending["has_more"] is True
    client = served.client().responses.input_items
    assert [item.content for item in client.list(response["id"], limit=2, order="asc")] == [*"0123456"]  # type: ignore[union-attr]
    for query, param in (("order=up", "order"), ("limit=0", "limit"), ("limit=x", "limit"), ("after=z", "after")):
        assert served.get(f"{path}?{query}").json()["error"]["param"] == param


def test_a_strict_server_takes_what_was_reasoned_and_counts_what_it_keeps(served: Served) -> None:
    thinkers = {"members": [{"name": name, "model": f"fake:{name}"} for name in "tp"]}
    body = {"model": "thinkers", "input": "Hello", "max_output_tokens": 30}
    reasoned = respond(served, **body)
    lenient = written(respond(served, **body, previous_response_id=reasoned["id"]))
    with serving({"thinkers": thinkers}, limits=ServerLimits(strict=True, values=60)) as server:
        first = server.post("/v1/responses", body).json()
        assert first["output"][0]["type"] == "reasoning"
        follows = {**body, "previous_response_id": first["id"]}
        second = server.post("/v1/responses", follows)
        assert written(second.json()) == lenient
        third = server.post("/v1/responses", {**body, "previous_response_id": second.json()["id"]})
        fourth = server.post("/v1/responses", {**body, "previous_response_id": third.json().get("id")})
        assert fourth.status_code == 400
        said = {"role": "assistant", "content": "x", "reasoning_content": "y"}
        refused = server.post("/v1/responses", {**body, "input": [said, *SAY]}).json()["error"]
        assert refused["param"] == "input[0].reasoning_content"


def test_what_is_not_to_be_stored_is_not(served: Served) -> None:
    response = respond(served, store=False)
    assert response["store"] is False
    assert served.get(f"/v1/responses/{response['id']}").status_code == 404


def test_the_store_is_bounded_and_each_key_has_its_own(served: Served) -> None:
    headers = [{"authorization": f"Bearer {key}"} for key in KEYS]
    body = {"model": "duo", "input": "the cat", "max_output_tokens": 2}
    with serving(DUO, limits=ServerLimits(responses=2), keys=Keys(KEYS)) as server:
        ids = [server.post("/v1/responses", body, **headers[0]).json()["id"] for _ in range(3)]
        status = [server.get(f"/v1/responses/{each}", **headers[0]).status_code for each in ids]
        assert status == [404, 200, 200]
        assert server.get(f"/v1/responses/{ids[2]}", **headers[1]).status_code == 404
        theirs = {**body, "previous_response_id": ids[2]}
        assert server.post("/v1/responses", theirs, **headers[1]).status_code == 400
        assert server.post("/v1/responses", theirs, **headers[0]).status_code == 200
        assert server.get(f"/v1/responses/{ids[2]}").status_code == 401
    with serving(DUO, limits=ServerLimits(responses=0)) as server:
        response = server.post("/v1/responses", {**body, "store": True}).json()
        assert response["store"] is False
        lost = server.post("/v1/responses", {**body, "previous_response_id": response["id"]}).json()["error"]
        assert "this server stores none" in lost["message"]


FIND: Any = {
    "type": "function",
    "name": "find",
    "parameters": {
        "type": "object",
        "properties": {"what": {"enum": ["cat"]}},
        "required": ["what"],
        "additionalProperties": False,
    },
    "strict": True,
}


def test_functions_are_called_and_answered(served: Served) -> None:
    model: Any = {
        "model": "tools",
        "input": "the cat",
        "tools": [FIND],
        "tool_choice": {"type": "function", "name": "find"},
    }

    named = {"members": [{"name": "a", "model": "fake:a", "chat_template": TAGGED}]}
    with serving({"tools": named}) as server:
        client = server.client()
        whole = client.responses.create(**model)
        [call] = whole.output
        assert call.type == "function_call"
        assert (call.name, json.loads(call.arguments)) == ("find", {"what": "cat"})
        events: Any = list(client.responses.create(**model, stream=True))
        done = [event for event in events if event.type == "response.function_call_arguments.done"]
        assert [json.loads(each.arguments) for each in done] == [{"what": "cat"}]
        assert events[-1].response.output[0].arguments == call.arguments
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "it sleeps"}
        more: Any = {"model": "tools", "tools": [FIND], "tool_choice": "none", "max_output_tokens": 4}
        after = client.responses.create(input=[result], previous_response_id=whole.id, **more)
        items: Any = [{"role": "user", "content": "the cat"}, call.model_dump(exclude_none=True), result]
        assert after.output_text == client.responses.create(input=items, **more).output_text


def test_a_schema_binds_the_text(served: Served) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"], "additionalProperties": False}
    text = {"format": {"type": "json_schema", "name": "one", "schema": schema, "strict": True}}
    assert json.loads(written(respond(served, text=text, max_output_tokens=60))) == {"a": 1}


@pytest.mark.parametrize(
    ("keys", "param"),
    [
        ({"input": None}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [5]}, "input[0]"),
        ({"input": [{}]}, "input[0].type"),
        ({"input": [{"role": "wizard", "content": "x"}]}, "input[0].role"),
        ({"input": [*SAY, {"role": "user"}]}, "input[1].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].id"),
        ({"input": [{"type": "item_reference"}]}, "input[0].id"),
        ({"input": [{"type": "item_reference", "id": ["msg_1"]}]}, "input[0].id"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{**FIND, "name": "a b"}]}, "tools"),
        ({"tools": [7]}, "tools[0]"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format.type"),
        ({"include": ["message.thoughts"]}, "include[0]"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"previous_response_id": "resp_none"}, "previous_response_id"),
        ({"n": 2}, "n"),
        ({"background": True}, "background"),
        ({"reasoning": {"context": "all_turns"}}, "reasoning.context"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"metadata": ["a"]}, "metadata"),
        ({"messages": SAY}, "messages"),
        ({"max_output_tokens": -5}, "max_output_tokens"),
        ({"max_tokens": 3}, "max_tokens"),
        ({"nonsense": 1}, "nonsense"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_by_name(served: Served, keys: dict[str, Any], param: str) -> None:
    error = respond(served, 400, **keys)["error"]
    assert error["param"] == param, error
    assert "messages[" not in error["message"]
    assert "response_format" not in error["message"]


def test_what_changes_nothing_is_taken_and_told_back(served: Served) -> None:
    response = respond(
        served, metadata={"a": "b"}, service_tier="auto", truncation="auto", prompt_cache_key="k", user="me",
        safety_identifier="s", include=["reasoning.encrypted_content"], text={"verbosity": "low"},
        reasoning={"summary": "auto", "context": "auto", "mode": "standard"}, parallel_tool_calls=True,
        stream_options={"include_obfuscation": False},
    )  # fmt: skip
    assert response["metadata"] == {"a": "b"}
    assert written(response) == written(respond(served))
