"""How members read tools, calls and results through templates that know them, and refuse what they would leave out."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.encoders import TABLE, encoder_of, knowing
from support.tool_templates import (
    BARE,
    CONTROL,
    DEAF,
    FUNCTIONAL,
    HEAD,
    JOINED,
    LISTED,
    PING,
    TAGGED,
    UNDERSTOOD,
    USER,
    WEATHER,
    call,
    calling,
    exchange,
)
from unisono.chat.messages import Message, Prompt
from unisono.chat.prompt_encoder import PromptEncoder
from unisono.chat.template import ChatTemplate
from unisono.chat.template_probe import CallStyle, probe_tool_use
from unisono.chat.tools import Tool
from unisono.errors import PromptError, SpecError
from unisono.testing import FakeModel, LongestMatchTokenizer, byte_level_table, hashed_rule, register_fake

CONTROLS = {token for token, kind in enumerate(TABLE.kinds) if kind == "control"}


def said(encoder: PromptEncoder, prompt: Prompt) -> str:
    return encoder.speller.vocabulary.join(encoder.encode(prompt)).decode()


@pytest.mark.parametrize("template", [*UNDERSTOOD.values(), CONTROL, FUNCTIONAL])
def test_a_template_that_writes_tools_calls_and_results_knows_tools(template: str) -> None:
    assert probe_tool_use(ChatTemplate(template, TABLE.special_texts)).knows_tools


def test_a_template_is_given_arguments_and_empty_contents_as_it_takes_them() -> None:
    styles = {name: knowing(template).tool_use().style for name, template in UNDERSTOOD.items()}
    assert styles.pop("joined") == CallStyle("text", "none")
    assert set(styles.values()) == {CallStyle("mapping", "text")}
    strict = calling('{% for c in m.tool_calls %}{{ c.function.name + c.function.arguments }}{% endfor %}',
                     HEAD.replace("and m.tool_calls", "and m.content is not defined"))  # fmt: skip
    assert knowing(strict).tool_use().style == CallStyle("text", "absent")


ONCE = BARE.replace(
    "{%- for m in messages -%}",
    "{%- for m in messages -%}{% if m.role == 'assistant' and loop.previtem and loop.previtem.role != 'user' %}"
    "{{ raise_exception('answers follow questions') }}{% endif %}",
)
"""A template that neither takes several calls, or what is said before one, nor answers one after another."""


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_a_conversation_is_read_with_its_tools_calls_and_results(name: str) -> None:
    encoder = knowing(UNDERSTOOD[name])
    messages = [USER, *exchange(call("get_weather", {"city": "Bonn", "days": 2})), USER]
    text = said(encoder, Prompt(messages=messages, tools=[WEATHER, PING]))
    for words in ("The weather somewhere.", "Where.", "get_weather", "Bonn", "[answer fine]", "Nothing."):
        assert words in text
    assert '\\"' not in text
    assert "None" not in text


def test_answers_are_read_in_the_order_of_their_calls_and_with_the_names_of_the_functions() -> None:
    named = TAGGED.replace("[answer", "[{{ m.name }} {{ m.tool_call_id }}")
    calls = [call("ping", {}, "one"), call("get_weather", {"city": "Bonn"}, "two")]
    first, *answers = exchange(*calls)
    orders = [said(knowing(named), Prompt(messages=[USER, first, *each])) for each in (answers, answers[::-1])]
    assert orders[0] == orders[1]
    assert "[ping one fine][get_weather two fine]" in orders[0]


@pytest.mark.parametrize(
    ("template", "messages", "tools", "problem"),
    [
        (DEAF, [USER], [PING], "'m' cannot read tools: its chat template does not write tools"),
        (DEAF, [USER, *exchange(call("ping", {}))], None, "'m' cannot read tool_calls"),
        (TAGGED.replace("{{ tool | tojson }}", "{{ tool.function.name }}"), [USER], [WEATHER], "'m' cannot read tools"),
        (TAGGED.replace("[answer {{ m.content }}]", ""), [USER, *exchange(call("ping", {}))], None, "read role tool"),
        (ONCE, [USER, *exchange(call("ping", {}), content="So:")], [PING], "'m' cannot read content"),
        (TAGGED, [{**USER, "name": "Ann"}], None, "'m' cannot read name: .* of the role user"),
        ("{% if tools %}" + TAGGED + "{% else %}" + DEAF + "{% endif %}", [USER, *exchange(call("ping", {}))], None,
         "does not write calls where no tools are given"),
    ],
)  # fmt: skip
def test_what_a_template_would_leave_out_is_refused_by_member_and_field(
    template: str, messages: list[Message], tools: list[Tool] | None, problem: str
) -> None:
    with pytest.raises(PromptError, match=problem) as caught:
        knowing(template).encode(Prompt(messages=messages, tools=tools))
    assert "chat_template in the ensemble file" in str(caught.value.hint)


def test_a_name_is_read_where_the_template_writes_it() -> None:
    template = DEAF.replace("{{ m.content }}", "{{ m.name }}: {{ m.content }}")
    assert "Ann: Sun?" in said(knowing(template), Prompt(messages=[{**USER, "name": "Ann"}]))


def test_a_refusal_of_the_template_comes_through() -> None:
    two = [USER, *exchange(call("ping", {}, "one"), call("ping", {}, "two"))]
    with pytest.raises(PromptError, match="'m' refuses these messages: one call at a time"):
        knowing(ONCE).encode(Prompt(messages=two, tools=[PING]))


def test_an_answer_of_a_tool_may_be_empty() -> None:
    assert "[answer ]" in said(knowing(TAGGED), Prompt(messages=[USER, *exchange(call("ping", {}), answer="")]))


TYPED = st.one_of(
    st.sampled_from(["</s>", "<|user|>", "a<s>b", "<|assistant|></s>", "</S>", "<|USER|>", "\ue000</s>", "\\ue000<s>"]),
    st.text(st.sampled_from("<|/s>user \ue000\\n\"'{}"), max_size=12),
)


def typed_everywhere(words: list[str]) -> Prompt:
    """A request with a text in every place that may hold one."""
    a, b, c, d, e = words
    tool: Any = {
        "type": "function",
        "function": {
            "name": "f",
            "description": a,
            "parameters": {"type": "object", "properties": {b + "x": {"description": c, "enum": [d, [e]]}}},
        },
    }
    calls = [call("f", {b + "x": a, "in": {c: [d, {e: a}]}}, f"1{c}"), call("f", {}, "2")]
    return Prompt(messages=[{"role": "user", "content": d + "."}, *exchange(*calls, content=e, answer=b)], tools=[tool])


@pytest.mark.parametrize("name", ["tagged", "listed", "joined", "escaping", "shouting"])
@settings(max_examples=60, deadline=None)
@given(words=st.lists(TYPED, min_size=5, max_size=5))
def test_no_text_of_a_request_becomes_a_control_token(name: str, words: list[str]) -> None:
    others = {
        "escaping": TAGGED.replace("tojson", "tojson(ensure_ascii=True)"),
        "shouting": TAGGED.replace("{{ tool | tojson }}", "{{ tool | tojson }}{{ tool | tojson | lower | trim }}"),
    }
    encoder = knowing(UNDERSTOOD.get(name) or others[name])
    harmless, typed = (encoder.encode(typed_everywhere(each)) for each in (["x"] * 5, words))
    assert [token for token in typed if token in CONTROLS] == [token for token in harmless if token in CONTROLS]


@pytest.mark.slow
@pytest.mark.parametrize("template", [TAGGED, JOINED, TAGGED.replace("tojson", "tojson(ensure_ascii=True)")])
@settings(max_examples=60, deadline=None)
@example(words=["</s>", "\\ue000", "\ue000", "<s>", ""])
@given(words=st.lists(TYPED, min_size=5, max_size=5))
def test_what_was_typed_is_read_as_it_was_typed(template: str, words: list[str]) -> None:
    """The oracle: a vocabulary without control tokens, to which nothing has to be escaped."""
    kinds = tuple("added" if kind == "control" else kind for kind in TABLE.kinds)
    free = encoder_of(dataclasses.replace(TABLE, kinds=kinds), template)
    assert free.template is not None
    prompt = typed_everywhere(words)
    plain = said(free, prompt)
    for control in ("<|system|>", "<|user|>", "<|assistant|>", "</s>"):
        plain = plain.replace(control, "")
    read = said(knowing(template), prompt)
    for control in ("<|system|>", "<|user|>", "<|assistant|>", "</s>"):
        read = read.replace(control, "")
    assert read == plain


def test_without_control_texts_the_ids_are_those_of_the_librarys_own_call() -> None:
    pytest.importorskip("transformers")
    from transformers import AutoTokenizer

    from support.real_tokenizers import hub_folder, real

    known = real("transformers", "qwen2")
    source = TAGGED.replace("{{ eos_token }}", "<|im_end|>\n").replace("<|assistant|>", "<|im_start|>assistant\n")
    source = source.replace("<|system|>", "<|im_start|>system\n").replace("<|user|>", "<|im_start|>user\n")
    source = source.replace("<|{{ m.role }}|>", "<|im_start|>{{ m.role }}\n")
    encoder = PromptEncoder("qwen", known.tokenizer, known.speller, ChatTemplate(source, {}))
    calls = [call("get_weather", {"city": "東京", "days": 3}, "one"), call("ping", {}, "two")]
    messages = [{"role": "system", "content": "Be brief."}, USER, *exchange(*calls, content="Let me see."), USER]
    theirs: list[Any] = json.loads(json.dumps(messages))
    for each in theirs[2]["tool_calls"]:
        each["function"]["arguments"] = json.loads(each["function"]["arguments"])
    library = AutoTokenizer.from_pretrained(hub_folder("qwen2"))
    tools = [WEATHER, PING]
    ids = library.apply_chat_template(
        theirs, tools=tools, chat_template=source, add_generation_prompt=True, return_dict=False
    )
    assert encoder.encode(Prompt(messages=messages, tools=tools)) == ids  # type: ignore[arg-type]
    spoofed: Any = json.loads(json.dumps(tools).replace("Where.", "<|im_end|>"))
    ends = known.tokenizer.table.texts.index("<|im_end|>")
    assert encoder.encode(Prompt(messages=messages, tools=spoofed)).count(ends) == ids.count(ends)  # type: ignore[arg-type]


def test_a_real_template_in_whose_words_marks_are_control_tokens_reads_tools_and_cannot_write_calls() -> None:
    pytest.importorskip("llama_cpp")
    from support.real_tokenizers import real

    known = real("llamacpp", "gemma-4")
    table = known.tokenizer.table
    encoder = PromptEncoder(
        "gemma", known.tokenizer, known.speller, ChatTemplate(str(table.chat_template), table.special_texts)
    )
    assert encoder.tool_use().knows_tools
    control = {token for token, kind in enumerate(table.kinds) if kind == "control"}
    read = []
    for word in ("fine", "<|turn><tool_call|><bos>"):
        calls = [call("get_weather", {"city": word, word: [word]})]
        tool = json.loads(json.dumps(WEATHER).replace("Where.", word))
        ids = encoder.encode(Prompt(messages=[USER, *exchange(*calls, answer=word)], tools=[tool]))
        assert known.vocabulary.join(ids).decode().count(word) == 5
        read.append([token for token in ids if token in control])
    assert read[0] == read[1]
    with pytest.raises(PromptError, match="member 'gemma' writes them"):
        encoder.call_form()


def test_an_ensemble_reads_tools_in_each_members_form_and_writes_calls_in_the_leads() -> None:
    from unisono import Ensemble

    for name, template in (("tagged", TAGGED), ("listed", LISTED), ("joined", JOINED)):
        table = byte_level_table([name], chat_template=template)
        register_fake(name, FakeModel(LongestMatchTokenizer(table), hashed_rule(len(table.texts))))
    members = [{"name": name, "model": f"fake:{name}"} for name in ("tagged", "listed", "joined")]
    with Ensemble.load({"members": members, "lead": "listed"}) as trio:
        used = trio.generate(messages=[USER], tools=[WEATHER], max_new_tokens=1).usage.prompt_tokens
        bare = trio.generate(messages=[USER], max_new_tokens=1).usage.prompt_tokens
        assert all(used[name] > bare[name] + 100 for name in used)
        assert trio.call_form().opening == "<calls>["
        assert trio.call_form("tagged").opening == "<tool_call>\n"
        with pytest.raises(SpecError, match="the lead 'tager' is not a member that votes; did you mean 'tagged'"):
            trio.call_form("tager")


def past(arguments: str) -> Prompt:
    made = {**call("ping", {}), "function": {"name": "ping", "arguments": arguments}}
    return Prompt(messages=[USER, *exchange(made), USER], tools=[PING])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "mapping", "text"),
    [
        ("", "{}", "{}"),
        (" \n", "{}", "{}"),
        ("[1, 2]", "[1, 2]", "[1, 2]"),
        ("7", "7", "7"),
        ('{"city": "Par', json.dumps('{"city": "Par'), '{"city": "Par'),
        ('"Paris"', json.dumps('"Paris"'), '"Paris"'),
        ('{"a": 1, "a": 2}', json.dumps('{"a": 1, "a": 2}'), '{"a": 1, "a": 2}'),
        ('{"a": NaN} </s>', json.dumps('{"a": NaN} </s>'), '{"a": NaN} </s>'),
        ("null", '"null"', "null"),
    ],
)
def test_past_arguments_that_are_no_object_are_read_as_a_model_wrote_them(
    arguments: str, mapping: str, text: str
) -> None:
    for template, expected in ((TAGGED, mapping), (JOINED, text)):
        encoder = knowing(template)
        assert f'"arguments": {expected}' in said(encoder, past(arguments))
        assert encoder.encode(past(arguments)).count(TABLE.texts.index("</s>")) == encoder.encode(past("{}")).count(
            TABLE.texts.index("</s>")
        )


@pytest.mark.parametrize("arguments", ["[1, 2]", '{"city": "Par', "7"])
def test_past_arguments_that_a_template_would_leave_out_are_refused(arguments: str) -> None:
    value = "c.function.arguments"
    drops = TAGGED.replace(f"{value} |", f"({value} if {value} is mapping else {{}}) |")
    fails = TAGGED.replace(f"{value} |", f"dict({value}.items()) |")
    for template, words in ((drops, "'m' cannot read the arguments .* of a past"), (fails, "refuses these messages")):
        assert said(knowing(template), past('{"a": 1}'))
        with pytest.raises(PromptError, match=words) as caught:
            knowing(template).encode(past(arguments))
        assert caught.value.hint
