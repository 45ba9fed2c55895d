"""Calls whose name stands outside their JSON: their segments, by hand for each family, and what is made of them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from support.encoders import encoder_of
from support.families import CONTROLS, TEMPLATES
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
    TOKENS,
)
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.call_form import CallForm
from unisono.chat.call_segments import IDENTITY, NUMBERS, CallSegments
from unisono.chat.mark_probe import text_of
from unisono.chat.messages import Tool
from unisono.chat.prompt_encoder import PromptEncoder
from unisono.chat.tool_grammar import call_grammar
from unisono.chat.tool_parser import FoundCall, find_calls
from unisono.ensemble import Ensemble
from unisono.errors import PromptError
from unisono.testing import FakeModel, LongestMatchTokenizer, byte_level_table, hashed_rule, register_fake
from unisono.vocab.tokenizer import Kind, TokenTable

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
    "meetkai-functionary-medium-v3.2": "begins a call with its name alone",
    "deepseek-ai-DeepSeek-V3.2": "one by one",
    "google-gemma-4-31B-it": "one by one",
    "LFM2.5-8B-A1B": "one by one",
    "Kimi-K3": "one by one",
}


def with_tokens(source: str, kind: Kind = "control", texts: tuple[str, ...] = ()) -> TokenTable:
    """A vocabulary of bytes with the control tokens of a template."""
    table = byte_level_table(texts)
    tokens = dict.fromkeys((*TOKENS.findall(source), *CONTROLS.findall(source)))
    found = [token for token in tokens if token not in table.texts]
    return replace(table, texts=(*table.texts, *found), kinds=(*table.kinds, *[kind] * len(found)))


def encoder_for(source: str, kind: Kind = "control") -> PromptEncoder:
    return encoder_of(with_tokens(source, kind), source)


@pytest.mark.parametrize("name", OWN)
def test_a_call_is_cut_at_its_seams(name: str) -> None:
    source, segments = OWN[name]
    form = encoder_for(source).call_form()
    assert form.segments == segments
    assert form.by_seams is (name != "functional")
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
        text = said + written(form, *calls)
        content, found = find_calls(form, (*NAMES, "get"), text)
        assert content == said
        assert [(each.name, json.loads(each.arguments)) for each in found] == calls
        for size in range(len(said), len(text)):
            cut, few = find_calls(form, (*NAMES, "get"), text[:size], cut=True)
            assert said.startswith(cut) or text.startswith(cut)
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
        answer = ensemble.generate(
            messages=[{"role": "user", "content": "Hi"}],
            tools=[tool],
            constraint={"lark": call_grammar(form, [tool])},
            reasoning="off",
            max_new_tokens=40,
        )
        assert find_calls(form, ["ping"], answer.text) == ("", (FoundCall("ping", '{"s": "on"}'),))
        [member] = ensemble._engine.members
        read = [token for each in FAKE_MODELS["real"].passes for feed in each.feeds for token in feed.ids]
        whole = text_of(member.encoder.tokenizer.table, tuple(read))
    FAKE_MODELS.clear()
    text = form.seams.at("call_begin") + "ping" + form.seams.at("call_arguments") + '{"s": "on"}'
    assert text + form.seams.at("call_end") in whole + form.seams.at("call_end") * (not form.by_seams)
