"""Calls whose name stands outside their JSON: their segments, by hand for each family, and what is made of them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from support.encoders import encoder_for, with_tokens
from support.families import TEMPLATES
from support.tool_templates import (
    DEEPSEEK,
    DEEPSEEK_LATER,
    FUNCTIONAL,
    HARMONY,
    HARMONY_AS_WRITTEN,
    KEYED,
    KIMI,
    MISTRAL,
    NAMES,
    SOLAR,
    SPOKEN,
    demanded,
)
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.call_form import CallForm
from unisono.chat.call_segments import IDENTITY, NUMBERS, CallSegments
from unisono.chat.mark_probe import text_of
from unisono.chat.messages import Prompt
from unisono.chat.tool_grammar import call_grammar, no_call_grammar
from unisono.chat.tool_parser import CallBegun, CallFinder, Content, FoundCall, find_calls
from unisono.chat.tools import Tool
from unisono.ensemble import Ensemble
from unisono.errors import PromptError, SpecError
from unisono.testing import FakeModel, LongestMatchTokenizer, hashed_rule, register_fake

N, ID = NUMBERS[0], IDENTITY
SWITCH = {"type": "object", "properties": {"s": {"enum": ["on"]}}, "required": ["s"], "additionalProperties": False}
HARMONIC = CallSegments("<|channel|>commentary to=functions.", " json<|message|>", "", None, "")
KIMIS = CallSegments(
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.",
    f":{N}<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
    "<|tool_call_begin|>functions.",
    "<|tool_calls_section_end|>",
)
FUNCTIONS = CallSegments("<function=", ">", "</function>", "<function=", "")
ARGS = CallSegments("[TOOL_CALLS]", "[ARGS]", "", "[TOOL_CALLS]", "")
KEYS = CallSegments('<|tools_prefix|>[{"', '": ', "}", ', {"', "]<|tools_suffix|>")
SOLARS = CallSegments(
    f"<|tool_calls|><|tool_call:begin|>{ID}<|tool_call:name|>",
    "<|tool_call:args|>",
    "<|tool_call:end|>",
    f"<|tool_call:begin|>{ID}<|tool_call:name|>",
    "<|calls|>",
)
OWN: dict[str, tuple[str, CallSegments]] = {
    "mistral": (MISTRAL, CallSegments("[TOOL_CALLS]", f"[CALL_ID]{ID}[ARGS]", "", "[TOOL_CALLS]", "")),
    "kimi": (KIMI, KIMIS),
    "deepseek": (
        DEEPSEEK,
        CallSegments(
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>",
            "\n```json\n",
            "\n```<｜tool▁call▁end｜>",
            "\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
            "<｜tool▁calls▁end｜>",
        ),
    ),
    "deepseek later": (
        DEEPSEEK_LATER,
        CallSegments(
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>",
            "<｜tool▁sep｜>",
            "<｜tool▁call▁end｜>",
            "<｜tool▁call▁begin｜>",
            "<｜tool▁calls▁end｜>",
        ),
    ),
    "solar": (SOLAR, SOLARS),
    "keyed": (KEYED, KEYS),
    "harmony": (HARMONY, HARMONIC),
    "harmony as written": (
        HARMONY_AS_WRITTEN,
        CallSegments("<|channel|>commentary to=functions.", " <|constrain|>json<|message|>", "", None, ""),
    ),
    "functional": (FUNCTIONAL, FUNCTIONS),
    "spoken": (SPOKEN, CallSegments("", "\n", "", ">>>", "")),
}
REAL: dict[str, CallSegments | str] = {
    "Apertus-8B-Instruct": KEYS,
    "Mistral-Small-3.2-24B-Instruct-2506": OWN["mistral"][1],
    "mistralai-Ministral-3-14B-Reasoning-2512": ARGS,
    "unsloth-mistral-Devstral-Small-2507": ARGS,
    "moonshotai-Kimi-K2": KIMIS,
    "Kimi-K2-Instruct": KIMIS,
    "Kimi-K2-Thinking": KIMIS,
    "openai-gpt-oss-120b": HARMONIC,
    "upstage-Solar-Open-100B": SOLARS,
    "meetkai-functionary-medium-v3.1": FUNCTIONS,
    "meetkai-functionary-medium-v3.2": CallSegments("", "\n", "", ">>>", ""),
    "Kimi-K3": "one by one",
}


@pytest.mark.parametrize("name", OWN)
def test_a_call_is_cut_at_its_seams(name: str) -> None:
    source, segments = OWN[name]
    form = encoder_for(source).call_form()
    assert form.segments == segments
    assert form.by_seams is (name not in ("functional", "spoken"))
    assert form.recipient == ("all\n" if name == "spoken" else "")
    assert form.only_first is name.startswith("harmony")


@pytest.mark.parametrize("name", REAL)
def test_the_segments_of_real_templates(name: str) -> None:
    file, expected = TEMPLATES / f"{name}.jinja", REAL[name]
    if not file.is_file():
        pytest.skip(f"no {file}")
    encoder = encoder_for(file.read_text("utf-8"))
    if isinstance(expected, str):
        with pytest.raises(PromptError, match=expected):
            encoder.call_form()
    else:
        assert encoder.call_form().segments == expected


def test_tokens_that_a_models_files_call_text_are_marks_where_they_stand_around_names() -> None:
    """DeepSeek's files say so of theirs."""
    encoder = encoder_for(DEEPSEEK, "added")
    assert encoder.call_form().by_seams
    typed = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>ping\n```json\n{}"
    marks = set(encoder.marks.seams)
    assert len(marks) == 5
    assert not marks & set(encoder.tokenizer.encode(typed))


def test_ids_and_numbers_are_of_each_call() -> None:
    assert SOLARS.at("call_next", 1) == "<|tool_call:begin|>call00001<|tool_call:name|>"
    assert KIMIS.at("call_arguments", 3) == ":3<|tool_call_argument_begin|>"


def written(form: CallForm, *calls: tuple[str, dict[str, Any]]) -> str:
    """Calls as marks write them in a text."""
    segments, text = form.seams, ""
    for number, (name, arguments) in enumerate(calls):
        text += segments.at("call_next" if number else "call_begin", number) + name
        text += segments.at("call_arguments", number) + json.dumps(arguments) + segments.at("call_end", number)
    return text + segments.end


CALLS: list[tuple[str, dict[str, Any]]] = [("get_weather", {"city": "Köln", "n": [{}]}), ("ping", {})]


@pytest.mark.parametrize("name", OWN)
def test_calls_are_found_again_however_they_are_cut(name: str) -> None:
    form = encoder_for(OWN[name][0]).call_form()
    calls = CALLS if form.between is not None else CALLS[:1]
    for said in ("", "Hm."):
        between = (form.between or "") if form.recipient and said else ""
        text = (form.recipient if said else "") + said + between + written(form, *calls)
        content, found = find_calls(form, (*NAMES, "get"), text)
        assert content == said
        assert [(each.name, json.loads(each.arguments)) for each in found] == calls
        for size in range(len(said), len(text)):
            cut, few = find_calls(form, (*NAMES, "get"), text[:size], cut=True)
            assert said.startswith(cut) or text.removeprefix(form.recipient).startswith(cut)
            assert len(few) <= len(calls)
            assert all(each.name in NAMES for each in few)


@pytest.mark.parametrize("name", OWN)
def test_what_breaks_off_or_names_no_tool_is_content(name: str) -> None:
    form = encoder_for(OWN[name][0]).call_form()
    other = written(form, ("other", {}))
    assert find_calls(form, NAMES, other) == (other, ())
    broken = written(form, ("ping", {})).replace("{}", "{]")
    assert find_calls(form, NAMES, broken) == (broken, ())


def test_tools_are_written_to_all() -> None:
    for source, _ in OWN.values():
        assert encoder_for(source).tool_use().knows_tools


@pytest.mark.parametrize("name", [name for name, expected in REAL.items() if isinstance(expected, CallSegments)])
def test_a_model_with_a_real_template_makes_the_call_that_is_demanded(name: str) -> None:
    pytest.importorskip("llguidance")
    file = TEMPLATES / f"{name}.jinja"
    if not file.is_file():
        pytest.skip(f"no {file}")
    source = file.read_text("utf-8")
    table = replace(with_tokens(source, texts=("ping", "on")), chat_template=source)
    register_fake("real", FakeModel(LongestMatchTokenizer(table), hashed_rule(len(table.texts)), context=8192))
    tool = Tool(type="function", function={"name": "ping", "description": "Nothing.", "parameters": SWITCH})
    with Ensemble.load({"members": [{"name": "real", "model": "fake:real"}]}) as ensemble:
        form = ensemble.call_form()
        answer = demanded(ensemble, tool, 40)
        assert find_calls(form, ["ping"], answer) == ("", (FoundCall("ping", '{"s": "on"}'),))
        [member] = ensemble._engine.members
        read = [token for each in FAKE_MODELS["real"].passes for feed in each.feeds for token in feed.ids]
        whole = text_of(member.encoder.tokenizer.table, tuple(read))
    FAKE_MODELS.clear()
    text = form.seams.at("call_begin") + "ping" + form.seams.at("call_arguments") + '{"s": "on"}'
    assert text + form.seams.at("call_end") in whole + form.seams.at("call_end") * (not form.by_seams)


def test_an_answer_that_says_whom_it_speaks_to_is_read_without_that() -> None:
    form = encoder_for(SPOKEN).call_form()
    for text, content, names in (
        ("all\nHello", "Hello", []),
        ("all\n", "", []),
        ("all\n>>>ping\n{}", "", ["ping"]),
        ("all\n Hi. >>>ping\n{}>>>all\nSo.", " Hi.So.", ["ping"]),
        ("ping\n{}>>>get_weather\n{}", "", ["ping", "get_weather"]),
        ("Hello", "Hello", []),
        ("alright", "alright", []),
        ("all right", "all right", []),
        ("pin", "pin", []),
        ("a >> b >>> c", "a >> b >>> c", []),
        ("", "", []),
    ):
        for deltas in ([text], list(text)):
            finder = CallFinder(form, NAMES)
            events = [*(event for delta in deltas for event in finder.feed(delta)), *finder.finish()]
            parts = [event for event in events if isinstance(event, Content)]
            assert "".join(part.text for part in parts) == content, text
            assert [event.name for event in events if isinstance(event, CallBegun)] == names
            assert all(text[part.at :].startswith(part.text) for part in parts)


def test_where_no_tools_are_given_a_prompt_says_whom_an_answer_speaks_to() -> None:
    encoder = encoder_for(SPOKEN)
    tool = Tool(type="function", function={"name": "ping", "description": "Nothing.", "parameters": SWITCH})
    messages = [{"role": "user", "content": "Hi"}]
    for tools, end in ((None, ">>>all\n"), ((tool,), ">>>")):
        ids = encoder.encode(Prompt(messages=messages, tools=tools))  # type: ignore[arg-type]
        assert text_of(encoder.tokenizer.table, tuple(ids)).endswith(f"<|assistant|>{end}")
    other = Tool(type="function", function={"name": "all"})
    with pytest.raises(SpecError, match="the tool 'all' cannot be called"):
        call_grammar(encoder.call_form(), [tool, other])


def test_the_grammar_of_an_answer_that_says_whom_it_speaks_to() -> None:
    llguidance = pytest.importorskip("llguidance")
    form = encoder_for(SPOKEN).call_form()
    tools = [Tool(type="function", function={"name": name, "parameters": SWITCH}) for name in NAMES]
    call, other = 'ping\n{"s": "on"}', 'get_weather\n{"s": "on"}'
    free, must = call_grammar(form, tools, free=True, several=True), call_grammar(form, tools, several=True)
    silent, answer = no_call_grammar(form), call_grammar(form, tools, answer={"type": "object"})
    assert silent is not None
    for grammar, good, bad in (
        (free, ["all\nHi", "all\n", call, f"{call}>>>{other}", f"all\nHi>>>{call}"], ["Hi", "ping\n{}", "all\nHi>>>x"]),
        (must, [call, f"{call}>>>{other}"], ["all\nHi", "ping\n{}", f">>>{call}"]),
        (silent, ["all\nHi"], [call, f"all\nHi>>>{call}"]),
        (answer, [call, 'all\n{"a": 1}'], ['{"a": 1}', "all\nHi"]),
    ):
        for text in (*good, *bad):
            matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), grammar)
            assert not matcher.is_error(), matcher.get_error()
            taken = matcher.try_consume_tokens(list(text.encode())) == len(text.encode())
            assert (taken and matcher.is_accepting()) is (text in good), (text, grammar)
