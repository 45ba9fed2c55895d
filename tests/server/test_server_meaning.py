"""A field means what it means where it comes from: what would change the answer is not accepted in silence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.fakes import make_fakes
from support.real_server import SAY, A, B, Served, serving
from unisono.backends.fake.backend import FAKE_MODELS

CHAT: dict[str, Any] = {"model": "duo", "messages": SAY, "max_tokens": 6}
COMPLETION: dict[str, Any] = {"model": "duo", "prompt": "the cat", "max_tokens": 6}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    make_fakes()
    ensembles = {
        "duo": {"members": [A, B]},
        "penalised": {"members": [A, B], "sampling": "greedy repetition_penalty:1.3"},
        "members": {"members": [A, B], "sampling": "greedy member_presence_penalty:0.5"},
        "seeded": {"members": [A, B], "sampling": "1.5 seed:3"},
    }
    with serving(ensembles) as server:
        yield server
    FAKE_MODELS.clear()


def chat(served: Served, status: int = 200, **keys: Any) -> Any:
    response = served.post("/v1/chat/completions", {**CHAT, **keys})
    assert response.status_code == status, response.text
    return response.json()


def completion(served: Served, status: int = 200, **keys: Any) -> Any:
    response = served.post("/v1/completions", {**COMPLETION, **keys})
    assert response.status_code == status, response.text
    return response.json()


def refused(served: Served, param: str, *words: str, **keys: Any) -> None:
    error = chat(served, 400, **keys)["error"]
    assert error["param"] == param, error
    assert all(word in error["message"] for word in words), error


COUNTED = [{"repeat_last_n": 2}, {"penalize_nl": False}]


@pytest.mark.parametrize("counted", COUNTED)
@pytest.mark.parametrize(
    "penalty",
    [
        {"presence_penalty": 1},
        {"frequency_penalty": 1},
        {"repetition_penalty": 1.1},
        {"model": "penalised"},
        {"model": "members"},
        {"unisono": {"sampling": "greedy repetition_penalty:1.3"}},
        {"model": "penalised", "unisono": {"lead": "b"}},
    ],
)
def test_what_penalties_count_is_refused_where_the_answers_method_has_one(
    served: Served, counted: dict[str, Any], penalty: dict[str, Any]
) -> None:
    refused(served, next(iter(counted)), "all that was written", **counted, **penalty)


@pytest.mark.parametrize("counted", COUNTED)
@pytest.mark.parametrize(
    "off",
    [
        {},
        {"presence_penalty": 0, "frequency_penalty": 0, "repeat_penalty": 1},
        {"model": "penalised", "repetition_penalty": 1},
        {"model": "penalised", "unisono": {"sampling": "greedy"}},
    ],
)
def test_what_penalties_count_changes_nothing_where_they_are_off(
    served: Served, counted: dict[str, Any], off: dict[str, Any]
) -> None:
    assert chat(served, **off, **counted)["choices"] == chat(served, **off)["choices"]


def test_an_end_that_is_to_stop_a_text_and_to_be_ignored_is_refused(served: Served) -> None:
    ends = sorted(served.service.engines["duo/a"].members[0].speller.vocabulary.end_ids)
    refused(served, "stop_token_ids", "ignore_eos", str(ends[0]), model="duo/a", ignore_eos=True, stop_token_ids=ends)
    for more in ({"stop_token_ids": ends}, {"ignore_eos": True}, {"ignore_eos": True, "stop_token_ids": [0]}):
        chat(served, model="duo/a", **more)


def test_seed_minus_1_draws_another_seed_each_time_and_tells_it(served: Served) -> None:
    for model in ("duo", "seeded"):
        given = {"model": model, "temperature": 1.5, "max_tokens": 12}
        answers = [chat(served, **given, seed=-1) for _ in range(3)]
        seeds = [answer["unisono"]["choices"][0]["seed"] for answer in answers]
        assert len({*seeds}) == 3
        assert not {3, 2**64 - 1} & {*seeds}
        again = chat(served, **given, seed=seeds[0])
        assert again["choices"][0]["message"] == answers[0]["choices"][0]["message"]
    refused(served, "seed", "seed is -1", "unisono.sampling", seed=-1, unisono={"sampling": "1 seed:2"})


@pytest.mark.parametrize(
    "nothing",
    [
        {"top_logprobs": 0},
        {"top_logprobs": 0, "logprobs": False},
        {"guided_decoding_backend": "outlines"},
        {"guided_whitespace_pattern": None},
        {"guided_whitespace_pattern": "[ ]?"},
        {"wish": None, "thinking": None, "Temperature": None},
        {"include_reasoning": True, "separate_reasoning": True, "stream_reasoning": False, "reasoning_format": "auto"},
        {"separate_reasoning": False, "reasoning_format": "none"},
        {"reasoning_format": "raw"},
        {"reasoning_format": "hidden"},
        {"reasoning_format": "deepseek-legacy"},
        {"reasoning_format": "parsed", "include_reasoning": False},
        {"reasoning_format": "deepseek", "reasoning": {"exclude": True}},
        {"thinking_token_budget": 0},
        {"reasoning_budget_tokens": -1},
    ],
)
def test_what_asks_for_nothing_is_accepted(served: Served, nothing: dict[str, Any]) -> None:
    assert chat(served, **nothing)["choices"] == chat(served)["choices"]


def test_false_log_probabilities_of_a_completion_are_none(served: Served) -> None:
    assert completion(served, logprobs=False)["choices"] == completion(served)["choices"]
    assert completion(served, 400, logprobs=True)["error"]["param"] == "logprobs"
    refused(served, "top_logprobs", "logprobs is not true", top_logprobs=1)


@pytest.mark.parametrize(
    "asked",
    [
        {"separate_reasoning": "yes"},
        {"guided_whitespace_pattern": "[ ]?", "guided_json": {"type": "object"}},
    ],
)
def test_what_would_hide_thoughts_or_repeat_them_is_refused(served: Served, asked: dict[str, Any]) -> None:
    refused(served, next(iter(asked)), "not supported", **asked)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("choice", 'start: "so it"'),
        ("choice", []),
        ("choice", ["so it", ""]),
        ("choice", ["so it", 1]),
        ("choice", {"lark": "x"}),
        ("choice", 0),
        ("regex", 0),
        ("regex", ""),
        ("regex", ["a"]),
        ("json", 0),
        ("json", []),
        ("json_object", 0),
        ("json_object", "false"),
        ("disable_fallback", 0),
    ],
)
def test_a_structured_output_of_the_wrong_type_is_refused(served: Served, key: str, value: Any) -> None:
    refused(served, f"structured_outputs.{key}", structured_outputs={key: value})


def test_structured_outputs_that_are_off_change_nothing(served: Served) -> None:
    off = {"json": None, "regex": None, "choice": None, "json_object": False, "disable_fallback": False}
    assert chat(served, structured_outputs=off)["choices"] == chat(served)["choices"]


def test_token_ids_of_a_prompt_are_counted_as_tokens_and_not_as_values(served: Served) -> None:
    cat = served.service.engines["duo/a"].members[0].encoder.tokenizer.encode(" cat")[0]
    answer = completion(served, model="duo/a", prompt=[[cat] * 3_000] * 4, max_tokens=1)
    assert answer["usage"]["prompt_tokens"] == 12_000
    for length in (12_000, 150_000):  # of one prompt: it is longer than the context
        error = completion(served, 400, model="duo/a", prompt=[cat] * length)["error"]
        assert error["code"] == "context_length_exceeded", error


@pytest.mark.parametrize(
    "prompt", [[True] * 12_000, [[1]] * 12_000, [[]] * 12_000, [1] * 12_000 + ["a"], ["a"] * 12_000]
)
def test_other_values_of_a_prompt_have_their_limit(served: Served, prompt: list[Any]) -> None:
    assert completion(served, 413, model="duo/a", prompt=prompt)["error"]["code"] == "too_large"
