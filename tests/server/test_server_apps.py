"""What applications and agents send to the URL of an OpenAI server, as they send it: it is read as it is meant."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from support.fakes import make_fakes
from support.real_server import SAY, A, B, Served, ask, serving, text
from support.tool_templates import TAGGED
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.server.errors import Refusal
from unisono.server.limits import ServerLimits
from unisono.server.messages import read_messages
from unisono.server.responses_api.items import Conversation
from unisono.server.responses_api.tools import read_offered

ARGUMENTS = {
    "type": "object",
    "properties": {"city": {"enum": ["Sofia"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: dict[str, Any] = {"type": "function", "name": "weather", "parameters": ARGUMENTS}
SPACE: dict[str, Any] = {"type": "namespace", "name": "maps", "description": "Maps.", "tools": [WEATHER]}
PATCH: dict[str, Any] = {"type": "custom", "name": "patch", "description": "Change files."}
GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": "start: /a+/"}
SEARCH = {"type": "web_search", "external_web_access": False}
CALL = {"id": "probe0001", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    make_fakes()
    thinks = "{% if enable_thinking is defined %}[{{ enable_thinking }}{{ reasoning_effort }}]{% endif %}"
    words = thinks + "{% for m in messages %}{{ m.content }}{% endfor %}"
    ensembles = {
        "duo": {"members": [A, B]},
        "calls": {"members": [{**each, "chat_template": TAGGED} for each in (A, B)]},
        "thinks": {"members": [{**each, "chat_template": words} for each in (A, B)]},
    }
    with serving(ensembles, limits=ServerLimits(output=200)) as server:
        yield server
    FAKE_MODELS.clear()


def respond(served: Served, status: int = 200, **keys: Any) -> Any:
    body = {"model": "calls", "input": "the cat", "max_output_tokens": 200, **keys}
    response = served.post("/v1/responses", body)
    assert response.status_code == status, response.text
    return response


def test_a_function_of_a_namespace_is_called_by_its_names_and_what_nobody_can_call_is_left_out(served: Served) -> None:
    tools = [WEATHER, SPACE, SEARCH, {"type": "image_generation"}, {**PATCH, "format": GRAMMAR}]
    wanted = {"type": "function", "namespace": "maps", "name": "weather"}
    response = respond(served, tools=tools, tool_choice=wanted)
    assert response.headers["x-unisono-left-out"] == "web_search, image_generation, custom"
    told = response.json()
    [call] = told["output"]
    assert call["type"] == "function_call"
    assert (call["namespace"], call["name"], json.loads(call["arguments"])) == (
        "maps",
        "weather",
        {"city": "Sofia"},
    )
    assert [tool["type"] for tool in told["tools"]] == ["function", "namespace"]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": {"rain": True}}
    after = respond(served, input=[result], previous_response_id=told["id"], tools=[SPACE], tool_choice="none")
    assert after.json()["status"] in ("completed", "incomplete")


def test_a_custom_tool_is_called_with_its_text_whole_and_streamed(served: Served) -> None:
    asked: Any = {"model": "calls", "input": "the cat", "max_output_tokens": 90, "tools": [PATCH]}
    asked["tool_choice"] = {"type": "custom", "name": "patch"}
    client = served.client()
    [call] = client.responses.create(**asked).output
    assert call.type == "custom_tool_call"
    assert (call.name, call.input.startswith("{")) == ("patch", False)
    events: Any = list(client.responses.create(**asked, stream=True))
    [done] = [event for event in events if event.type == "response.custom_tool_call_input.done"]
    [delta] = [event for event in events if event.type == "response.custom_tool_call_input.delta"]
    assert done.input == delta.delta == events[-1].response.output[0].input == call.input


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ([SEARCH], "tools[0].type"),
        ([{**PATCH, "format": GRAMMAR}], "tools[0].format.syntax"),
        ([WEATHER, {"type": "web_serch"}], "tools[1].type"),
        ([SEARCH, WEATHER, WEATHER], "tools"),
        ([SPACE, {**WEATHER, "name": "maps__weather"}], "tools"),
        ([{**SPACE, "name": ""}], "tools[0].name"),
        ([{**SPACE, "tools": [SEARCH]}], "tools[0].tools[0].type"),
        ([{**SPACE, "tools": [{"type": "function"}]}], "tools[0].tools[0].name"),
        ([{"type": "custom"}], "tools[0].name"),
    ],
)
def test_tools_of_which_none_can_be_called_are_refused_by_name(served: Served, tools: list[Any], param: str) -> None:
    assert respond(served, 400, tools=tools).json()["error"]["param"] == param


def test_a_schema_is_blamed_where_it_stands(served: Served) -> None:
    wrong = {**SPACE, "tools": [{**WEATHER, "strict": True, "parameters": {"type": "wish"}}]}
    error = respond(served, 400, tools=[SEARCH, wrong]).json()["error"]
    assert "tools[1].tools[0]" in error["message"]


def test_a_strict_server_leaves_no_tool_out() -> None:
    with pytest.raises(Refusal, match="web_search"):
        read_offered([WEATHER, SEARCH], None, strict=True)


def test_a_choice_names_tools_as_they_are_offered() -> None:
    def chosen(choice: Any) -> Any:
        return read_offered([SPACE, PATCH, SEARCH], choice).choice

    space = {"type": "function", "namespace": "maps", "name": "weather"}
    own = {"type": "function", "function": {"name": "maps__weather"}}
    assert chosen(space) == own
    some = {"type": "allowed_tools", "mode": "auto", "tools": [space, SEARCH]}
    assert chosen(some)["allowed_tools"] == {"mode": "auto", "tools": [own]}
    with pytest.raises(Refusal) as caught:
        chosen({"type": "web_search"})
    assert caught.value.param == "tool_choice.type"


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ('{"input": "a\\nb"}', "a\nb"),
        ('{"input": "a', "a"),
        ('{"input": "a\\', "a"),
        ('{"input": "a\\u00', "a"),
        ('{"text": "a"}', '{"text": "a"}'),
        ('{"input": "a", "b": 1}', '{"input": "a", "b": 1}'),
        ("[]", "[]"),
    ],
)
def test_nothing_that_a_model_gave_to_a_custom_tool_is_lost(arguments: str, given: str) -> None:
    assert read_offered([PATCH], None).call("patch").given(arguments) == given


def test_past_calls_of_custom_tools_and_namespaces_are_calls() -> None:
    read = Conversation(None)
    items = [
        {"role": "user", "content": "x"},
        {"type": "custom_tool_call", "call_id": "1", "name": "patch", "input": "*** a"},
        {"type": "function_call", "call_id": "2", "namespace": "maps", "name": "weather", "arguments": "{}"},
        {"type": "custom_tool_call_output", "call_id": "1", "output": "done"},
        {"type": "function_call_output", "call_id": "2", "output": {"rain": True}},
    ]
    for number, item in enumerate(items):
        read.add(f"input[{number}]", item)
    _, called, *results = [message for _, message in read.messages]
    functions = [(call["function"]["name"], call["function"]["arguments"]) for call in called["tool_calls"]]
    assert functions == [("patch", '{"input": "*** a"}'), ("maps__weather", "{}")]
    assert [result["content"] for result in results] == ["done", '{"rain": true}']


def test_times_are_whole_numbers_on_the_wire(served: Served) -> None:
    """Clients in Rust and .NET read no others."""
    assert type(respond(served, max_output_tokens=2).json()["created_at"]) is int
    assert type(ask(served)["created"]) is int
    assert {type(each["created"]) for each in served.get("/v1/models").json()["data"]} == {int}


@pytest.mark.parametrize(
    ("given", "content"),
    [
        ({"role": "tool", "content": {"rain": True}}, '{"rain": true}'),
        ({"role": "tool", "content": [{"day": 1}, {"day": 2}]}, '[{"day": 1}, {"day": 2}]'),
        ({"role": "tool", "content": [1, 2]}, "[1, 2]"),
        ({"role": "tool", "content": 3.5}, "3.5"),
        ({"role": "tool", "content": False}, "false"),
        ({"role": "tool", "content": [{"text": "a"}, {"type": "text", "text": "b"}]}, "ab"),
        ({"role": "tool", "content": {"type": "text", "text": "a"}}, "a"),
        ({"role": "tool", "content": [[{"type": "text", "text": "a"}], [{"text": "b"}]]}, "ab"),
        ({"role": "tool", "content": [["a"], ["b"]]}, '[["a"], ["b"]]'),
        ({"role": "tool", "content": [{"type": "event", "day": 1}]}, '[{"type": "event", "day": 1}]'),
        ({"role": "tool", "content": {"type": "event", "text": "x"}}, '{"type": "event", "text": "x"}'),
        (
            {"role": "tool", "content": [{"type": "text", "text": "a"}, {"type": "b"}]},
            '[{"type": "text", "text": "a"}, {"type": "b"}]',
        ),
        ({"role": "user", "content": [[{"type": "text", "text": "a"}], {"type": "text", "text": "b"}]}, "ab"),
        ({"role": "user", "content": {"type": "text", "text": "a"}}, "a"),
        ({"role": "user", "content": [None, {"text": "a"}, {"type": "text", "text": None}]}, "a"),
        ({"role": "user", "content": None}, ""),
        ({"role": "system", "content": []}, ""),
        ({"role": "assistant"}, ""),
    ],
)
def test_a_content_is_read_in_the_forms_that_programs_write(given: dict[str, Any], content: str) -> None:
    before = [*SAY, {"role": "assistant", "content": None, "tool_calls": [CALL]}] if given["role"] == "tool" else SAY
    read = read_messages([*before, {"tool_call_id": "probe0001", **given} if given["role"] == "tool" else given, *SAY])
    assert read[-2]["content"] == content


@pytest.mark.parametrize(
    "given",
    [
        {"role": "user", "content": 3},
        {"role": "user", "content": {"city": "x"}},
        {"role": "user", "content": [{}]},
        {"role": "user", "content": [{"type": "event"}]},
        {"role": "tool", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
    ],
)
def test_what_is_no_text_of_a_user_stays_refused(given: dict[str, Any]) -> None:
    with pytest.raises(Refusal, match=r"messages\[0\]\.content"):
        read_messages([given])


@pytest.mark.parametrize(
    ("given", "own"),
    [
        ({"think": False}, {"enable_thinking": False}),
        ({"think": True}, {"enable_thinking": True}),
        ({"think": "low"}, {"reasoning_effort": "low"}),
        ({"options": {"num_predict": 5, "num_ctx": 4096, "num_gpu": 99}}, {"max_tokens": 5}),
        ({"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}, {"enable_thinking": False}),
    ],
)
def test_what_other_apis_call_by_a_name_is_done(served: Served, given: dict[str, Any], own: dict[str, Any]) -> None:
    sides = [ask(served, model="thinks", **{"max_tokens": None, **each}) for each in (given, own)]
    reports = [side["unisono"]["choices"][0]["usage"] for side in sides]
    assert reports[0] == reports[1]
    assert sides[0]["choices"] == sides[1]["choices"]


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"think": True, "enable_thinking": False}, "think"),
        ({"think": "low", "reasoning_effort": "high"}, "reasoning_effort"),
        ({"think": "loud"}, "think"),
        ({"options": {"temperature": 0.5}, "temperature": 0}, "options.temperature"),
        ({"options": {"wish": 1}}, "wish"),
        ({"options": {"mirostat": 2}}, "mirostat"),
    ],
)
def test_two_things_are_not_said_and_nothing_is_lost(served: Served, given: dict[str, Any], param: str) -> None:
    error = ask(served, 400, model="thinks", **given)["error"]
    assert param in (error["param"], *error["message"].split()), error


@pytest.mark.parametrize("text", ["007", "-", "1.", "+1", "1" * 5000, "1e5", "٣", " 1"])
def test_a_text_that_is_no_number_of_json_is_refused_as_a_text(served: Served, text: str) -> None:
    error = respond(served, 400, temperature=text).json()["error"]
    assert error["param"] == "temperature"


def test_a_prompt_that_fits_need_not_be_cut_and_one_that_does_not_is_refused(served: Served) -> None:
    fields = ("truncation_length", "truncate_prompt_tokens", "truncate", "prompt_truncate_len")
    for name in fields:
        assert text(served, **{name: 2048}) == text(served)
        error = ask(served, 400, **{name: 2})["error"]
        assert "read whole" in error["message"]
    read = ask(served)["usage"]["prompt_tokens"]
    assert ask(served, 400, truncation_length=read + 1)["error"]["param"] == "truncation_length"  # and 12 to write


def test_an_applications_whole_body_is_read(served: Served) -> None:
    """Of SillyTavern, for a server of an OpenAI API in its text completion: what it sends with all samplers off."""
    body = {
        "prompt": "the cat", "model": "duo", "max_new_tokens": 8, "max_tokens": 8, "n_predict": 8, "num_predict": 8,
        "temperature": 0, "top_p": 1, "typical_p": 1, "typical": 1, "sampler_seed": -1, "seed": -1, "min_p": 0,
        "repetition_penalty": 1, "rep_pen": 1, "repeat_penalty": 1, "frequency_penalty": 0, "presence_penalty": 0,
        "top_k": 0, "skew": 0, "min_tokens": 0, "add_bos_token": True, "smoothing_factor": 0, "smoothing_curve": 1,
        "dry_allowed_length": 2, "dry_multiplier": 0, "dry_base": 1.75, "dry_penalty_last_n": 0,
        "dry_sequence_breakers": '["\\n", ":"]', "max_tokens_second": 0, "stopping_strings": ["\nA:"], "stop": ["\nA:"],
        "truncation_length": 4096, "ban_eos_token": False, "ignore_eos": False, "skip_special_tokens": True,
        "top_a": 0, "tfs": 1, "tfs_z": 1, "mirostat_mode": 0, "mirostat": 0, "mirostat_tau": 5, "mirostat_eta": 0.1,
        "custom_token_bans": "", "banned_strings": [], "api_type": "generic", "api_server": "http://127.0.0.1:5000",
        "legacy_api": False, "xtc_threshold": 0.1, "xtc_probability": 0, "nsigma": 0, "rep_pen_range": 0,
        "repetition_penalty_range": 0, "repeat_last_n": 0, "rep_pen_slope": 1, "guidance_scale": 1,
        "negative_prompt": "", "grammar_string": "", "num_ctx": 4096, "n_probs": None, "include_reasoning": True,
        "speculative_ngram": False, "repetition_decay": 0,
    }  # fmt: skip
    plain = {"prompt": "the cat", "model": "duo", "max_tokens": 8, "stop": "\nA:", "temperature": 0}
    texts = []
    for each in (body, plain):
        response = served.post("/v1/completions", each)
        assert response.status_code == 200, response.text
        texts.append(response.json()["choices"][0]["text"])
    assert texts[0] == texts[1]


def test_the_openai_package_reads_what_was_left_out(served: Served) -> None:
    client: openai.OpenAI = served.client()
    asked: Any = {"model": "calls", "input": "the cat", "max_output_tokens": 4, "tools": [SPACE, PATCH, SEARCH]}
    raw = client.responses.with_raw_response.create(**asked)
    assert raw.headers["x-unisono-left-out"] == "web_search"
    assert [tool.type for tool in raw.parse().tools] == ["namespace", "custom"]
