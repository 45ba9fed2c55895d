"""Calls behind reasoning that a model forgot to end: an answer that is nothing else would stop an agent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from support.callers import WORDS, follows
from support.real_server import Served, serving
from support.tool_templates import TAGGED
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.testing import FakeModel, LongestMatchTokenizer, byte_level_table, register_fake

TEMPLATE = TAGGED.replace(
    "<|{{ m.role }}|>{{ m.content }}",
    "<|{{ m.role }}|>{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}",
)
CALL = '<tool_call>\n{"name": "ping", "arguments": {"x": 1}}\n</tool_call>'
PING: dict[str, Any] = {"type": "function", "function": {"name": "ping"}}
ONE = [("ping", '{"x": 1}')]
ANSWERS = {  # what is written, and its content, reasoning and calls where they are free
    "forgotten": (f"<think>Hm.\n{CALL}", "", f"Hm.\n{CALL}", ONE),
    "twice": (f"<think>Hm. {CALL}\nNo: {CALL}\n{CALL}", "", f"Hm. {CALL}\nNo: {CALL}\n{CALL}", ONE * 2),
    "planned": (f"<think>{CALL}</think>Done.", "Done.", CALL, []),
    "given up": (f"<think>{CALL}</think>", "", CALL, []),
    "dropped": (f"<think>{CALL} or not.", "", f"{CALL} or not.", []),
    "ended": (f"<think>Hm.</think>{CALL}", "", "Hm.", ONE),
}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    table = byte_level_table(WORDS, chat_template=TEMPLATE)
    tokens = ("<think>", "</think>", "<tool_call>", "</tool_call>")
    table = replace(table, texts=(*table.texts, *tokens), kinds=(*table.kinds, *["added"] * 4))  # type: ignore[arg-type]
    for name, (text, *_) in ANSWERS.items():
        register_fake(name, FakeModel(LongestMatchTokenizer(table), follows(table, f"<|assistant|>{text}</s>")))
    with serving({name: {"members": [{"name": "m", "model": f"fake:{name}"}]} for name in ANSWERS}) as server:
        yield server
    FAKE_MODELS.clear()


def told(served: Served, model: str, **keys: Any) -> tuple[str, str, list[tuple[str, str]], str]:
    body: Any = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "tools": [PING], **keys}
    [choice] = served.client().chat.completions.create(**body).choices
    calls = [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()]
    return choice.message.content or "", choice.message.reasoning_content, calls, choice.finish_reason


def streamed(served: Served, model: str, **keys: Any) -> tuple[str, str, list[tuple[str, str]], str | None]:
    body: Any = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "tools": [PING], **keys}
    content, thought, calls, reason = "", "", [], None
    for chunk in served.client().chat.completions.create(stream=True, **body):
        delta = chunk.choices[0].delta
        content, thought = content + (delta.content or ""), thought + (getattr(delta, "reasoning_content", None) or "")
        calls += [(call.function.name, call.function.arguments) for call in delta.tool_calls or ()]
        reason = chunk.choices[0].finish_reason or reason
    return content, thought, calls, reason


@pytest.mark.parametrize("model", ANSWERS)
def test_calls_with_which_unended_reasoning_ends_are_calls(served: Served, model: str) -> None:
    _, content, thought, calls = ANSWERS[model]
    expected = (content, thought, calls, "tool_calls" if calls else "stop")
    assert told(served, model) == streamed(served, model) == expected
    items = served.post(
        "/v1/responses", {"model": model, "input": "Hi", "tools": [{"type": "function", "name": "ping"}]}
    )
    found = [(item["name"], item["arguments"]) for item in items.json()["output"] if item["type"] == "function_call"]
    assert found == calls


def test_what_a_limit_cuts_off_or_does_not_fit_a_grammar_is_no_call(served: Served) -> None:
    assert told(served, "forgotten", max_tokens=20)[2:] == ([], "length")
    strict = [{"type": "function", "function": {**PING["function"], "strict": True}}]
    assert told(served, "forgotten", tools=strict)[2:] == ([("ping", "{}")], "tool_calls")  # which fits
