"""The forms of calls, calls found in what is written, and the grammar of answers that have to call."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.encoders import encoder_of, knowing
from support.tool_templates import (
    BARE,
    CONTROL,
    DEAF,
    FUNCTIONAL,
    LAID_OUT,
    LINES,
    LISTED,
    NAMES,
    OBJECT,
    PARAMETERS,
    PING,
    REVERSED,
    TAGGED,
    UNDERSTOOD,
    USER,
    WEATHER,
    call,
    calling,
    exchange,
)
from unisono.chat.call_form import CallForm
from unisono.chat.prompt_encoder import PromptEncoder
from unisono.chat.template_probe import CallStyle, as_given
from unisono.chat.tool_grammar import call_grammar
from unisono.chat.tool_parser import (
    CallArguments,
    CallBegun,
    CallBroken,
    CallEnded,
    CallEvent,
    CallFinder,
    Content,
    FoundCall,
    find_calls,
)
from unisono.chat.tools import Tool
from unisono.errors import PromptError, SpecError
from unisono.testing import byte_level_table
from unisono.vocab.marks import MarkForms
from unisono.vocab.pieces import read_vocabulary
from unisono.vocab.spelling import Speller

FORMS = {name: knowing(template).call_form() for name, template in UNDERSTOOD.items()}
HERMES = FORMS["tagged"]
BRACKETED = CallForm("[", ", ", "]", "name", "arguments")


def test_the_form_of_a_templates_calls_is_cut_out_of_what_it_writes() -> None:
    between = "\n</tool_call>\n<tool_call>\n"
    assert knowing(TAGGED).call_form() == CallForm("<tool_call>\n", between, "\n</tool_call>", "name", "arguments")
    assert knowing(LISTED).call_form() == CallForm(
        "<calls>[", ", ", "]</calls>", "name", "arguments", other_keys=("id",)
    )
    assert knowing(LINES).call_form() == CallForm("Calls:\n", "\n", "\n</calls>", "name", "arguments")
    assert knowing(BARE).call_form() == CallForm("", None, "", "name", "parameters")
    assert knowing(REVERSED).call_form() == CallForm(
        "CALL ", ";CALL ", ";", "function", "arguments", name_first=False, separators=(",", ":")
    )
    assert knowing(LAID_OUT).call_form().separators is None


def test_a_mark_that_begins_like_the_frame_of_a_reply_is_cut_out_whole() -> None:
    framed = TAGGED.replace("<|{{ m.role }}|>{{ m.content }}", "<|{{ m.role }}|><tool_free>{{ m.content }}</tool_free>")
    assert knowing(framed).call_form() == knowing(TAGGED).call_form()


@pytest.mark.parametrize(
    ("call", "reply", "tokens"),
    [
        ("@calls" + OBJECT, "@case {{ m.content }}", ("@calls", None)),
        (OBJECT + "calls@", "{{ m.content }} falls@", (None, "calls@")),
    ],
)
def test_a_control_token_that_begins_or_ends_like_a_reply_is_seen(
    call: str, reply: str, tokens: tuple[str | None, str | None]
) -> None:
    names = {"<unk>": "@calls", "<s>": "calls@"}
    table = byte_level_table()
    table = dataclasses.replace(table, texts=tuple(names.get(text, text) for text in table.texts))
    template = calling(call.replace("c.", "m.tool_calls[0].")).replace("{{ m.content }}{{ eos", reply + "{{ eos")
    form = encoder_of(table, template).call_form()
    assert (form.begin_token, form.end_token) == tokens
    assert (form.opening, form.closing) == tuple(token or "" for token in tokens)


def test_reasoning_that_a_prompt_has_ended_is_no_part_of_a_call() -> None:
    closed = "<|assistant|><s><|user|>"
    template = calling(f"<s><|user|><|system|>{OBJECT}".replace("c.", "m.tool_calls[0]."))
    ended = template.replace("{% if add_generation_prompt %}<|assistant|>", "{% if add_generation_prompt %}" + closed)
    assert ended != template
    assert encoder_of(byte_level_table(), ended).call_form().begin_token == "<|system|>"


@pytest.mark.parametrize("other", [("<|user|>",), ("<s>", "<|user|>"), ()])
def test_calls_that_a_template_marks_otherwise_than_the_spec_are_refused(other: tuple[str, ...]) -> None:
    table = byte_level_table()
    encoder = encoder_of(table, calling(f"<s>{OBJECT}".replace("c.", "m.tool_calls[0].")))
    assert encoder.call_form().begin_token == "<s>"
    ids = tuple(table.texts.index(text) for text in other)
    marks = MarkForms({"call_begin": ids} if ids else {})
    speller = Speller(read_vocabulary(table, encoder.speller.vocabulary.end_ids, marks=marks), encoder.tokenizer.encode)
    own = PromptEncoder("m", encoder.tokenizer, speller, encoder.template)
    with pytest.raises(PromptError, match="marks a call by '<s>', and the spec has another call_begin"):
        own.call_form()


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (DEAF, "does not know tools"),
        (PARAMETERS.replace(">{{ value }}", " {{ value }}"), "writes the arguments of a call one by one, and "),
        (FUNCTIONAL.replace("c.function.arguments", "c.function.arguments.items() | list"), "writes the arguments"),
        (FUNCTIONAL.replace("<function=", "{{ c.function.name }}"), "writes a call's name more than once"),
        (FUNCTIONAL.replace("<function=", "").replace("</function>", "<s>"), "begins a call with text, and holds"),
        (CONTROL.replace("<|system|>{", "<|system|><|user|>{"), "marks a call by several control tokens"),
        (CONTROL.replace("<|system|>{", "</s>\n<|system|>{"), "writes a call as a turn of its own: by </s>"),
        (calling('[{"{{ m.tool_calls[0].function.name }}": {{ m.tool_calls[0].function.arguments | tojson }}}]'),
         "begins a call with its name alone, or with signs that texts have"),
        (TAGGED.replace("<tool_call>", "<tool_call id={{ c.id }}>"), "writes a call's name or id outside"),
    ],
)  # fmt: skip
def test_a_form_that_is_not_understood_or_cannot_be_written_is_refused(template: str, why: str) -> None:
    with pytest.raises(PromptError, match=f"member 'm' writes them: its chat template {why}") as caught:
        knowing(template).call_form()
    assert "make another member the lead" in str(caught.value.hint)


def joined(events: list[CallEvent]) -> list[tuple[Any, ...]]:
    """Events without the cuts between deltas."""
    told: list[tuple[Any, ...]] = []
    for event in events:
        if isinstance(event, Content | CallArguments) and told and told[-1][0] == type(event).__name__:
            told[-1] = (*told[-1][:-1], told[-1][-1] + event.text)
        else:
            told.append((type(event).__name__, *(getattr(event, key) for key in event.__slots__ if key != "at")))
    return told


def streamed(form: CallForm, deltas: list[str]) -> list[tuple[Any, ...]]:
    finder = CallFinder(form, NAMES)
    return joined([*itertools.chain.from_iterable(map(finder.feed, deltas)), *finder.finish()])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.sampled_from(["</tool_call>", '"}']),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip
CALLS = st.lists(
    st.tuples(st.sampled_from(NAMES), st.dictionaries(st.text(max_size=4), JSON, max_size=3)), min_size=1, max_size=3
)
WORDS = st.sampled_from(["", "Let me see.", "{x}", "<tool", "a < b\n\nc"])


@pytest.mark.slow
@pytest.mark.parametrize("name", UNDERSTOOD)
@settings(max_examples=60, deadline=None)
@given(calls=CALLS, content=WORDS)
def test_what_a_template_writes_of_content_and_calls_is_found_again(
    name: str, calls: list[tuple[str, dict[str, Any]]], content: str
) -> None:
    encoder = knowing(UNDERSTOOD[name])
    if name in ("bare", "laid out"):  # which write one call at a time
        calls = calls[:1]
    if name == "bare":
        content = ""
    made = [call(called, arguments, f"abcdefgh{n}") for n, (called, arguments) in enumerate(calls)]
    assert encoder.template is not None
    style = encoder.tool_use().style or CallStyle()
    opening = encoder.template.render([USER])
    whole = encoder.template.render(
        as_given([USER, *exchange(*made, content=content)[:1]], style), add_generation_prompt=False
    )
    answer = whole.removeprefix(opening).removesuffix("</s>")
    text, found = find_calls(FORMS[name], NAMES, answer)
    assert text == content
    assert [(each.name, json.loads(each.arguments)) for each in found] == calls


FRAGMENTS = [
    "<tool_call>", "</tool_call>", "<tool_call>\n", "\n</tool_call>", "<tool", "_call>", "<calls>[", "]</calls>",
    "Calls:\n", "CALL ", ";", ", ", "\n", " ", "  \n", "Hello", "{", "}", "é", '"', "\\", "\x00", "[1]",
    '{"name": "ping", "arguments": {}}', '{"arguments":{"a":[1,"}"]},"name":"ping"}', '{"name":"ping","parameters":{}}',
    '{"name": "ping", "arguments": {"a": "\\"x"', '{"name": "other", "arguments": {}}', '{"name": "ping"}',
    '{"id": 12, "name": "ping", "arguments": {"a": "é"}}', '{"arguments":{},"function":"ping"}',
    '{"name": "ping", "arguments": {"a": 1, "a": 2}}', '{"name": "ping", "arguments": {]}}',
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=9).map("".join)


@pytest.mark.parametrize("name", UNDERSTOOD)
@settings(max_examples=150, deadline=None)
@given(text=TEXTS, cuts=st.lists(st.integers(0, 200), max_size=12))
@example(text='{"name":"ping","parameters":{}} ; <tool_call>', cuts=[0])
def test_however_a_text_is_cut_the_same_is_found(name: str, text: str, cuts: list[int]) -> None:
    whole = streamed(FORMS[name], [text])
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    assert streamed(FORMS[name], [text[a:b] for a, b in itertools.pairwise(edges)]) == whole
    assert streamed(FORMS[name], list(text)) == whole


@pytest.mark.parametrize("name", UNDERSTOOD)
@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_what_holds_no_whole_call_is_content_to_the_last_character(name: str, text: str) -> None:
    assert find_calls(FORMS[name], (), text) == (text, ())
    unclosed = text.replace("}", "")
    assert find_calls(FORMS[name], NAMES, unclosed) == (unclosed, ())
    content, found = find_calls(FORMS[name], NAMES, text)
    assert found or content == text


@pytest.mark.parametrize("name", ["tagged", "listed", "lines"])
@settings(max_examples=100, deadline=None)
@given(parts=st.lists(st.sampled_from(["x", " y\n", "<tool", "{", '"', "<call", "é"]) | CALLS, max_size=6))
def test_words_between_calls_are_kept_in_their_order(name: str, parts: list[Any]) -> None:
    """White space beside a call is dropped right before it, and behind the last."""
    form = FORMS[name]
    text = "".join(part if isinstance(part, str) else answer(form, *part) for part in parts)
    words, calls = "", []
    for part in parts:
        words = words + part if isinstance(part, str) else words.rstrip()
        calls += [] if isinstance(part, str) else part
    content, found = find_calls(form, NAMES, text)
    assert "".join(content.split()) == "".join(words.split())
    assert [(each.name, json.loads(each.arguments)) for each in found] == calls


@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_what_is_streamed_and_what_is_found_in_the_whole_agree(text: str) -> None:
    begun: dict[int, tuple[str, str]] = {}
    ended: set[int] = set()
    content = ""
    for kind, *told in streamed(HERMES, [text]):
        match kind:
            case "Content":
                content += told[0]
            case "CallBegun":
                begun[told[0]] = (told[1], "")
            case "CallArguments":
                begun[told[0]] = (begun[told[0]][0], begun[told[0]][1] + told[1])
            case "CallEnded":
                ended.add(told[0])
            case "CallBroken":
                content += told[1]
                del begun[told[0]]
    assert begun.keys() == ended
    assert (content, tuple(itertools.starmap(FoundCall, begun.values()))) == find_calls(HERMES, NAMES, text)
    for _, arguments in begun.values():
        assert isinstance(json.loads(arguments), dict)


def test_arguments_come_out_while_they_are_written() -> None:
    finder = CallFinder(HERMES, NAMES)
    assert finder.feed("So: <tool") == [Content("So:")]
    assert finder.feed('_call>{"name": "ping", "argu') == []
    assert finder.feed('ments": {"a": ') == [CallBegun(0, "ping"), CallArguments(0, '{"a": ')]
    assert finder.feed("1}") == [CallArguments(0, "1}")]
    assert finder.feed("}\n</tool") == [CallEnded(0)]
    assert finder.feed("_call>\n") == finder.finish() == []


def test_a_call_that_breaks_off_is_told_and_is_content_of_the_whole() -> None:
    text = 'Hm.\n<tool_call>\n{"name": "ping", "arguments": {"a": 1'
    *_, last = CallFinder(HERMES, NAMES).feed(text)
    assert last == CallArguments(0, '{"a": 1')
    assert streamed(HERMES, [text])[-1] == ("CallBroken", 0, text.removeprefix("Hm."))
    assert find_calls(HERMES, NAMES, text) == (text, ())
    assert isinstance(CallBroken(0, "").text, str)
    assert CallEnded(0).index == 0


@pytest.mark.parametrize("name", UNDERSTOOD)
@pytest.mark.parametrize("count", [1, 2])
def test_wherever_a_limit_cuts_a_call_no_markup_is_content(name: str, count: int) -> None:
    form, said = FORMS[name], "" if name == "bare" else "Hm."
    if form.between is None:
        count = 1
    arguments = '{"a": "\\"x}", "b": [1]}'
    text = said + answer(form, *[("ping", json.loads(arguments))] * count)
    for size in range(len(said), len(text) + 1):
        content, found = find_calls(form, NAMES, text[:size], cut=True)
        mark = form.opening.strip() or '{"name"'
        first = mark[:1] if mark[0] == "<" else mark[: len(mark) - 1]  # which may as well be text
        assert said.startswith(content) or (not found and first.startswith(content.removeprefix(said).strip())), text[
            :size
        ]
        assert len(found) <= count
        for call_ in found[:-1]:
            assert json.loads(call_.arguments) == json.loads(arguments)
        if found:
            assert found[-1].name == "ping"
            whole = find_calls(form, NAMES, text)[1][-1].arguments
            assert whole.startswith(found[-1].arguments)
        finder = CallFinder(form, NAMES)
        told = joined([*itertools.chain.from_iterable(map(finder.feed, text[:size])), *finder.finish(cut=True)])
        assert "".join(each[1] for each in told if each[0] == "Content") == content
        assert sum(each[0] in ("CallEnded", "CallCut") for each in told) == len(found)


@pytest.mark.parametrize("name", UNDERSTOOD)
@settings(max_examples=100, deadline=None)
@given(text=TEXTS)
def test_a_limit_cuts_nothing_off_but_the_call_that_it_cut(name: str, text: str) -> None:
    form = FORMS[name]
    (content, found), (kept, calls) = (find_calls(form, NAMES, text, cut=cut) for cut in (False, True))
    assert content.startswith(kept)
    assert calls[: len(found)] == found
    assert len(calls) <= len(found) + 1
    if content != kept:
        mark, lost = form.opening.strip(), content[len(kept) :].strip()
        assert not lost or mark.startswith(lost) or lost.startswith(mark)


@pytest.mark.parametrize(
    ("form", "text", "content", "calls"),
    [
        ("tagged", "a <", "a <", []),
        ("tagged", "a <to", "a", []),
        ("tagged", "a <tool_calls>", "a <tool_calls>", []),
        ("tagged", 'a <tool_call>\n{"name": "pi', "a", []),
        ("tagged", 'a <tool_call>\n{"name": "ping"', "a", [("ping", "")]),
        ("tagged", 'a <tool_call>\n{"name": "pong"', 'a <tool_call>\n{"name": "pong"', []),
        ("tagged", 'a <tool_call>\n{"name": "ping", "arguments": {"a', "a", [("ping", '{"a')]),
        ("tagged", '<tool_call>{"arguments": {"a"', "", []),
        ("tagged", '<tool_call>{"name": "ping", "arguments": {}}</tool', "", [("ping", "{}")]),
        ("tagged", '<tool_call>{"name": "ping", "arguments": {}}</tool_call>\n<', "", [("ping", "{}")]),
        ("lines", "The Call", "The Call", []),
        ("lines", 'So Calls:\n{"name": "pi', "So", []),
        ("bare", '{"na', '{"na', []),
        ("bare", '{"name": "pi', "", []),
        ("bare", '{"name": "Anna"', '{"name": "Anna"', []),
        ("bare", '{"title": "pi', '{"title": "pi', []),
    ],
)
def test_what_a_limit_leaves_of_a_call(form: str, text: str, content: str, calls: list[tuple[str, str]]) -> None:
    told, found = find_calls(FORMS[form], NAMES, text, cut=True)
    assert (told, [(each.name, each.arguments) for each in found]) == (content, calls)


@pytest.mark.parametrize(
    ("form", "text", "content", "calls"),
    [
        ("tagged", '<tool_call>{"arguments":{},"name":"ping"}', "", 1),
        ("tagged", '<tool_call>{"name":"ping","arguments":{}}</tool_call> Done. ', " Done. ", 1),
        ("tagged", '<tool_call>oops<tool_call>{"name":"ping","arguments":{}}', "<tool_call>oops", 1),
        ("tagged", '<tool_call>{"name":"other","arguments":{}}</tool_call>', None, 0),
        ("tagged", '<tool_call>{"name":"ping","arguments":"{}"}</tool_call>', "", 1),
        ("tagged", '<tool_call>{"name":"ping","arguments":"[]"}</tool_call>', None, 0),
        ("tagged", '<tool_call>{"name":"ping","arguments":""}</tool_call>', "", 1),
        ("tagged", '<tool_call>{"name":"ping","arguments":null}</tool_call>', "", 1),
        ("tagged", '<tool_call>{"name":"ping","arguments":nil}</tool_call>', None, 0),
        ("tagged", '<tool_call>{"name":"ping"}</tool_call>', "", 1),
        ("tagged", '<tool_call>{"name":"ping","city":"Bonn"}</tool_call>', None, 0),
        ("tagged", '<tool_call>{"id":"x","name":"ping","arguments":{}}</tool_call>', "", 1),
        ("tagged", '<tool_call>{"type":"function","name":"ping"}</tool_call>', "", 1),
        ("tagged", '<tool_call>{"name":"ping","parameters":{}}</tool_call>', "", 1),
        ("tagged", '<tool_call>{"name":"ping","parameters":{},"arguments":{}}</tool_call>', None, 0),
        ("tagged", '<tool_call>{"name":"ping","name":"get_weather","arguments":{}}</tool_call>', None, 0),
        ("listed", '<calls>[{"name":"ping","arguments":{},"id":"x"},\n{"name":"ping","arguments":{}}]</calls>', "", 2),
        ("listed", '<calls>[{"name":"ping","arguments":{}}, and', ", and", 1),
        ("bare", ' {"name": "ping", "parameters": {}} ', "", 1),
        ("bare", '{"type": "function", "name": "ping", "arguments": {}}', "", 1),
        ("bare", '{"type": "person", "name": "ping", "parameters": {}}', None, 0),
        ("bare", '{"type": 1, "name": "ping", "parameters": {}}', None, 0),
        ("bare", '{"name": "ping", "parameters": "{}"}', None, 0),
        ("bare", '{"name": "ping"}', None, 0),
        ("bare", '{"name": "ping", "arguments": {"type": "object", "properties": {"n": {}}}}', None, 0),
        ("bracketed", '[{"name": "ping", "parameters": {}, "description": "Pings."}]', None, 0),
        ("bracketed", '[{"name": "ping"}]', None, 0),
        ("bracketed", '[{"name": "ping", "arguments": {}}]', "", 1),
        ("bare", 'Like {"name": "ping", "parameters": {}}', None, 0),
        ("bare", '{"city": "Bonn"}', None, 0),
        ("lines", 'Calls:\n{"name":"ping","arguments":{}}\n{"name":"ping","arguments":{}}\n</calls>', "", 2),
    ],
)
def test_calls_are_found_as_models_write_them(form: str, text: str, content: str | None, calls: int) -> None:
    told, found = find_calls({**FORMS, "bracketed": BRACKETED}[form], NAMES, text)
    assert told == (text if content is None else content)
    assert len(found) == calls


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ('{"city": "a\nb\tc\r\x00"}', {"city": "a\nb\tc\r\x00"}),
        ('{"a\nb": ["\n", {"c": "\n"}]}', {"a\nb": ["\n", {"c": "\n"}]}),
        ('"{\\"city\\": \\"Bonn\\"}"', {"city": "Bonn"}),
        ('{"city": "a\\\nb"}', None),
        ('"{\\"city\\": \\"a\\nb\\"}"', {"city": "a\nb"}),
        ('"{\\"city\\": \\"\\ud83c\\"}"', {"city": "\ud83c"}),
    ],
)
def test_arguments_are_read_as_they_are_meant_and_told_as_json(given: str, read: Any) -> None:
    """Models write line breaks within strings as they are, and arguments as the text of their JSON."""
    text = f'<tool_call>{{"name": "ping", "arguments": {given}}}</tool_call>'
    content, calls = find_calls(HERMES, NAMES, text)
    assert [json.loads(call.arguments) for call in calls] == ([] if read is None else [read])
    assert content == ("" if calls else text)
    assert all(call.arguments.encode() for call in calls)


REFERRING = Tool(
    type="function",
    function={
        "name": "paint",
        "parameters": {
            "type": "object",
            "properties": {"colour": {"$ref": "#/$defs/colour"}},
            "required": ["colour"],
            "additionalProperties": False,
            "$defs": {"colour": {"enum": ['r"d', "青", "😀"], "description": "// no # comment }"}},
        },
    },
)
ODD = CallForm('😀"\\\n', " // ", "#", 'na"me', "arguments", name_first=False)


def accepts(grammar: str, text: str) -> bool:
    """Whether llguidance takes the whole text, and could stop behind it."""
    llguidance = pytest.importorskip("llguidance")
    tokenizer = llguidance.LLTokenizer("byte")
    matcher = llguidance.LLMatcher(tokenizer, grammar)
    assert not matcher.is_error(), matcher.get_error()
    taken = matcher.try_consume_tokens(list(text.encode()))
    return bool(taken == len(text.encode()) and matcher.is_accepting())


def answer(form: CallForm, *calls: tuple[str, Any]) -> str:
    """Calls as the form writes them."""
    objects = []
    for name, arguments in calls:
        before, behind = form.framed(name)
        objects.append(before + json.dumps(arguments, separators=form.separators, ensure_ascii=False) + behind)
    return form.opening + (form.between or "").join(objects) + form.closing


@pytest.mark.parametrize("form", [*FORMS.values(), ODD], ids=[*FORMS, "odd"])
def test_the_grammar_takes_calls_by_their_schemas_and_nothing_else(form: CallForm) -> None:
    tools = [WEATHER, PING, REFERRING]
    grammar = call_grammar(form, tools)
    for name, arguments, good in (
        ("get_weather", {"city": "Köln", "days": 2}, True),
        ("get_weather", {"days": 2}, False),
        ("get_weather", {"city": 3}, False),
        ("ping", {}, True),
        ("ping", {"a": 1}, False),
        ("paint", {"colour": 'r"d'}, True),
        ("paint", {"colour": "😀"}, True),
        ("paint", {"colour": "red"}, False),
        ("other", {}, False),
    ):
        assert accepts(grammar, answer(form, (name, arguments))) is good, (name, arguments)
    assert not accepts(grammar, "Hello" + answer(form, ("ping", {})))
    assert not accepts(call_grammar(form, tools, "ping"), answer(form, ("paint", {"colour": 'r"d'})))
    assert accepts(call_grammar(form, tools, "ping"), answer(form, ("ping", {})))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_names_of_any_script_are_written_as_they_are(form: CallForm) -> None:
    for name in ("मौसम", "อากาศ", "me\u0301te\u0301o", "天気"):
        tool: Tool = {"type": "function", "function": {"name": name}}
        written = form.written(name, "{}")
        assert name in written
        assert accepts(call_grammar(form, [tool]), written)
        assert accepts(call_grammar(form, [tool], answer={"type": "string"}), written)
        assert [call.name for call in find_calls(form, [name], written)[1]] == [name]


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_the_grammar_takes_several_calls_where_that_is_allowed_and_the_form_has_a_way(name: str) -> None:
    form = FORMS[name]
    two = answer(form, ("ping", {}), ("get_weather", {"city": "Bonn"}))
    assert accepts(call_grammar(form, [WEATHER, PING], several=True), two) is (form.between is not None)
    assert not accepts(call_grammar(form, [WEATHER, PING]), two)
    if form.between is not None:
        assert len(find_calls(form, NAMES, two)[1]) == 2


def test_a_tool_that_is_to_be_called_and_is_not_there_is_refused() -> None:
    with pytest.raises(SpecError, match=r"the tool 'pong' is to be called.*did you mean 'ping'"):
        call_grammar(HERMES, [WEATHER, PING], "pong")


LOOSE = CallForm("<calls>[", ", ", "]</calls>", "name", "arguments", other_keys=("id", "thought"))


@pytest.mark.parametrize(
    ("other", "is_call"),
    [
        ('"thought": "he said \\"x\\"", ', True),
        ('"thought": "\\\\", ', True),
        ('"thought": "", ', True),
        ('"id": 7, ', True),
        ('"id": -1.5e3, ', True),
        ('"id": null, ', True),
        ('"id": [1, "]"], ', True),
        ('"id": , ', False),
        ('"id": x, ', False),
        ('"id": NaN, ', False),
        ('"id": 1 2, ', False),
    ],
)
def test_other_keys_of_a_call_are_any_json_and_nothing_else(other: str, is_call: bool) -> None:
    text = f'<calls>[{{{other}"name": "f", "arguments": {{}}}}]</calls>'
    content, calls = find_calls(LOOSE, ["f"], text)
    assert ([call.name for call in calls], content) == ((["f"], "") if is_call else ([], text))


def test_an_object_that_ends_where_a_value_belongs_is_no_call() -> None:
    text = '<calls>[{"name": "f", "arguments": {}, "id": }]</calls>'
    assert find_calls(LOOSE, ["f"], text) == (text, ())
