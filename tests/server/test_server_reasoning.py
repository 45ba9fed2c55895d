"""Reasoning over HTTP: apart from the answer, counted, left out or ended where a client asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.fakes import make_fakes
from support.real_server import A, Served, serving
from support.reasoners import ANSWER, ASK, PLAIN, QUESTION, THINKER, THOUGHT, make_reasoners
from unisono.backends.fake.backend import FAKE_MODELS

CHATS, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    make_reasoners()
    make_fakes()
    both = {"members": [THINKER, PLAIN]}
    with serving(
        {
            "both": both,
            "other": {"members": [A]},
            "never": {**both, "reasoning": "off"},
            "brief": {**both, "reasoning": 3},
        }
    ) as server:
        yield server
    FAKE_MODELS.clear()


def chat(served: Served, **fields: Any) -> Any:
    response = served.post(CHATS, {"model": "both", "messages": ASK, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def refused(served: Served, path: str = CHATS, **fields: Any) -> tuple[str, str]:
    prompt = {"messages": ASK} if path == CHATS else {"prompt": QUESTION}
    response = served.post(path, {"model": "both", **prompt, **fields})
    assert response.status_code == 400, response.text
    return response.json()["error"]["param"], response.json()["error"]["message"]


def parts(stream: Any) -> list[tuple[str, str]]:
    """What the chunks of a stream hold, in order: each reasoning or content, and never both."""
    found = []
    for chunk in stream:
        for choice in chunk.choices:
            delta = choice.delta.model_dump(exclude_unset=True)
            given = [(key, delta[key]) for key in ("reasoning_content", "content") if delta.get(key)]
            assert len(given) <= 1
            found += given
    return found


@pytest.mark.parametrize("model", ["both", "both/thinker"])
def test_reasoning_is_apart_from_the_answer_and_counted(served: Served, model: str) -> None:
    answer = served.client().chat.completions.create(model=model, messages=ASK)  # type: ignore[call-overload]
    message = answer.choices[0].message
    assert (message.reasoning_content, message.content) == (THOUGHT, ANSWER)
    usage = answer.usage
    assert usage.completion_tokens_details.reasoning_tokens == answer.unisono["choices"][0]["usage"]["reasoning"] > 0
    assert usage.completion_tokens > usage.completion_tokens_details.reasoning_tokens


def test_a_stream_tells_reasoning_first_and_ends_with_the_count(served: Served) -> None:
    stream = served.client().chat.completions.create(  # type: ignore[call-overload]
        model="both", messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    found = parts(chunks)
    assert "".join(text for key, text in found if key == "reasoning_content") == THOUGHT
    assert "".join(text for key, text in found if key == "content") == ANSWER
    keys = [key for key, _ in found]
    assert keys == sorted(keys, reverse=True)
    assert len(found) > 5
    assert chunks[-1].usage.completion_tokens_details.reasoning_tokens > 0


@pytest.mark.parametrize("model", ["both/plain", "other"])
def test_where_nothing_is_reasoned_no_field_says_so(served: Served, model: str) -> None:
    answer = chat(served, model=model, max_tokens=5)
    assert "reasoning_content" not in answer["choices"][0]["message"]
    assert "completion_tokens_details" not in answer["usage"]


@pytest.mark.parametrize("fields", [{"include_reasoning": False}, {"reasoning": {"exclude": True}}])
def test_reasoning_is_left_out_where_a_client_asks_for_that(served: Served, fields: dict[str, Any]) -> None:
    answer = chat(served, **fields)
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": ANSWER}
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0
    stream = served.client().chat.completions.create(  # type: ignore[call-overload]
        model="both", messages=ASK, stream=True, extra_body=fields
    )
    assert {key for key, _ in parts(stream)} == {"content"}


KWARGS = "chat_template_kwargs"
OFF = (
    {"unisono": {"reasoning": "off"}},
    {"unisono": {"reasoning": False}},
    {"unisono": {"reasoning": 0}},
    {"unisono": {"reasoning": {"max_pieces": 0}}, "chat_template_kwargs": {"enable_thinking": False}},
    {"unisono": {"reasoning": "off"}, "chat_template_kwargs": {"thinking": False, "reasoning_effort": "none"}},
    {"chat_template_kwargs": {"enable_thinking": False}},
    {"chat_template_kwargs": {"thinking_budget": 0}, "reasoning_effort": "none"},
    {"reasoning_effort": "none"},
    {"reasoning": {"effort": "none"}},
    {"reasoning": {"enabled": False}, "thinking_token_budget": 0},
    {"thinking_budget_tokens": 0},
    {"enable_thinking": False},
    {"thinking": {"type": "disabled"}},
    {"reasoning_budget_tokens": 0, "unisono": {"reasoning": "off"}},
    {"model": "never"},
)


@pytest.mark.parametrize("fields", OFF)
def test_reasoning_is_off_under_each_name_for_that(served: Served, fields: dict[str, Any]) -> None:
    answer = chat(served, **fields)
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": ANSWER}
    assert "completion_tokens_details" not in answer["usage"]


BUDGETS = (
    {"unisono": {"reasoning": 3}},
    {"unisono": {"reasoning": {"max_pieces": 3}}},
    {"thinking_token_budget": 3},
    {"thinking_budget_tokens": 3, "reasoning_budget_tokens": 3},
    {"reasoning": {"max_tokens": 3}},
    {"model": "never", "thinking_token_budget": 3},
    {"thinking": {"type": "enabled", "budget_tokens": 3}, "reasoning_effort": "high"},
    {"model": "brief", "reasoning_effort": "high", "enable_thinking": True},
    {"unisono": {"reasoning": 3}, "reasoning": {"enabled": True}},
)


@pytest.mark.parametrize("fields", BUDGETS)
def test_a_budget_ends_reasoning_under_each_of_its_names(served: Served, fields: dict[str, Any]) -> None:
    answer = chat(served, **fields)
    message = answer["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Hm", ANSWER)
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == 3


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning": {"effort": "high", "enabled": True}, "reasoning_effort": "high"},
        {"reasoning_budget_tokens": -1},
        {"thinking_token_budget": 10**12},
        {"include_reasoning": True, "separate_reasoning": True, "reasoning_format": "deepseek"},
        {"stream_reasoning": False, "reasoning_format": "parsed"},
        {"model": "never", "unisono": {"reasoning": "auto"}},
        {"model": "never", "reasoning": {"enabled": True}},
        {"model": "never", "reasoning": {"effort": "low"}},
        {"model": "never", "reasoning_effort": "high"},
        {"model": "never", "thinking": {"type": "enabled"}},
        {"model": "brief", "thinking_token_budget": -1},
        {"thinking": {}},
    ],
)
def test_what_asks_for_reasoning_as_it_comes_changes_nothing(served: Served, fields: dict[str, Any]) -> None:
    message = chat(served, **fields)["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == (THOUGHT, ANSWER)


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"separate_reasoning": False}, "separate_reasoning", "include_reasoning"),
        ({"reasoning_format": "none"}, "reasoning_format", "reasoning_content"),
        ({"reasoning_format": "raw"}, "reasoning_format", "reasoning_content"),
        ({"reasoning_format": "hidden"}, "reasoning_format", "include_reasoning"),
        ({"reasoning_format": "deepseek-legacy"}, "reasoning_format", "include_reasoning"),
        ({"unisono": {"reasoning": "much"}}, "unisono.reasoning", "off"),
        ({"unisono": {"reasoning": -1}}, "unisono.reasoning", "max_pieces"),
        *(
            (
                {"chat_template_kwargs": {name: value}, "unisono": {"reasoning": wanted}},
                f"chat_template_kwargs.{name}",
                "",
            )
            for name, value, wanted in (
                ("enable_thinking", True, "off"),
                ("thinking", True, {"max_pieces": 0}),
                ("reasoning_effort", "low", "off"),
                ("enable_thinking", False, "auto"),
                ("thinking", False, 3),
                ("reasoning_effort", "none", 3),
                ("thinking_mode", "disabled", "auto"),
            )
        ),
        (
            {"chat_template_kwargs": {"enable_thinking": False, "thinking": True}},
            "chat_template_kwargs.enable_thinking",
            "",
        ),
        (
            {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "none"},
            "reasoning_effort",
            "is true",
        ),
        ({"reasoning": {"effort": "much"}}, "reasoning.effort", "'low'"),
        ({"reasoning": "high"}, "reasoning", "'high'"),
        ({"thinking_token_budget": -2}, "thinking_token_budget", "-1"),
        ({"thinking_token_budget": 3, "thinking_budget_tokens": 4}, "thinking_token_budget", "is 4"),
        ({"thinking_token_budget": 3, "reasoning_effort": "none"}, "thinking_token_budget", "'none'"),
        ({"thinking_token_budget": 3, "unisono": {"reasoning": "off"}}, "thinking_token_budget", "'off'"),
        ({"reasoning": {"max_tokens": 3}, "unisono": {"reasoning": 4}}, "reasoning.max_tokens", "is 4"),
        ({"reasoning": {"effort": "low"}, "reasoning_effort": "high"}, "reasoning_effort", "'low'"),
        ({"reasoning": {"exclude": True}, "include_reasoning": True}, "include_reasoning", "exclude"),
        ({"reasoning": {"enabled": False, "effort": "high"}}, "reasoning.effort", "reasoning.enabled is false"),
        (
            {"thinking_token_budget": 0, "reasoning_effort": "high"},
            "thinking_token_budget",
            "reasoning_effort is 'high'",
        ),
        ({"thinking_token_budget": 0, "enable_thinking": True}, "thinking_token_budget", "enable_thinking is true"),
        ({"enable_thinking": True, "reasoning_effort": "none"}, "reasoning_effort", "enable_thinking is true"),
        ({"enable_thinking": False, "reasoning": {"max_tokens": 3}}, "enable_thinking", "reasoning.max_tokens is 3"),
        (
            {"reasoning_effort": "low", "unisono": {"reasoning": "off"}},
            "reasoning_effort",
            "unisono.reasoning is 'off'",
        ),
        ({"thinking": {"type": "disabled", "budget_tokens": 3}}, "thinking.type", "thinking.budget_tokens is 3"),
        ({"thinking": {"type": "enabled"}, "reasoning_effort": "none"}, "reasoning_effort", "thinking.type"),
        ({"thinking": {"budget_tokens": 3}, "thinking_token_budget": -1}, "thinking_token_budget", "is 3"),
        ({"thinking": {"type": "much"}}, "thinking.type", "'enabled'"),
    ],
)
def test_what_is_wrong_or_differs_is_refused_by_name(
    served: Served, fields: dict[str, Any], param: str, words: str
) -> None:
    name, message = refused(served, **fields)
    assert name == param
    assert words in message


def test_reasoning_within_the_text_is_refused_only_where_a_member_marks_it(served: Served) -> None:
    given = {"model": "other", "messages": ASK, "max_tokens": 3}
    for fields in ({"separate_reasoning": False}, {"reasoning_format": "none"}):
        assert served.post(CHATS, {**given, **fields}).json()["choices"] == served.post(CHATS, given).json()["choices"]
        assert refused(served, COMPLETIONS, **fields)[0] == next(iter(fields))


def test_log_probabilities_are_those_of_the_answer_whole_and_in_a_stream(served: Served) -> None:
    answer = chat(served, logprobs=True, top_logprobs=2)
    listed = answer["choices"][0]["logprobs"]["content"]
    assert "".join(entry["token"] for entry in listed) == ANSWER
    assert all(entry["token"] for entry in listed)
    stream = served.client().chat.completions.create(  # type: ignore[call-overload]
        model="both", messages=ASK, stream=True, logprobs=True, top_logprobs=2
    )
    found = [entry for chunk in stream if (given := chunk.choices[0].logprobs) for entry in given.content]
    assert [entry.model_dump(exclude_unset=True) for entry in found] == listed


def test_a_trace_has_the_marks_and_the_parts_whole_and_in_a_stream(served: Served) -> None:
    fields = {"unisono": {"trace": True}}
    trace = chat(served, **fields)["unisono"]["choices"][0]["trace"]
    assert [step["mark"] for step in trace if "mark" in step] == ["reasoning_begin", "reasoning_end"]
    stream = served.client().chat.completions.create(  # type: ignore[call-overload]
        model="both", messages=ASK, stream=True, extra_body=fields
    )
    reports = [report for chunk in stream for report in (chunk.model_extra.get("unisono") or {}).get("choices", ())]
    streamed = [step for report in reports for step in report.get("trace") or ()]
    assert [{**step, "seconds": None} for step in streamed] == [{**step, "seconds": None} for step in trace]


def test_several_texts_reason_each_for_itself(served: Served) -> None:
    answer = chat(served, model="both/thinker", n=2, temperature=0.5)
    texts = [(each["message"]["reasoning_content"], each["message"]["content"]) for each in answer["choices"]]
    assert texts == [(THOUGHT, ANSWER)] * 2
    reasoned = [each["usage"]["reasoning"] for each in answer["unisono"]["choices"]]
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == sum(reasoned)


def test_a_completion_loses_no_reasoning(served: Served) -> None:
    given = {"model": "both/thinker", "prompt": QUESTION, "max_tokens": 60}
    answer = served.post(COMPLETIONS, given).json()
    [choice] = answer["choices"]
    assert (choice["reasoning_content"], choice["text"]) == (THOUGHT, ANSWER)
    stream = list(served.client().completions.create(**given, stream=True))
    reasoning = [chunk.choices[0].model_extra.get("reasoning_content", "") for chunk in stream]  # type: ignore[union-attr]
    assert "".join(reasoning) == THOUGHT
    assert "".join(chunk.choices[0].text for chunk in stream) == ANSWER
    hidden = served.post(COMPLETIONS, {**given, "include_reasoning": False}).json()["choices"][0]
    assert "reasoning_content" not in hidden
    assert hidden["text"] == ANSWER
    listed = served.post(COMPLETIONS, {**given, "logprobs": 1}).json()["choices"][0]["logprobs"]
    assert "".join(listed["tokens"]) == ANSWER
    assert listed["text_offset"][0] == 0


def test_a_limit_within_reasoning_leaves_an_empty_answer_of_that_length(served: Served) -> None:
    choice = chat(served, max_tokens=6)["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"] == ""
    assert THOUGHT.startswith(choice["message"]["reasoning_content"])
