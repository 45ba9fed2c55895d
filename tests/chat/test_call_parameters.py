"""Calls whose arguments stand one by one: their form, what is read of them, and their grammar."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from support.encoders import encoder_of, knowing
from support.fakes import make_fakes
from support.families import TEMPLATES
from support.real_server import A, B, Served, serving
from support.tool_templates import PARAMETERS, PING, WEATHER
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.call_form import CallForm
from unisono.chat.call_parameters import ParameterSegments
from unisono.chat.call_values import read_value
from unisono.chat.tool_grammar import call_grammar
from unisono.chat.tool_parser import CallEnded, CallFinder, Content, FoundCall, find_calls
from unisono.chat.tools import Tool
from unisono.errors import PromptError, SpecError
from unisono.testing import byte_level_table

TAGS = ParameterSegments("><parameter=", ">", "</parameter>", "<parameter=", "</function>", "></function>")
QWEN = ParameterSegments(">\n<parameter=", ">\n", "\n</parameter>", "\n<parameter=", "\n</function>", ">\n</function>")
GLM = ParameterSegments(
    "<arg_key>", "</arg_key><arg_value>", "</arg_value>", "<arg_key>", "</tool_call>", "</tool_call>"
)
MINIMAX = ParameterSegments(
    '">\n<parameter name="', '">', "</parameter>", '\n<parameter name="', "\n</invoke>", '">\n</invoke>'
)
REAL = {"Qwen3-Coder": QWEN, "GLM-4.7-Flash": GLM, "GLM-4.6": None, "MiniMax-M2": None}
EDIT = Tool(
    type="function",
    function={
        "name": "edit",
        "parameters": {
            "type": "object",
            "properties": {
                "path": {"type": "string"},
                "text": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
                "lines": {"type": "array", "items": {"type": "integer"}},
                "mode": {"enum": ["add", "cut"]},
                "sure": {"type": "boolean"},
                "kind": {"$ref": "#/$defs/kind"},
            },
            "required": ["path", "mode"],
            "additionalProperties": False,
            "$defs": {"kind": {"type": "object", "properties": {"of": {"$ref": "#/$defs/of"}}}, "of": {"const": 7}},
        },
    },
)
NAMES = ["edit", "get_weather", "ping"]
TOOLS = [EDIT, WEATHER, PING]


def forms() -> Iterator[Any]:
    yield pytest.param(knowing(PARAMETERS).call_form(), id="tags")
    for name in REAL:
        if (TEMPLATES / f"{name}.jinja").is_file():
            yield pytest.param(real(name), id=name)


def real(name: str) -> CallForm:
    return encoder_of(byte_level_table(), (TEMPLATES / f"{name}.jinja").read_text("utf-8")).call_form()


FORMS = list(forms())
each_form = pytest.mark.parametrize("form", FORMS)


def written(form: CallForm, *calls: tuple[str, dict[str, Any]]) -> str:
    """Calls as the form writes them."""
    assert form.parameters is not None
    return (
        form.opening
        + (form.between or "").join(name + form.parameters.written(arguments) for name, arguments in calls)
        + form.closing
    )


def read(form: CallForm, text: str, *, cut: bool = False) -> tuple[str, list[tuple[str, Any]]]:
    content, calls = find_calls(form, NAMES, text, cut=cut, tools=TOOLS)
    return content, [(call.name, json.loads(call.arguments)) for call in calls]


@pytest.mark.parametrize("name", REAL)
def test_the_segments_of_real_templates(name: str) -> None:
    if not (TEMPLATES / f"{name}.jinja").is_file():
        pytest.skip(f"no {name}.jinja")
    form = real(name)
    assert form.parameters is not None
    assert not form.by_seams
    assert REAL[name] in (form.parameters, None)


def test_the_form_is_cut_out_of_what_a_template_writes() -> None:
    form = knowing(PARAMETERS).call_form()
    assert form.parameters == TAGS
    assert (form.opening, form.closing) == ("<tool_call><function=", "</tool_call>")
    assert form.written("ping", "{}") == "<tool_call><function=ping></function></tool_call>"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("<parameter=", "<|system|>"), "one by one, and with the control token '<|system|>'"),
        ((">{{ value }}", ">{{ value | tojson }}{{ key }}"), "one by one, and each one's name twice"),
        (("<function={{ c.function.name }}>", "{{ c.function.name }}"), ""),
        (("<function=", "<function id={{ c.id }} name="), "its id beside"),
        (("<tool_call><function={{ c.function.name }}>", "{{ c.function.name }}>"), "its name alone"),
    ],
)
def test_a_form_that_cannot_be_told_is_refused(change: tuple[str, str], why: str) -> None:
    encoder = knowing(PARAMETERS.replace(*change))
    if not why:
        assert encoder.call_form().parameters is not None
        return
    with pytest.raises(PromptError, match=re.escape(why)):
        encoder.call_form()


CALLS: list[tuple[str, dict[str, Any]]] = [
    ("edit", {"path": "70717", "text": ' a <b>\n\n"c" é日本😀\n', "lines": [1, 2], "mode": "add", "sure": True}),
    ("ping", {}),
    ("edit", {"path": "", "text": None, "mode": "cut", "kind": {"of": 7}}),
    ("get_weather", {"city": "true", "days": 3}),
]


@each_form
def test_what_is_written_is_found_again_however_it_is_cut(form: CallForm) -> None:
    assert form.between is not None
    text = "Hm." + written(form, *CALLS)
    assert read(form, text) == ("Hm.", CALLS)
    for size in range(3, len(text), 7):
        content, calls = find_calls(form, NAMES, text[:size], cut=True, tools=TOOLS)
        assert text.startswith(content)
        assert all(call.name in NAMES for call in calls)
        for call in calls[:-1]:
            json.loads(call.arguments)


@each_form
def test_what_breaks_off_or_names_no_tool_is_content(form: CallForm) -> None:
    other = written(form, ("other", {"a": "b"}))
    assert read(form, other) == (other, [])
    text = written(form, ("edit", {"path": "x", "mode": "add"}))
    assert form.parameters is not None
    broken = text.replace(form.parameters.close, " what?")
    assert read(form, broken) == (broken, [])
    twice = text.replace("mode", "path")
    assert read(form, twice) == (twice, [])


LINES = (
    PARAMETERS.replace("<tool_call><function=", "<tool_call>\n<function=")
    .replace("name }}>", "name }}>\n")
    .replace(">{{ value }}</parameter>", ">\n{{ value }}\n</parameter>\n")
    .replace("</function></tool_call>", "</function>\n</tool_call>")
)
"""As Qwen3-Coder's."""
CODE = "import re\nre.sub(r'<parameter=a>\\n(.*)</parameter>', '</parameter>\\n', x)\n</parameter> "


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("<tool_call>\n<function=ping>\n</function>\n</tool_call>", "", [("ping", {})]),
        ("<tool_call>\n<function=ping>\n</function>", "", [("ping", {})]),
        ("I see.\n\n<function=ping>\n</function>\n</tool_call>", "I see.", [("ping", {})]),
        ("Hm <tool_call><function=ping></function></tool_call>", "Hm", [("ping", {})]),
        (
            "<tool_call>\n<function=edit>\n<parameter=path>a</parameter>\n\n<parameter=sure>True\n</parameter>"
            "</function></tool_call>",
            "",
            [("edit", {"path": "a", "sure": True})],
        ),
        (
            "<tool_call>\n<function=edit>\n<parameter=sure>\nmaybe\n</parameter>\n<parameter=more>\n[1]\n</parameter>\n"
            "</function>\n</tool_call>",
            "",
            [("edit", {"sure": "maybe", "more": [1]})],
        ),
        (
            "<tool_call>\n<function=edit>\n<parameter=sure>\nTRUE\n</parameter>\n<parameter=more>\nTRUE\n</parameter>\n"
            "</function>\n</tool_call>",
            "",
            [("edit", {"sure": True, "more": "TRUE"})],
        ),
        (
            '<tool_call>\n<function=edit>\n<parameter=lines>\n["\\ud83c"]\n</parameter>\n</function>\n</tool_call>',
            "",
            [("edit", {"lines": ["\ud83c"]})],
        ),
        (
            f"<tool_call>\n<function=edit>\n<parameter=text>\n{CODE}\n</parameter>\n</function>\n</tool_call>",
            "",
            [("edit", {"text": CODE})],
        ),
        ("Write <function=NAME> and </function>.", "Write <function=NAME> and </function>.", []),
        ("a <tool_call> b", "a <tool_call> b", []),
    ],
)
def test_calls_are_found_as_models_write_them(text: str, content: str, calls: list[tuple[str, Any]]) -> None:
    """Without the first tag (ollama#16686), with other white space, or with the markup in a value (vllm#23099).

    What is told can always be encoded.
    """
    form = knowing(LINES).call_form()
    assert form.parameters == QWEN
    assert read(form, text) == (content, calls)
    for size in (1, 3, 11):
        finder = CallFinder(form, NAMES, TOOLS)
        events = [event for place in range(0, len(text), size) for event in finder.feed(text[place : place + size])]
        events += finder.finish()
        assert "".join(event.text for event in events if isinstance(event, Content)) == content
        assert sum(isinstance(event, CallEnded) for event in events) == len(calls)


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("5", {"type": "string"}, "5"),
        ("5", {"type": "integer"}, 5),
        ("5.0", {"type": "integer"}, 5.0),
        ("5", {"type": "number"}, 5),
        ("5", {"anyOf": [{"type": "string"}, {"type": "null"}]}, "5"),
        ("null", {"anyOf": [{"type": "string"}, {"type": "null"}]}, None),
        ("None", {"type": ["integer", "null"]}, None),
        ("None", {"type": "string"}, "None"),
        ("None", {}, "None"),
        ('"a"', {"type": ["string", "null"]}, '"a"'),
        ("[1", {"type": "array"}, "[1"),
        ("NaN", {"type": "number"}, "NaN"),
        ("1e999", {"type": "number"}, "1e999"),
        ("yes", {"enum": ["yes", 1]}, "yes"),
        ("1", {"enum": ["yes", 1]}, 1),
        ("true", {"$ref": "#/$defs/a"}, "true"),
        ("5", None, 5),
        ("five", None, "five"),
    ],
)
def test_a_value_is_what_its_schema_wants_or_the_text(text: str, schema: Any, value: Any) -> None:
    read = read_value(text, schema, {"$defs": {"a": {"allOf": [{"type": "string"}]}}})
    assert (type(read), read) == (type(value), value)


def accepts(grammar: str, text: str) -> bool:
    """Whether llguidance takes the whole text, and could stop behind it."""
    llguidance = pytest.importorskip("llguidance")
    matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), grammar)
    assert not matcher.is_error(), matcher.get_error()
    taken = matcher.try_consume_tokens(list(text.encode()))
    return bool(taken == len(text.encode()) and matcher.is_accepting())


@each_form
def test_the_grammar_takes_calls_by_their_schemas_and_nothing_else(form: CallForm) -> None:
    grammar = call_grammar(form, TOOLS, several=True)
    for call in CALLS:
        assert accepts(grammar, written(form, call)), call
    assert accepts(grammar, written(form, *CALLS))
    for name, arguments in (
        ("edit", {"mode": "add"}),
        ("edit", {"path": "x", "mode": "other"}),
        ("edit", {"path": "x", "mode": "add", "sure": "maybe"}),
        ("edit", {"path": "x", "lines": ["a"], "mode": "add"}),
        ("edit", {"path": "x", "mode": "add", "kind": {"of": 8}}),
        ("edit", {"path": "x", "mode": "add", "more": 1}),
        ("ping", {"a": 1}),
        ("get_weather", {"city": "x", "days": "soon"}),
        ("other", {}),
    ):
        assert not accepts(grammar, written(form, (name, arguments))), (name, arguments)
    assert not accepts(call_grammar(form, TOOLS), written(form, *CALLS))
    free = call_grammar(form, TOOLS, free=True, several=True)
    assert accepts(free, "Hello")
    assert accepts(free, "Hello" + written(form, *CALLS))


def grammar_of(**schema: Any) -> str:
    tool = Tool(type="function", function={"name": "f", "parameters": {"type": "object", **schema}})
    return call_grammar(knowing(PARAMETERS).call_form(), [tool])


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "a\nb"], ["a", "abcd"]),
        ({"type": "string", "pattern": "^[a-c]+$"}, ["abc"], ["abd", ""]),
        ({"type": "string", "pattern": "b/c"}, ["ab/cd"], ["abc"]),
        ({"type": "string", "pattern": r"^<[\|]x$"}, ["<|x"], ["<x", "a<|x", "<|xx"]),
        ({"type": "string", "pattern": r"^a\|b$"}, ["a|b"], ["a", "b"]),
        ({"type": "string", "pattern": "^(a|bc)$"}, ["a", "bc"], ["abc", "ab"]),
        ({"type": "string", "pattern": "^ax|by$"}, ["axz", "zby"], ["zax", "byz"]),
        ({"type": "string", "pattern": r"^5\$"}, ["5$", "5$ or so"], ["5", "25$"]),
        ({"type": "string", "format": "date"}, ["2026-11-28"], ["28.11.2026", "2026-02-30"]),
        ({"type": "string", "format": "date-time"}, ["2026-11-28T10:00:00Z"], ["2026-11-28"]),
        ({"type": "string", "format": "uri"}, ["https://a.b/c"], ["a b"]),
        ({"const": "x"}, ["x"], ["y"]),
        ({"enum": ["x", "x</parameter>y"]}, ["x"], ["x</parameter>y"]),
        ({"type": ["string", "null"], "enum": ["a", None]}, ["a", "null"], ["b"]),
        ({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer"}}]}, ["a", "[1]"], ['["a"]']),
        ({"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 5}]}, ["a", "7"], ["3"]),
        ({"type": ["string", "integer"]}, ["a", "7"], []),
        ({"type": "number"}, ["1.5", "-2"], ["a", '"1"']),
        ({"description": "Anything."}, ["a", "{}"], []),
    ],
)
def test_texts_are_kept_to_their_schemas(schema: Any, good: list[str], bad: list[str]) -> None:
    grammar = grammar_of(properties={"a": schema}, required=["a"])
    for text in (*good, *bad):
        call = f"<tool_call><function=f><parameter=a>{text}</parameter></function></tool_call>"
        assert accepts(grammar, call) is (text in good), text


def test_without_properties_any_argument_may_be_written() -> None:
    call = "<tool_call><function=f><parameter=a>1</parameter><parameter=b_c>x\ny</parameter></function></tool_call>"
    assert accepts(grammar_of(), call)
    assert accepts(grammar_of(), "<tool_call><function=f></function></tool_call>")
    assert not accepts(grammar_of(additionalProperties={"type": "integer"}), call)
    assert not accepts(grammar_of(additionalProperties=False), call)
    assert accepts(grammar_of(required=["a", "b_c"]), call)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"patternProperties": {"a": {}}}, "the parameters has 'patternProperties'"),
        ({"properties": {"a": {"type": "string", "format": "ipv6"}}}, "properties.a has 'format: ipv6'"),
        ({"properties": {"a": {"not": {"type": "string"}}}}, "properties.a has 'not'"),
        ({"properties": {"a": {"oneOf": [{"type": "string"}, {"minLength": 3}]}}}, "properties.a has 'oneOf'"),
        ({"properties": {"a>b": {}}}, "the argument 'a>b' cannot be written"),
        ({"properties": {"a": {"type": "string", "pattern": "(?i)a|b$"}}}, "has 'pattern with flags, | and ^ or $'"),
        ({"properties": {"a": False}, "required": ["a"]}, "properties.a allows no value"),
        ({"properties": {"a": {"const": "b</parameter>\n<parameter=c>d"}}}, "properties.a allows no value"),
    ],
)
def test_what_cannot_be_kept_to_is_refused_by_name(schema: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=re.escape(words)):
        grammar_of(**schema)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    make_fakes()
    with serving({"calls": {"members": [{**each, "chat_template": PARAMETERS} for each in (A, B)]}}) as server:
        yield server
    FAKE_MODELS.clear()


def test_the_server_answers_with_a_call(served: Served) -> None:
    pytest.importorskip("llguidance")
    schema = {
        "properties": {"way": {"enum": ["left", "right"]}, "far": {"type": "boolean"}},
        "required": ["way", "far"],
    }
    turn = {"type": "function", "function": {"name": "turn", "parameters": {"type": "object", **schema}}}
    asked: dict[str, Any] = {
        "model": "calls",
        "messages": [{"role": "user", "content": "Go"}],
        "tools": [turn],
        "max_tokens": 250,
    }
    for choice in ("required", {"type": "function", "function": {"name": "turn"}}):
        answer = served.post("/v1/chat/completions", {**asked, "tool_choice": choice}).json()
        [call] = answer["choices"][0]["message"]["tool_calls"]
        given = json.loads(call["function"]["arguments"])
        assert given["way"] in ("left", "right")
        assert isinstance(given["far"], bool)
    assert served.post("/v1/chat/completions", asked).status_code == 200
    strict = {"type": "function", "function": {**turn["function"], "strict": True}}
    assert served.post("/v1/chat/completions", {**asked, "tools": [strict]}).status_code == 200


def test_the_library_reads_calls_with_their_tools() -> None:
    form = knowing(PARAMETERS).call_form()
    text = written(form, ("get_weather", {"city": "5", "days": 5}))
    assert find_calls(form, NAMES, text, tools=TOOLS)[1] == (FoundCall("get_weather", '{"city": "5", "days": 5}'),)
    assert find_calls(form, NAMES, text)[1] == (FoundCall("get_weather", '{"city": 5, "days": 5}'),)
