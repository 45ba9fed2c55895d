"""Calls and results of a past conversation are read in other forms than OpenAI's, and without ids or results."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from support.encoders import knowing
from support.fakes import make_fakes
from support.real_server import A, B, Served, serving
from support.tool_templates import TAGGED
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.messages import Prompt
from unisono.chat.template_probe import as_given
from unisono.errors import PromptError, SpecError
from unisono.server.errors import Refusal
from unisono.server.messages import read_messages

ASK: dict[str, Any] = {"role": "user", "content": "Rain?"}
GO_ON: dict[str, Any] = {"role": "user", "content": "And?"}


def call(identity: Any, name: str = "rain", **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"type": "function", "function": function, **({} if identity is None else {"id": identity})}


def calling(*calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": [*calls], **more}


def answer(identity: Any, content: Any = "yes", **more: Any) -> dict[str, Any]:
    return {"role": "tool", "content": content, **({} if identity is None else {"tool_call_id": identity}), **more}


def use(identity: str, name: str = "rain", **given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": identity, "name": name, "input": given}


def result(identity: str, content: Any = "yes", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": identity, "content": content, **more}


def blocks(role: str, *parts: Any) -> dict[str, Any]:
    return {"role": role, "content": [*parts]}


WORDS = {"type": "text", "text": "Let me see."}
SAME: dict[str, tuple[list[Any], list[Any]]] = {
    "blocks": (
        [blocks("assistant", WORDS, use("t1", city="Sofia")), blocks("user", result("t1"))],
        [calling(call("t1", city="Sofia"), content="Let me see."), answer("t1")],
    ),
    "several, and words behind the results": (
        [blocks("assistant", use("t1"), use("t2", "sun")), blocks("user", result("t1"), result("t2", "no"), WORDS)],
        [calling(call("t1"), call("t2", "sun")), answer("t1"), answer("t2", "no"), blocks("user", WORDS)],
    ),
    "results in parts, cached, failed, empty": (
        [
            blocks("assistant", use("t1"), use("t2"), use("t3")),
            blocks(
                "user",
                result("t1", [{"type": "text", "text": "ye"}, {"type": "text", "text": "s"}]),
                result("t2", "no", is_error=True, cache_control={"type": "ephemeral"}),
                {"type": "tool_result", "tool_use_id": "t3"},
            ),
        ],
        [
            calling(call("t1"), call("t2"), call("t3")),
            answer("t1"),
            answer("t2", "no", is_error=True),
            answer("t3", ""),
        ],
    ),
    "results in messages of tools": (
        [
            calling(call("t1"), call("t2")),
            {**blocks("tool", result("t1", [{"type": "text", "text": "yes"}])), "tool_call_id": "t1"},
            {**blocks("tool", {"type": "tool_result", "content": "no"}), "tool_call_id": "t2"},
        ],
        [calling(call("t1"), call("t2")), answer("t1"), answer("t2", "no")],
    ),
    "thoughts beside blocks": (
        [blocks("assistant", {"type": "thinking", "thinking": "Hm."}, use("t1")), blocks("user", result("t1"))],
        [calling(call("t1"), reasoning_content="Hm.", content=""), answer("t1")],
    ),
    "thoughts and white space between blocks": (
        [
            blocks(
                "assistant",
                use("t1"),
                {"type": "thinking", "thinking": "Hm."},
                use("t2"),
                {"type": "text", "text": " "},
            ),
            blocks("user", {"type": "text", "text": ""}, result("t1"), result("t2")),
        ],
        [
            calling(call("t1"), call("t2"), reasoning_content="Hm.", content=" "),
            *(answer("t1"), answer("t2"), {"role": "user", "content": ""}),
        ],
    ),
    "blocks that repeat calls": (
        [{**blocks("assistant", WORDS, use("t1")), "tool_calls": [call("t1", city="Sofia")]}, answer("t1")],
        [calling(call("t1", city="Sofia"), content="Let me see."), answer("t1")],
    ),
    "empty ids": (
        [calling(call(""), call("", "sun")), answer(""), answer("", "no")],
        [calling(call("call00000"), call("call00001", "sun")), answer("call00000"), answer("call00001", "no")],
    ),
    "no ids, and results by name": (
        [calling(call(None), call(None, "sun")), answer(None, "no", name="sun"), answer(None, name="rain")],
        [
            calling(call("call00000"), call("call00001", "sun")),
            answer("call00001", "no", name="sun"),
            answer("call00000", name="rain"),
        ],
    ),
    "one id for all": (
        [calling(call("x"), call("x", "sun")), answer("x"), answer("x", "no")],
        [calling(call("x"), call("call00000", "sun")), answer("x"), answer("call00000", "no")],
    ),
    "an id only of the result": (
        [calling(call("")), answer("abc")],
        [calling(call("call00000")), answer("call00000")],
    ),
    "of functions": (
        [
            {"role": "assistant", "content": None, "function_call": {"name": "rain", "arguments": "{}"}},
            {"role": "function", "name": "rain", "content": "yes"},
        ],
        [calling(call("call00000")), answer("call00000", name="rain")],
    ),
    "of functions, told twice": (
        [calling(call("t1"), function_call={"name": "rain", "arguments": "{}"}), answer("t1")],
        [calling(call("t1")), answer("t1")],
    ),
    "an id that is taken": (
        [calling(call("call00000")), answer("call00000"), calling(call("")), answer("")],
        [calling(call("call00000")), answer("call00000"), calling(call("call00001")), answer("call00001")],
    ),
}


@pytest.mark.parametrize(("given", "plain"), SAME.values(), ids=SAME)
def test_other_forms_are_read_as_what_they_mean(given: list[Any], plain: list[Any]) -> None:
    read = read_messages([ASK, *given, GO_ON])
    assert read == read_messages([ASK, *plain, GO_ON])
    assert Prompt(messages=read).messages


LOST: list[list[Any]] = [
    [answer("t1")],
    [answer(None, name="rain")],
    [{"role": "function", "name": "rain", "content": "yes"}],
    [blocks("user", result("t1"))],
    [calling(call("t2")), answer("t2"), answer("t1")],
    [calling(call("t1")), answer("t1"), answer("t1")],
    [calling(call("t1")), GO_ON, answer("t1")],
]


@pytest.mark.parametrize("given", LOST)
def test_a_result_that_has_lost_its_call_is_a_result(given: list[Any]) -> None:
    messages = read_messages([ASK, *given, GO_ON])
    with pytest.raises(SpecError, match=r"which no assistant's message right before it holds|is not answered"):
        Prompt(messages=messages)
    prompt = Prompt(messages=messages, open_calls=True)
    assert prompt.messages == messages
    results = [message["content"] for message in messages if message["role"] == "tool"]
    told = as_given(messages, None)
    assert [message["content"] for message in told if message["role"] == "tool"] == results
    assert knowing(TAGGED).encode(prompt)
    passing = TAGGED.replace("{%- if m.role == 'tool' %}", "{%- if m.role == 'tool' and loop.previtem.tool_calls %}")
    passing = passing.replace("{{ eos_token }}{% else %}", "{{ eos_token }}{% elif m.role != 'tool' %}")
    with pytest.raises(PromptError, match="cannot read the result 'yes', before which no call stands"):
        knowing(passing).encode(prompt)


def test_an_interrupted_client_may_go_on_without_results() -> None:
    for given in ([calling(call("a"))], [calling(call("a"), call("b")), answer("b")], [blocks("assistant", use("a"))]):
        read = read_messages([ASK, *given, GO_ON])
        assert Prompt(messages=read, open_calls=True).messages == read
        with pytest.raises(SpecError, match="the call 'a' is not answered before message"):
            Prompt(messages=read)
        with pytest.raises(SpecError, match="the call 'a' is not answered in these messages"):
            Prompt(messages=read[:-1], open_calls=True)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ([blocks("assistant", use("t1"), WORDS)], "messages[1].content[1]"),
        ([calling(call("t1")), blocks("user", WORDS, result("t1"))], "messages[2].content[0]"),
        (
            [calling(call("t1")), blocks("user", result("t1", [{"type": "image", "source": {}}]))],
            "messages[2].content[0].content[0].type",
        ),
        ([blocks("assistant", {"type": "server_tool_use", "id": "x"})], "messages[1].content[0].type"),
        ([answer(0.5)], "messages[1].tool_call_id"),
    ],
)
def test_what_has_no_place_is_refused_by_name(given: list[Any], field: str) -> None:
    with pytest.raises(Refusal) as refusal:
        read_messages([ASK, *given])
    assert refusal.value.param == field, refusal.value


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (blocks("assistant", {"type": "tool_use", "id": "t1", "input": {}}), "call 1 of messages[1] has the name null"),
        (calling(call(0.5)), "call 1 of messages[1] has no id that is text"),
    ],
)
def test_calls_that_are_none_are_refused(given: Any, words: str) -> None:
    with pytest.raises(Refusal, match=re.escape(words)):
        read_messages([ASK, given])


def test_strict_servers_read_openais_form_alone() -> None:
    for given in (SAME["blocks"][0], SAME["empty ids"][0]):
        with pytest.raises((Refusal, SpecError)):
            Prompt(messages=read_messages([ASK, *given, GO_ON], strict=True))


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    make_fakes()
    with serving({"calls": {"members": [{**each, "chat_template": TAGGED} for each in (A, B)]}}) as server:
        yield server
    FAKE_MODELS.clear()


def test_the_server_answers_such_a_conversation(served: Served) -> None:
    answers = []
    for given in (*SAME["blocks"], [calling(call("a"))]):
        body = {"model": "calls", "messages": [ASK, *given, GO_ON], "max_tokens": 4}
        response = served.post("/v1/chat/completions", body)
        assert response.status_code == 200, response.text
        answers.append(response.json()["choices"][0]["message"]["content"])
    assert answers[0] == answers[1] != answers[2]
