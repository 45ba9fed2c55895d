"""What clients send in every request and cannot change the answer is accepted; what it asks for is done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from support.fakes import make_fakes
from support.real_server import SAY, A, B, Served, ask, serving, text
from support.tool_templates import BARE, TAGGED
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.errors import SpecError
from unisono.server.errors import Refusal
from unisono.server.limits import ServerLimits
from unisono.server.messages import read_messages
from unisono.server.middleware import Keys, read_origins

READS = (
    "{% if enable_thinking is defined %}[{{ enable_thinking }} {{ reasoning_effort }}]{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{% if m.name %}{{ m.name }}: {% endif %}"
    "{% if m.reasoning_content %}({{ m.reasoning_content }}){% endif %}{{ m.content }}{{ eos_token }}{% endfor %}"
    "<|assistant|>"
)
GRANITE = "{% if thinking %}Think first.{% endif %}" + READS.partition("{% endif %}")[2]
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"$ref": "#/$defs/City"}},
            "$defs": {"City": {"enum": ["Sofia", "日本"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
PING: dict[str, Any] = {"type": "function", "function": {"name": "ping"}}
CITIES = ['{"city": "Sofia"}', '{"city": "日本"}']


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    make_fakes()
    ensembles = {
        "duo": {"members": [A, B]},
        "reads": {"members": [{**each, "chat_template": READS} for each in (A, B)]},
        "granite": {"members": [{**each, "chat_template": GRANITE} for each in (A, B)]},
        "half": {"members": [{**A, "chat_template": READS}, B]},
        "calls": {"members": [{**each, "chat_template": TAGGED} for each in (A, B)]},
        "bare": {"members": [{**each, "chat_template": BARE} for each in (A, B)]},
        "drawn": {"members": [A, B], "sampling": "0.7 top_k:3 min_p:0.1 repetition_penalty:1.2 seed:3"},
    }
    with serving(ensembles, limits=ServerLimits(output=90)) as server:
        yield server
    FAKE_MODELS.clear()


def prompt_tokens(served: Served, **keys: Any) -> dict[str, int]:
    found: dict[str, int] = ask(served, **{"max_tokens": 1, **keys})["unisono"]["choices"][0]["usage"]["prompt_tokens"]
    return found


@pytest.mark.parametrize(
    "change",
    [
        {"prompt_cache_key": "x", "store": True, "metadata": {"a": "b"}, "service_tier": "priority"},
        {"reasoning_effort": "low", "verbosity": "high", "parallel_tool_calls": False},
        {"tool_choice": "auto", "tools": []},
        {"tool_choice": "none", "tools": None},
        {"stop": ""},
        {"stop": ["", ""]},
        {"stop": [None], "logprobs": 0, "top_logprobs": 0, "reasoning_effort": "ultra"},
        {"stream_options": {"include_usage": True, "include_obfuscation": True, "continuous_usage_stats": False}},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"chat_template_kwargs": {"add_generation_prompt": True, "continue_final_message": False, "documents": None}},
        {"chat_template_kwargs": {"tools": None, "bos_token": None, "self": 1, "context": 2, "args": 3}},
        {"top_k": -1, "min_p": 0, "typical_p": 1, "repetition_penalty": 1, "n": 1, "best_of": 1},
        {"mirostat": 0, "mirostat_tau": 5, "xtc_probability": 0.0, "dry_multiplier": 0, "dry_sequence_breakers": ["x"]},
        {"repeat_penalty": 1.0, "repeat_last_n": 64, "cache_prompt": True, "timings_per_token": True, "id_slot": -1},
        {"ignore_eos": False, "min_tokens": 0, "skip_special_tokens": True, "stop_token_ids": [], "echo": False},
        {"add_generation_prompt": True, "continue_final_message": False, "logits_processors": [], "prediction": {}},
        {"user": "x", "safety_identifier": "y", "logit_bias": {}, "seed": None, "max_completion_tokens": 12},
        {"top_k": 40, "top_p": 0.5, "typical_p": 0.3, "min_p": 0.2, "seed": 5},  # the file is greedy
        {"max_tokens": 12.0, "n": 1.0, "top_k": 40.0, "seed": 3.0, "temperature": 0},
        {"user": {"id": "x", "role": "user"}, "safety_identifier": 3, "reasoning_effort": "", "logit_bias": []},
        {"stream_options": [], "chat_template_kwargs": [], "stop": [], "tools": [], "functions": [], "extra_body": {}},
        {"timeout": 60, "keep_alive": "5m", "chat_id": "x", "session_id": "y", "usage": {"include": True}},
        {
            "num_ctx": 4096,
            "truncation_length": 0,
            "n_keep": 5,
            "incremental_output": False,
            "prompt": "",
            "provider": {"order": ["x"]},
            "transforms": [],
            "reasoning": {},
        },
        {
            "do_sample": None,
            "num_beams": 1,
            "early_stopping": True,
            "length_penalty": 1.2,
            "truncation": "auto",
            "typical": 1,
            "tfs": 1.0,
            "rep_pen": 1,
            "rep_pen_range": 9,
        },
        {
            "stopping_strings": [],
            "ban_eos_token": False,
            "sampler_order": [],
            "smoothing_factor": 0,
            "banned_tokens": "",
        },
        {"response_format": {"type": "text", "json_schema": None}, "enable_thinking": False},
        {"reasoning": {"summary": "auto"}, "thinking": {"type": "adaptive"}, "slot_id": 3, "include_usage": True},
        {
            "reasoning": {"effort": None, "generate_summary": "auto", "later": None},
            "thinking": {"type": None, "later": None},
            "stream_options": {"include_usage": None, "later": None},
            "unisono": {"gate": None, "later": None},
        },
        {"truncation": "disabled", "background": False, "include": [], "max_tool_calls": 3, "nvext": {}},
        {"details": False, "watermark": False, "return_full_text": False, "top_n_tokens": 0, "tags": ["a"]},
        {"num_retries": 2, "caching": True, "fallbacks": [], "litellm_metadata": {"a": 1}, "adapter_id": None},
        {"stop": "never", "stop_sequences": ["never"]},
        {"temperature": 1e-9, "seed": 1},
    ],
)
def test_what_cannot_change_the_answer_is_accepted(served: Served, change: dict[str, Any]) -> None:
    assert text(served, **change) == text(served)


LIMITS = ("n_predict", "max_new_tokens", "num_predict", "max_output_tokens")


@pytest.mark.parametrize(
    ("named", "extension"),
    [
        ({"temperature": 0.8, "seed": 1, "top_k": 2}, "0.8 seed:1 top_k:2"),
        ({"temperature": 0.8, "seed": 1, "min_p": 0.4}, "0.8 seed:1 min_p:0.4"),
        ({"temperature": 0.8, "seed": 1, "typical_p": 0.3}, "0.8 seed:1 typical_p:0.3"),
        ({"repetition_penalty": 1.5}, "repetition_penalty:1.5"),
        ({"repeat_penalty": 1.5}, "repetition_penalty:1.5"),
        ({"n_predict": 5, "max_tokens": None}, "greedy"),
        ({"max_new_tokens": 5, "max_tokens": None}, "greedy"),
        ({"num_predict": 5, "max_tokens": None}, "greedy"),
        ({"max_output_tokens": 5, "max_tokens": None}, "greedy"),
        ({"temperature": 0.8, "random_seed": 1, "typical": 0.3}, "0.8 seed:1 typical_p:0.3"),
        ({"rep_pen": 1.5}, "repetition_penalty:1.5"),
    ],
)
def test_what_other_servers_call_by_a_name_is_done(served: Served, named: dict[str, Any], extension: str) -> None:
    limit = next((named[name] for name in LIMITS if name in named), 12)
    assert text(served, **named) == text(served, unisono={"sampling": extension}, max_tokens=limit)
    body = {"model": "duo", "prompt": "the cat", "max_tokens": 12}
    texts = [
        served.post("/v1/completions", {**body, **more}).json()["choices"][0]["text"]
        for more in (named, {"unisono": {"sampling": extension}, "max_tokens": limit})
    ]
    assert texts[0] == texts[1]


LABELLED = {"name": "x", "description": None, "strict": None}
GRAMMAR = '%llguidance {}\n\nstart: "so it" | "日本"'
"""As guidance writes one."""
GUIDANCES = """%llguidance {}

start: a

a[capture]: %json {"properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "type": "object", "x-guidance": {
  "whitespace_flexible": false, "whitespace_pattern": null, "item_separator": ", ", "key_separator": ": ",
  "coerce_one_of": true, "lenient": false}}
"""
SCHEMA = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}


@pytest.mark.parametrize(
    ("named", "own"),
    [
        ({"guided_json": SCHEMA}, {"json_schema": SCHEMA}),
        ({"guided_json": json.dumps(SCHEMA)}, {"json_schema": SCHEMA}),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}}, {"json_schema": SCHEMA}),
        ({"response_format": {"type": "json_schema", "schema": SCHEMA}}, {"json_schema": SCHEMA}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {**LABELLED, "schema": SCHEMA}}},
            {"json_schema": SCHEMA},
        ),
        ({"json_schema": SCHEMA}, {"json_schema": SCHEMA}),
        ({"structured_outputs": {"json": SCHEMA, "regex": None}}, {"json_schema": SCHEMA}),
        ({"structured_outputs": {"json_object": True}}, "json_object"),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, {"json_schema": SCHEMA}),
        ({"response_format": {"type": "json_object", "schema": None}}, "json_object"),
        ({"guided_regex": "(so )+it"}, {"regex": "(so )+it"}),
        ({"regex": "(so )+it"}, {"regex": "(so )+it"}),
        ({"structured_outputs": {"regex": "(so )+it"}}, {"regex": "(so )+it"}),
        *(({name: GRAMMAR}, {"lark": GRAMMAR}) for name in ("guided_grammar", "grammar", "grammar_string")),
        ({"structured_outputs": {"grammar": GRAMMAR}}, {"lark": GRAMMAR}),
        ({"guided_grammar": GUIDANCES, "structured_outputs": {"grammar": GUIDANCES}}, {"lark": GUIDANCES}),
        ({"grammar": GRAMMAR, "grammar_string": "", "guided_grammar": None}, {"lark": GRAMMAR}),
        ({"grammar": GRAMMAR, "grammar_string": GRAMMAR, "guided_grammar": GRAMMAR}, {"lark": GRAMMAR}),
        ({"grammar": GRAMMAR, "guided_grammar": ""}, {"lark": GRAMMAR}),
        ({"grammar": "\ufeff" + GRAMMAR}, {"lark": GRAMMAR}),
        ({"structured_outputs": {"grammar": "\ufeff" + GRAMMAR}}, {"lark": GRAMMAR}),
        ({"guided_json": "\ufeff" + json.dumps(SCHEMA), "json_schema": SCHEMA}, {"json_schema": SCHEMA}),
        (
            {"guided_json": SCHEMA, "response_format": {"type": "json_object", "schema": SCHEMA}},
            {"json_schema": SCHEMA},
        ),
        ({"guided_grammar": GRAMMAR, "structured_outputs": {"grammar": GRAMMAR}}, {"lark": GRAMMAR}),
        ({"guided_json": SCHEMA, "structured_outputs": {"json": SCHEMA}}, {"json_schema": SCHEMA}),
        ({"guided_choice": ["so it", 'a "b"']}, {"lark": 'start: "so it" | "a \\"b\\""'}),
        ({"structured_outputs": {"choice": ["so it", "日本"]}}, {"lark": 'start: "so it" | "日本"'}),
    ],
)
def test_other_names_of_a_constraint_are_constraints(served: Served, named: dict[str, Any], own: Any) -> None:
    assert text(served, max_tokens=30, **named) == text(served, max_tokens=30, unisono={"constraint": own})


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"guided_json": SCHEMA, "regex": "a"}, "guided_json", "regex are given"),
        ({"guided_json": SCHEMA, "json_schema": {**SCHEMA, "title": "x"}}, "guided_json", "json_schema are given"),
        ({"guided_regex": "a", "unisono": {"constraint": "regex:b"}}, "unisono.constraint", "guided_regex"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "response_format", "guided_regex"),
        ({"response_format": {"type": "json_object", "schema": {"type": "wish"}}}, "response_format", "wish"),
        ({"guided_regex": "("}, "guided_regex", "regex"),
        ({"guided_json": "{"}, "guided_json", "not JSON"),
        ({"guided_choice": []}, "guided_choice", "not be empty"),
        ({"structured_outputs": {"grammar": "x"}}, "structured_outputs.grammar", "unisono.constraint"),
        ({"structured_outputs": {"grammar": 3}}, "structured_outputs.grammar", "%llguidance"),
        ({"guided_grammar": 'root ::= "a"'}, "guided_grammar", "%llguidance"),
        ({"guided_grammar": 'root ::= "a"'}, "guided_grammar", "gbnf_to_lark"),
        ({"grammar": 'root ::= "a"'}, "grammar", "gbnf_to_lark"),
        ({"guided_grammar": '%llguidance {"nope": 1}\nstart: "a"'}, "guided_grammar", "'nope'"),
        ({"guided_grammar": GRAMMAR, "grammar": GUIDANCES}, "guided_grammar", "grammar"),
        ({"guided_grammar": 'root ::= "a"', "grammar": GRAMMAR}, "guided_grammar", "grammar"),
        ({"guided_json": SCHEMA, "json_schema": "{"}, "json_schema", "not JSON"),
        ({"guided_grammar": "%llguidance {}\nstart: ("}, "guided_grammar", "guided_grammar"),
        ({"grammar": 'root ::= "a"'}, "grammar", "unisono.constraint"),
        ({"structured_outputs": {"choice": 3}}, "structured_outputs.choice", "list"),
    ],
)
def test_a_wrong_constraint_is_named_as_it_was_given(
    served: Served, change: dict[str, Any], param: str, words: str
) -> None:
    error = ask(served, 400, **change)["error"]
    assert (error["param"], words in error["message"]) == (param, True), error


def test_a_choice_may_be_of_thousands_of_words(served: Served) -> None:
    words = [*(f"word {number}" for number in range(3000)), *("🎉" * number for number in range(1, 4))]
    answers = [text(served, max_tokens=30, guided_choice=words, temperature=2, seed=seed) for seed in range(3)]
    assert set(answers) <= {*words}
    assert text(served, max_tokens=30, guided_choice=words[-3:]) in words[-3:]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["guided_grammar", "unisono.constraint"])
def test_a_constraint_that_proves_wrong_while_a_text_is_written_is_named(
    served: Served, name: str, stream: bool
) -> None:
    grammar = '%llguidance {"allow_invalid_utf8": true}\nstart: /so it(?-u:\\xff)/'  # of which no piece has the end
    given = {"unisono": {"constraint": {"lark": grammar}}} if name == "unisono.constraint" else {name: grammar}
    body = {"model": "duo", "messages": SAY, "max_tokens": 30, "stream": stream, **given}
    response = served.post("/v1/chat/completions", body)
    [error] = [
        json.loads(line.removeprefix("data: "))["error"] for line in response.text.splitlines() if "error" in line
    ]
    assert error["param"] == name
    assert "cannot be kept any further" in error["message"]


def test_end_waits_for_the_least_number_of_pieces(served: Served) -> None:
    column = str(served.service.engines["duo"].union.end)
    ended = {"logit_bias": {column: 100}, "max_tokens": 9}
    for least, reason in ((0, "stop"), (4, "stop"), (9, "length")):
        answer = ask(served, **ended, min_tokens=least)
        assert answer["usage"]["completion_tokens"] == least
        assert answer["choices"][0]["finish_reason"] == reason
    for more in ({}, {"speculate": "a:3"}, {"gate": "confidence:0.9", "lead": "b"}, {"sampling": "1 seed:2"}):
        answer = ask(served, **ended, ignore_eos=True, unisono=more)
        assert answer["usage"]["completion_tokens"] == 9
    bound = ask(served, max_tokens=20, ignore_eos=True, unisono={"constraint": "regex:so it"})
    assert bound["choices"][0]["message"]["content"] == "so it"


def test_stops_and_counts_have_other_names(served: Served) -> None:
    whole = text(served)
    for name in ("stop", "stop_sequences", "stopping_strings"):
        assert text(served, **{name: [whole[3:5]]}) == whole[:3]
    assert len(ask(served, num_return_sequences=2)["choices"]) == 2
    for name, value, own in (("min_new_tokens", 12, "min_tokens"), ("ban_eos_token", True, "ignore_eos")):
        assert ask(served, **{name: value})["choices"] == ask(served, **{own: value})["choices"]


def test_off_replaces_what_the_file_says(served: Served) -> None:
    off = {"top_k": 0, "min_p": 0, "repetition_penalty": 1, "max_tokens": 40}
    assert text(served, model="drawn", **off) == text(served, unisono={"sampling": "0.7 seed:3"}, max_tokens=40)
    assert text(served, model="drawn", max_tokens=40) != text(served, model="drawn", **off)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"max_tokens": 3, "max_completion_tokens": 4}, ("max_tokens", "max_completion_tokens")),
        ({"max_tokens": 3, "n_predict": 4}, ("max_tokens", "n_predict")),
        ({"max_tokens": None, "n_predict": 3, "max_completion_tokens": 4}, ("max_completion_tokens", "n_predict")),
        ({"repetition_penalty": 1.1, "repeat_penalty": 1.2}, ("repetition_penalty", "repeat_penalty")),
        ({"n": 2, "best_of": 3}, ("n", "best_of")),
        ({"stop": "a", "stop_sequences": ["a", "b"]}, ("stop", "stop_sequences")),
        ({"temperature": 0.5, "unisono": {"sampling": "0.7"}}, ("temperature", "unisono.sampling")),
        ({"top_k": 5, "temperature": 1, "unisono": {"draw": "1 top_k:6"}}, ("top_k", "unisono.draw")),
        ({"reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "high"}}, ("reasoning_effort",) * 2),
        ({"enable_thinking": True, "chat_template_kwargs": {"enable_thinking": False}}, ("enable_thinking",) * 2),
    ],
)
def test_two_names_of_one_thing_with_different_values_are_both_named(
    served: Served, change: dict[str, Any], names: tuple[str, str]
) -> None:
    error = ask(served, 400, **change)["error"]
    assert error["param"] == names[0]
    assert all(name in error["message"] for name in names)


def test_two_names_with_the_same_value_are_one(served: Served) -> None:
    ask(served, max_tokens=3, max_completion_tokens=3, n_predict=3, repetition_penalty=1.1, repeat_penalty=1.1)
    ask(served, n=2, best_of=2, temperature=1, seed=2, unisono={"sampling": "1 seed:2"})
    ask(
        served,
        max_tokens="3",
        n_predict=3,
        temperature="1",
        random_seed="2",
        seed=2,
        ignore_eos=True,
        ban_eos_token="true",
    )


@pytest.mark.parametrize(
    ("change", "param", "way"),
    [
        ({"mirostat": 2}, "mirostat", "temperature"),
        ({"xtc_probability": 0.5}, "xtc_probability", "min_p"),
        ({"dry_multiplier": 0.8}, "dry_multiplier", "repetition_penalty"),
        ({"repeat_last_n": 64, "repeat_penalty": 1.1}, "repeat_last_n", "all that was written"),
        ({"min_tokens": 13}, "min_tokens", "12 pieces"),
        ({"min_tokens": -1}, "min_tokens", "0 or more"),
        ({"use_beam_search": True}, "use_beam_search", "beam_width"),
        ({"best_of": 3}, "best_of", "n texts"),
        ({"stop_token_ids": [2]}, "stop_token_ids", "use stop"),
        ({"model": "duo/a", "stop_token_ids": [10**6]}, "stop_token_ids", "numbers from 0"),
        ({"grammar": "root ::= x"}, "grammar", "unisono.constraint"),
        ({"chat_template": "x"}, "chat_template", "file"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs", "messages"),
        ({"chat_template_kwargs": {"tools": [{}]}}, "chat_template_kwargs", "tools"),
        ({"chat_template_kwargs": {"bos_token": "x"}}, "chat_template_kwargs", "bos_token"),
        ({"chat_template_kwargs": {"eos_token": ""}}, "chat_template_kwargs", "eos_token"),
        ({"chat_template_kwargs": {"additional_special_tokens": []}}, "chat_template_kwargs", "special_tokens"),
        ({"chat_template_kwargs": {"raise_exception": 1}}, "chat_template_kwargs", "raise_exception"),
        ({"chat_template_kwargs": {"add_generation_prompt": False}}, "add_generation_prompt", "continue_final_message"),
        ({"chat_template_kwargs": {"continue_final_message": True}}, "continue_final_message", "the role 'user'"),
        ({"chat_template_kwargs": {"documents": [{"text": "x"}]}}, "chat_template_kwargs.documents", "message"),
        ({"chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs.chat_template", "file"),
        ({"reasoning_effort": "much"}, "reasoning_effort", "'low'"),
        ({"temperature": 101}, "temperature", "100"),
        ({"top_k": -2}, "top_k", "-1 or more"),
        ({"repeat_penalty": 0}, "repeat_penalty", "more than 0"),
        ({"n_predict": -2, "max_tokens": None}, "n_predict", "-1 or more"),
        ({"wish": 1}, "wish", "unknown field"),
        ({"max_length": 5}, "max_length", "max_tokens"),
        ({"custom_stopping_strings": ["x"]}, "custom_stopping_strings", "stop"),
        ({"max_new_tokens": 5}, "max_tokens", "max_new_tokens"),
        ({"do_sample": True}, "do_sample", "temperature"),
        ({"rep_pen_range": 64, "repetition_penalty": 1.1}, "rep_pen_range", "all that was written"),
        ({"extra_body": [1]}, "extra_body", "top level"),
        ({"format": "json"}, "format", "response_format"),
    ],
)
def test_what_would_change_the_answer_is_refused_with_the_way_out(
    served: Served, change: dict[str, Any], param: str, way: str
) -> None:
    error = ask(served, 400, **change)["error"]
    assert error["param"] == param
    assert way in error["message"]


def test_ids_that_end_a_text_anyway_may_stop_a_member_alone(served: Served) -> None:
    encoder = served.service.engines["duo/a"].members[0].encoder
    ends = sorted(encoder.speller.vocabulary.end_ids)
    assert text(served, model="duo/a", stop_token_ids=[*ends, 0]) == text(served, model="duo/a")
    written = encoder.tokenizer.encode(" cat")[0]
    assert "use stop" in ask(served, 400, model="duo/a", stop_token_ids=[written])["error"]["message"]


@pytest.mark.parametrize(
    ("given", "header"),
    [
        ({"max_tokens": 10**6}, "max_tokens=90"),
        ({"max_tokens": -1}, "max_tokens=90"),
        ({"max_tokens": None, "max_completion_tokens": 91}, "max_completion_tokens=90"),
        ({"max_tokens": None, "n_predict": -1}, "max_tokens=90"),
        ({"max_tokens": 90}, None),
        ({"max_tokens": None}, None),
    ],
)
def test_a_limit_that_is_too_high_is_clamped_and_said(
    served: Served, given: dict[str, Any], header: str | None
) -> None:
    for stream in (False, True):
        body = {"model": "duo", "messages": SAY, "stream": stream, **given}
        response = served.post("/v1/chat/completions", body)
        assert response.status_code == 200, response.text
        assert response.headers.get("x-unisono-clamped") == header


PAST: dict[str, Any] = {"role": "assistant", "content": "yes"}
CALL = {"id": "probe0001", "type": "function", "function": {"name": "ping", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("message", "plain"),
    [
        ({**PAST, "annotations": [], "tool_calls": [], "refusal": None, "audio": None, "function_call": None}, PAST),
        ({**PAST, "reasoning_content": "hm", "reasoning": "hm", "provider_specific_fields": {"a": [1, None]}}, PAST),
        ({**PAST, "id": "msg_1", "name": None, "refusal": "", "index": 3, "thinking_blocks": []}, PAST),
        ({**PAST, "content": [{"type": "text", "text": "yes", "cache_control": {"type": "ephemeral"}}]}, PAST),
        ({**PAST, "name": "Anna"}, PAST),
        ({"role": "user", "content": "yes", "name": "Anna"}, {"role": "user", "content": "yes"}),
        ({"role": "developer", "content": "yes"}, {"role": "system", "content": "yes"}),
        ({**PAST, "content": None}, {**PAST, "content": ""}),
        ({**PAST, "content": None, "refusal": "yes", "audio": None}, PAST),
        ({**PAST, "content": "", "refusal": "yes"}, PAST),
        ({"role": "assistant", "refusal": "yes"}, PAST),
        ({**PAST, "refusal": "yes"}, PAST),
        ({**PAST, "content": [{"type": "refusal", "refusal": "yes"}]}, PAST),
        ({**PAST, "content": [{"type": "output_text", "text": "yes", "annotations": []}]}, PAST),
        ({"role": "user", "content": [{"type": "input_text", "text": "yes"}]}, {"role": "user", "content": "yes"}),
        ({"role": "user", "content": ["y", {"type": "text", "text": "es"}]}, {"role": "user", "content": "yes"}),
        ({"role": "system", "content": None}, {"role": "system", "content": ""}),
    ],
)
def test_unknown_keys_of_a_past_message_change_nothing(
    served: Served, message: dict[str, Any], plain: dict[str, Any]
) -> None:
    given, wanted = ([each, *SAY] for each in (message, plain))
    assert text(served, messages=given) == text(served, messages=wanted)
    assert prompt_tokens(served, messages=given) == prompt_tokens(served, messages=wanted)


def test_a_key_that_a_template_reads_is_read_and_a_special_token_in_it_is_text(served: Served) -> None:
    plain, more = [PAST, *SAY], [{**PAST, "name": "Anna", "reasoning_content": "<|user|>"}, *SAY]
    for model, readers in (("duo", ""), ("half", "a"), ("reads", "ab")):
        before, after = (prompt_tokens(served, model=model, messages=each) for each in (plain, more))
        assert {name for name in before if before[name] != after[name]} == set(readers)
    encoder = served.service.engines["reads"].members[0].encoder
    message: Any = {**PAST, "extra": {"reasoning_content": "<|user|>"}}
    ids = encoder.encode_messages([message, *SAY])  # type: ignore[list-item]
    user = encoder.tokenizer.encode_rendered("<|user|>")
    assert len(user) == 1
    assert ids.count(user[0]) == 1


@pytest.mark.parametrize(
    "call",
    [
        {**CALL, "index": 0, "custom": None},
        {**CALL, "provider_specific_fields": {"a": [1]}, "extra_content": None},
        {**CALL, "function": {**CALL["function"], "parsed_arguments": {"a": 1}, "strict": None}},
        {**CALL, "function": {**CALL["function"], "arguments": ""}},
        {**CALL, "function": {**CALL["function"], "arguments": None}},
        {**CALL, "function": {**CALL["function"], "arguments": "null"}},
        {**CALL, "function": {**CALL["function"], "arguments": {}}},
        {key: value for key, value in CALL.items() if key != "type"},
    ],
)
def test_unknown_keys_of_a_past_call_change_nothing(served: Served, call: dict[str, Any]) -> None:
    answered = {"role": "tool", "tool_call_id": "probe0001", "content": "pong"}
    given, wanted = ([*SAY, {**PAST, "tool_calls": [each]}, answered] for each in (call, CALL))
    sides = [{"model": "calls", "messages": each, "tools": [PING]} for each in (given, wanted)]
    assert prompt_tokens(served, **sides[0]) == prompt_tokens(served, **sides[1])
    assert text(served, **sides[0]) == text(served, **sides[1])


@pytest.mark.parametrize("arguments", ['{"city": "Par', "[1, 2]", [1, 2], "7"])
def test_past_arguments_that_are_no_object_are_read_unless_strict(served: Served, arguments: Any) -> None:
    made = {**CALL, "function": {**CALL["function"], "arguments": arguments}}
    messages = [*SAY, {**PAST, "tool_calls": [made]}, {"role": "tool", "tool_call_id": "probe0001", "content": "no"}]
    assert ask(served, model="calls", messages=messages, tools=[PING])
    if isinstance(arguments, str):
        with pytest.raises(Refusal, match="not the JSON of an object"):
            read_messages([*SAY, {"role": "assistant", "tool_calls": [made]}], strict=True)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (
            [{**PAST, "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "probe0001", "content": None}],
            [{**PAST, "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "probe0001", "content": ""}],
        ),
        ([{"role": "assistant", "reasoning_content": "x"}], [{"role": "assistant", "content": ""}]),
    ],
)
def test_past_messages_without_content_are_empty(served: Served, given: list[Any], wanted: list[Any]) -> None:
    sides = [{"model": "calls", "messages": [*SAY, *each, *SAY], "tools": [PING]} for each in (given, wanted)]
    assert text(served, **sides[0]) == text(served, **sides[1])


@pytest.mark.parametrize(
    "tool",
    [
        {**PING, "cache_control": {"type": "ephemeral"}},
        {**PING, "id": "x", "custom": None, "function": {**PING["function"], "strict": None}},
        {**PING, "function": {**PING["function"], "cache_control": {"type": "ephemeral"}, "type": "function"}},
        {**PING, "function": {**PING["function"], "returns": {"type": "string"}, "annotations": {}, "x-names": 3}},
        {**PING, "function": {**PING["function"], "description": None, "parameters": None, "defer_loading": True}},
        {"function": PING["function"]},
    ],
)
def test_what_clients_add_to_a_tool_changes_nothing(served: Served, tool: dict[str, Any]) -> None:
    sides = [{"model": "calls", "tools": [each]} for each in (tool, PING)]
    assert text(served, **sides[0]) == text(served, **sides[1])
    assert prompt_tokens(served, **sides[0]) == prompt_tokens(served, **sides[1])
    chosen = [ask(served, **side, tool_choice="required", max_tokens=80) for side in sides]
    assert call_of(chosen[0]) == call_of(chosen[1])


@pytest.mark.parametrize("name", ["calendar.read", "server/list-files", "ns:tool", "查天气", "für_alle"])
def test_a_tool_may_have_a_name_as_other_protocols_have_it(served: Served, name: str) -> None:
    tool = {"type": "function", "function": {"name": name}}
    for model in ("calls", "bare"):
        answer = ask(
            served, model=model, tools=[tool], tool_choice="required", max_tokens=90, parallel_tool_calls=False
        )
        [call] = answer["choices"][0]["message"]["tool_calls"]
        assert call["function"] == {"name": name, "arguments": "{}"}
    ask(served, model="calls", tools=[tool, {"type": "function", "function": {"name": "x" * 128}}])


def test_a_tool_message_may_have_the_name_of_its_call(served: Served) -> None:
    calling = {"role": "assistant", "content": None, "tool_calls": [CALL], "annotations": []}
    answered = {"role": "tool", "tool_call_id": "probe0001", "content": "pong"}
    tokens = [
        prompt_tokens(served, model="calls", messages=[*SAY, calling, {**answered, **more}], tools=[PING])
        for more in ({}, {"name": "ping"}, {"name": ""}, {"name": None, "artifact": None, "status": "success"})
    ]
    assert tokens == tokens[:1] * 4
    messages = [*SAY, calling, {**answered, "name": "pong"}]
    error = ask(served, 400, model="calls", messages=messages, tools=[PING])["error"]
    assert error["param"] == "messages"
    assert "leave the name out" in error["message"]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "messages[0].content[0].type",
        ),
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, "messages[0].content[0].type"),
        ({**PAST, "audio": {"id": "x"}}, "messages[0].audio"),
        ({**PAST, "refusal": "no"}, "messages[0].refusal"),  # the content is another text
        ({"role": "user", "content": "x", "refusal": "no"}, "messages[0].refusal"),
        ({**PAST, "content": [{"type": "refusal", "refusal": 3}]}, "messages[0].content[0].text"),
        ({**PAST, "function_call": "x"}, "messages[0].function_call"),
        ({"role": "user", "content": {"city": "x"}}, "messages[0].content"),
        ({"role": "user", "content": "x", "images": ["aGk="]}, "messages[0].images"),
        ({"role": "user", "content": "x", "tool_call_id": "y"}, "messages[0].tool_call_id"),
    ],
)
def test_content_that_cannot_be_honoured_is_refused_by_name(
    served: Served, message: dict[str, Any], param: str
) -> None:
    error = ask(served, 400, messages=[message, *SAY])["error"]
    assert error["param"] == param
    assert "did you mean" not in error["message"]


def test_reasoning_is_read_by_either_name(served: Served) -> None:
    given = [[{**PAST, name: "hm"}, *SAY] for name in ("reasoning_content", "reasoning")]
    tokens = [prompt_tokens(served, model="reads", messages=each) for each in (*given, [PAST, *SAY])]
    assert tokens[0] == tokens[1] != tokens[2]


@pytest.mark.parametrize(("effort", "thinks"), [("none", False), ("low", True), ("max", True)])
def test_templates_that_only_know_whether_to_think_are_told(served: Served, effort: str, thinks: bool) -> None:
    kwargs = {"enable_thinking": thinks, "reasoning_effort": effort}
    tokens = [
        prompt_tokens(served, model="reads", **each)
        for each in ({"reasoning_effort": effort}, {"chat_template_kwargs": kwargs})
    ]
    assert tokens[0] == tokens[1]
    other = {"reasoning_effort": effort, "chat_template_kwargs": {"enable_thinking": not thinks}}
    assert ask(served, 400, model="reads", **other)["error"]["param"] == "reasoning_effort"


@pytest.mark.parametrize(
    ("fields", "thinks"),
    [
        ({"reasoning": {"enabled": False}}, False),
        ({"reasoning": {"enabled": True}}, True),
        ({"thinking_token_budget": 0}, False),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, True),
        ({"thinking_token_budget": 0, "chat_template_kwargs": {"enable_thinking": False}}, False),
    ],
)
def test_templates_are_told_whether_to_think_by_any_field(served: Served, fields: dict[str, Any], thinks: bool) -> None:
    told = prompt_tokens(served, model="reads", enable_thinking=thinks)
    assert prompt_tokens(served, model="reads", **fields) == told
    other = prompt_tokens(served, model="granite", chat_template_kwargs={"thinking": thinks})
    assert prompt_tokens(served, model="granite", **fields) == other


@pytest.mark.parametrize("variables", [{"enable_thinking": "false"}, {"thinking": "off"}, {"keep_history": " True"}])
def test_a_text_is_no_truth(served: Served, variables: dict[str, Any]) -> None:
    """Templates take every text that is not empty for true, "false" too: nothing would say that it was not read."""
    error = ask(served, 400, model="reads", chat_template_kwargs=variables)["error"]
    [(name, value)] = variables.items()
    assert error["param"] == "chat_template_kwargs"
    assert f"holds {name}: '{value}', a text, which templates take for true" in error["message"]
    assert "without quotation marks" in error["message"]
    for truth in (True, False, None):
        ask(served, model="reads", chat_template_kwargs={**dict.fromkeys(variables, truth), "style": "on"})


def test_ids_of_past_calls_may_be_numbers(served: Served) -> None:
    call = {"id": 1, "type": "function", "function": {"name": "f", "arguments": "{}"}}
    given = [
        [*SAY, {"role": "assistant", "tool_calls": [{**call, "id": its}]}, {"role": "tool", "tool_call_id": its}]
        for its in (1, "1")
    ]
    texts = [
        prompt_tokens(served, model="calls", messages=[*each[:-1], {**each[-1], "content": "x"}]) for each in given
    ]
    assert texts[0] == texts[1]


def test_an_empty_last_message_is_a_message(served: Served) -> None:
    for role in ("assistant", "user"):
        assert text(served, messages=[*SAY, {"role": role, "content": ""}])
    assert "empty" in ask(served, 400, messages=[{"role": "user", "content": ""}])["error"]["message"]


def test_whether_to_think_may_be_said_at_the_top_level(served: Served) -> None:
    for thinks in (True, False):
        sides: list[dict[str, Any]] = [
            {"enable_thinking": thinks},
            {"chat_template_kwargs": {"enable_thinking": thinks}},
        ]
        tokens = [prompt_tokens(served, model="reads", **each) for each in sides]
        assert tokens[0] == tokens[1] != prompt_tokens(served, model="reads")


def test_variables_reach_the_templates_that_read_them(served: Served) -> None:
    kwargs = {"enable_thinking": True, "unread": {"deep": ["<|user|>"]}}
    for model, readers in (("duo", ""), ("half", "a"), ("reads", "ab")):
        before = prompt_tokens(served, model=model)
        after = prompt_tokens(served, model=model, chat_template_kwargs=kwargs, reasoning_effort="low")
        assert {name for name in before if before[name] != after[name]} == set(readers)
    tokens = prompt_tokens(
        served, model="reads", chat_template_kwargs={"enable_thinking": True, "reasoning_effort": "low"}
    )
    assert tokens == prompt_tokens(
        served, model="reads", chat_template_kwargs={"enable_thinking": True}, reasoning_effort="low"
    )


def forced(words: str) -> dict[str, Any]:
    return {"logit_bias": {}, "unisono": {"constraint": {"lark": f"start: {json.dumps(words)}"}}}


def call_of(answer: Any) -> tuple[str | None, list[str]]:
    message = answer["choices"][0]["message"]
    return message["content"], [call["function"]["arguments"] for call in message.get("tool_calls", [])]


@pytest.mark.parametrize("model", ["calls", "bare"])
@pytest.mark.parametrize("choice", ["auto", None])
def test_a_free_answer_may_be_anything_but_a_call_that_does_not_fit(
    served: Served, model: str, choice: str | None
) -> None:
    for more in ({"tools": [WEATHER, PING]}, {"tools": [PING], "parallel_tool_calls": False}):
        answer = ask(served, model=model, tool_choice=choice, **more)
        assert call_of(answer) == (text(served, model=model, tools=[PING]), [])


def grammar_of(served: Served, model: str, **keys: Any) -> Any:
    """What the grammar of a request does with a whole text: it is accepted or not."""
    from unisono.server.requests import read_chat
    from unisono.server.schemas import ChatRequest

    request = ChatRequest.model_validate({"model": model, "messages": SAY, **keys})
    [wanted] = read_chat(request, served.service, ServerLimits()).requests
    engine = served.service.engines[model]

    def accepts(words: str) -> bool:
        parse = engine.prepare(wanted).parse
        for byte in words.encode():
            column = next(c for c in range(engine.union.end) if engine.union.piece(c) == bytes([byte]))
            if not parse.allowed(())[column]:
                return False
            parse.consume(column)
        return bool(parse.allowed(())[engine.union.end])

    return accepts


def written(model: str, arguments: str, name: str = "weather") -> str:
    if model == "bare":
        return f'{{"name": "{name}", "parameters": {arguments}}}'
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


@pytest.mark.parametrize("model", ["calls", "bare"])
def test_calls_of_a_strict_function_fit_and_of_others_are_objects(served: Served, model: str) -> None:
    accepts = grammar_of(served, model, tools=[WEATHER, PING])
    assert all(accepts(words) for words in ("", "so it", "<tool_cal", written(model, CITIES[0]), "a {b} c"))
    assert accepts(written(model, '{"x": [1]}', "ping"))
    assert not any(accepts(written(model, wrong)) for wrong in ('{"city": "Rome"}', "{}", "[]"))
    assert not accepts(written(model, "[]", "ping"))
    assert not accepts(written(model, "{}", "pong"))
    two = f"{written(model, CITIES[0])}\n{written(model, CITIES[1])}"
    assert accepts(two) == (model == "calls")
    assert accepts(f"I look.\n{two}")  # without a mark, it is no call
    alone = grammar_of(served, model, tools=[WEATHER], parallel_tool_calls=False)
    assert not alone(two)
    assert alone(written(model, CITIES[1]))


@pytest.mark.parametrize("model", ["calls", "bare"])
def test_with_a_format_an_answer_is_a_call_or_json_by_the_schema(served: Served, model: str) -> None:
    schema = {"type": "object", "properties": {"n": {"const": 3}}, "required": ["n"], "additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "description": "y", "schema": schema}}
    accepts = grammar_of(served, model, tools=[WEATHER], response_format=wanted)
    assert accepts('{"n": 3}')
    assert accepts(written(model, CITIES[0]))
    assert not any(accepts(words) for words in ("", "so", '{"n": 4}', written(model, "{}")))
    content, calls = call_of(ask(served, model=model, tools=[WEATHER], response_format=wanted, max_tokens=90))
    assert content == '{"n": 3}' or calls[0] in CITIES
    never = grammar_of(served, model, tools=[WEATHER], response_format=wanted, tool_choice="none")
    assert never('{"n": 3}')
    assert not never(written(model, CITIES[0]))
    always = grammar_of(served, model, tools=[WEATHER], response_format=wanted, tool_choice="required")
    assert always(written(model, CITIES[0]))
    assert not always('{"n": 3}')


ODD: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string", "pattern": "^(?!x)"}}}


@pytest.mark.parametrize(
    "parameters",
    [ODD, {"type": "object", "not": {"required": ["x"]}}, {"type": "object", "requird": ["x"]}, {"minProperties": 3}],
)
def test_a_schema_that_no_grammar_keeps_to_keeps_no_function_from_being_offered_beside_a_format(
    served: Served, parameters: dict[str, Any]
) -> None:
    tool = {"type": "function", "function": {"name": "odd", "parameters": parameters}}
    asked: dict[str, Any] = {"model": "calls", "tools": [tool, WEATHER], "response_format": {"type": "json_object"}}
    ask(served, **asked)
    accepts = grammar_of(served, "calls", **{key: value for key, value in asked.items() if key != "model"})
    assert accepts('<tool_call>\n{"name": "odd", "arguments": {"city": 3}}\n</tool_call>')
    assert not accepts(written("calls", "{}"))  # WEATHER is strict
    strict = {"type": "function", "function": {**tool["function"], "strict": True}}
    assert ask(served, 400, **{**asked, "tools": [strict]})["error"]["code"] in ("unsupported", "invalid_value")


def test_a_trailing_slash_is_harmless(served: Served) -> None:
    for path in ("/v1/models", "/v1/models/duo", "/v1/models/duo/a", "/health", "/ready", "/metrics", "/openapi.json"):
        plain, slashed = served.get(path), served.get(f"{path}/")
        assert (plain.status_code, slashed.status_code) == (200, 200), path
        if path.startswith("/v1"):
            assert plain.content == slashed.content
    for path, given in (
        ("/v1/chat/completions/", {"messages": SAY}),
        ("/v1/completions/", {"prompt": "a"}),
        ("/v1/pieces/", {"text": "a"}),
    ):
        assert served.post(path, {"model": "duo", **given}).status_code == 200
    assert served.get("/v1/models/dou/").status_code == 404
    assert served.get("/v1/completions/").status_code == 405


PAGE = "https://page.example"


def preflight(served: Served, origin: str, **more: str) -> httpx2.Response:
    headers = {
        **more,
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    return httpx2.options(f"{served.url}/v1/chat/completions", headers=headers)


def test_pages_of_allowed_origins_may_call_and_ask_first_without_a_key(served: Served) -> None:
    assert preflight(served, PAGE).status_code == 405
    key = "k" * 20
    with serving(keys=Keys([key]), origins=[PAGE]) as guarded:
        allowed = preflight(guarded, PAGE)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == PAGE
        assert "authorization" in allowed.headers["access-control-allow-headers"]
        other = preflight(guarded, "https://other.example")
        assert (other.status_code, "access-control-allow-origin" in other.headers) == (400, False)
        body = {"model": "duo", "messages": SAY, "max_tokens": 10**6}
        answer = guarded.post("/v1/chat/completions", body, origin=PAGE, authorization=f"Bearer {key}")
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert "x-unisono-clamped" in answer.headers["access-control-expose-headers"]
        refused = guarded.post("/v1/chat/completions", body, origin=PAGE)
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == PAGE


def test_a_page_may_call_a_server_in_a_private_network_where_its_origin_is_allowed(served: Served) -> None:
    private = {"access-control-request-private-network": "true"}
    with serving(keys=Keys(["k" * 20]), origins=[f"{PAGE}/"]) as guarded:  # the slash is part of no origin
        allowed = preflight(guarded, PAGE, **private)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == PAGE
        assert allowed.headers["access-control-allow-private-network"] == "true"
        assert preflight(guarded, "https://other.example", **private).status_code == 400


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("*", "*"),
        ("null", "null"),
        ("https://page.example", "https://page.example"),
        ("https://page.example/", "https://page.example"),
        ("HTTPS://Page.Example:443", "https://page.example"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:80", "http://[::1]"),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
    ],
)
def test_an_origin_is_read_as_browsers_write_it(given: str, origin: str) -> None:
    assert read_origins([given]) == [origin]


@pytest.mark.parametrize(
    "given",
    [
        "localhost:3000",
        "page.example",
        "https://page.example//",
        "https://page.example/app",
        "https://*.example",
        "",
        "https://",
        "https://me@page.example",
        "https://page.example?x",
        "https://page.example:port",
        "file:///tmp",
    ],
)
def test_what_can_be_no_origin_is_refused_with_the_form(given: str) -> None:
    with pytest.raises(SpecError) as raised:
        read_origins(["https://page.example", given])
    assert repr(given) in raised.value.message
    assert "SCHEME://HOST" in str(raised.value.hint)
