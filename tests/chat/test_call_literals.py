"""Calls whose texts are marked apart from other values, and calls of arguments among control tokens."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from support.encoders import encoder_for, with_tokens
from support.families import TEMPLATES
from support.tool_templates import DELIMITED, ENCLOSED, IN_TAGS, PYTHONIC, TYPED, USER, call, demanded, exchange
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.call_form import CallForm
from unisono.chat.call_literals import Literals, whole_literal
from unisono.chat.call_values import read_value
from unisono.chat.template import ChatTemplate
from unisono.chat.template_probe import as_given, probe_answer_form
from unisono.chat.tool_grammar import call_grammar, no_call_grammar
from unisono.chat.tool_parser import CallEnded, CallFinder, Content, FoundCall, find_calls
from unisono.chat.tools import Tool
from unisono.config.constraint import LARK, Constraint
from unisono.constraints.grammar import Grammars
from unisono.ensemble import Ensemble
from unisono.errors import PromptError, SpecError
from unisono.testing import FakeModel, LongestMatchTokenizer, hashed_rule, register_fake
from unisono.vocab.pieces import BYTE_LEVEL_ALPHABET
from unisono.vocab.union import union_of_bytes

SOURCES = {
    "enclosed": ENCLOSED,
    "typed": TYPED,
    "delimited": DELIMITED,
    "pythonic": PYTHONIC,
    "tags": IN_TAGS.replace("NS", "]~["),
    "marked tags": IN_TAGS.replace("NS", "[NEXT]"),
}
REAL = (
    "ByteDance-Seed-OSS", "deepseek-ai-DeepSeek-V3.2", "deepseek-ai-DeepSeek-V4", "deepseek-ai-DeepSeek-V4-Flash-0731",
    "google-gemma-4-31B-it", "google-gemma-4-31B-it-interleaved", "LFM2.5-8B-A1B", "MiniMax-M3",
)  # fmt: skip
NODE = {"type": "object", "properties": {"name": {"type": "string"}, "size": {"type": "number"}}, "required": ["name"]}
EDIT = Tool(
    type="function",
    function={
        "name": "edit",
        "description": "Edits.",
        "parameters": {
            "type": "object",
            "properties": {
                "path": {"type": "string"},
                "mode": {"enum": ["add", "cut", 7]},
                "sure": {"type": "boolean"},
                "count": {"type": ["integer", "null"]},
                "lines": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
                "node": NODE,
                "more": {},
            },
            "required": ["path"],
            "additionalProperties": False,
        },
    },
)
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
PING = Tool(type="function", function={"name": "ping", "description": "Nothing.", "parameters": NOTHING})
TOOLS, NAMES = [EDIT, PING], ["edit", "ping"]
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("edit", {"path": "a/b.txt", "mode": "add", "sure": True, "count": 7, "lines": ["x y", "é, z"]}),
    ("ping", {}),
    ("edit", {"path": "", "sure": False, "count": None, "lines": [], "node": {"name": "n: {1}", "size": 1.5}}),
    ("edit", {"path": 'it\'s "so"', "more": {"deep": [1, {"a": "b"}]}}),
    ("edit", {"path": "5", "mode": 7, "more": [True, None, "c"]}),
]


def source_of(name: str) -> str:
    if name in SOURCES:
        return SOURCES[name]
    if not (TEMPLATES / f"{name}.jinja").is_file():
        pytest.skip(f"no {name}.jinja")
    return (TEMPLATES / f"{name}.jinja").read_text("utf-8")


@pytest.fixture(params=[*SOURCES, *REAL])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def form(name: str) -> CallForm:
    return encoder_for(source_of(name)).call_form()


def written(form: CallForm, *calls: tuple[str, dict[str, Any]]) -> str:
    assert form.parameters is not None
    texts = [called + form.parameters.written(arguments) for called, arguments in calls]
    return form.opening + (form.between or "").join(texts) + form.closing


def calls_of(form: CallForm) -> list[tuple[str, dict[str, Any]]]:
    """The calls, without nothing where tags cannot hold it."""
    if form.parameters is None or form.parameters.tags is None:
        return CALLS
    return [
        (called, {key: value for key, value in arguments.items() if value is not None and value != [True, None, "c"]})
        for called, arguments in CALLS
    ]


def read(form: CallForm, text: str) -> tuple[str, list[tuple[str, Any]]]:
    content, calls = find_calls(form, NAMES, text, tools=TOOLS)
    return content, [(each.name, json.loads(each.arguments)) for each in calls]


def test_the_forms_are_found_by_asking_the_template() -> None:
    forms = {name: encoder_for(source).call_form() for name, source in SOURCES.items()}
    assert not any(form.by_seams for form in forms.values())
    tokens = {name: tuple(form.tokens.values()) for name, form in forms.items()}
    assert tokens["enclosed"] == ("[CALLS]", "[CALLS_END]", None)
    assert tokens["typed"] == (None, None, None)
    assert tokens["delimited"] == ("<|tool|>", "<|tool_end|>", "<|quote|>")
    assert tokens["pythonic"] == ("<|tool|>", "<|tool_end|>", None)
    assert (tokens["tags"], tokens["marked tags"]) == ((None, None, None), ("[NEXT]", None, None))
    literals = {name: form.parameters and form.parameters.literals for name, form in forms.items()}
    assert literals["enclosed"] is literals["typed"] is None
    assert literals["delimited"] == Literals(("<|quote|>", "<|quote|>"), "true", "None", ",", ("", ":"))
    assert literals["pythonic"] == Literals(("'", "'"), "True", "None", ", ", None)


def test_what_a_template_writes_of_calls_is_found_again(name: str) -> None:
    encoder = encoder_for(source_of(name))
    form, template = encoder.call_form(), encoder.own_template()
    made = [call(called, arguments, f"abcdefgh{n}") for n, (called, arguments) in enumerate(CALLS[:3])]
    given = as_given([USER, *exchange(*made)[:1]], encoder.tool_use().style)
    whole = template.render(given, tools=TOOLS, add_generation_prompt=False)
    begin = len(template.render([USER], tools=TOOLS, add_generation_prompt=False))
    assert read(form, whole[begin:])[1] == calls_of(form)[:3]


def test_what_is_written_is_found_again_however_it_is_cut(form: CallForm) -> None:
    assert form.between is not None
    calls = calls_of(form)
    text = "Hm." + written(form, *calls)
    assert read(form, text) == ("Hm.", calls)
    for size in (1, 5):
        finder = CallFinder(form, NAMES, TOOLS)
        events = [event for place in range(0, len(text), size) for event in finder.feed(text[place : place + size])]
        events += finder.finish()
        assert "".join(event.text for event in events if isinstance(event, Content)) == "Hm."
        assert sum(isinstance(event, CallEnded) for event in events) == len(calls)
    for size in range(3, len(text), 9):
        content, found = find_calls(form, NAMES, text[:size], cut=True, tools=TOOLS)
        assert text.startswith(content)
        assert all(each.name in NAMES for each in found)
        for each in found[:-1]:
            json.loads(each.arguments)


def test_what_breaks_off_or_names_no_tool_is_content(form: CallForm) -> None:
    for text in (
        written(form, ("other", {"a": "b"})),
        written(form, ("edit", {"path": "x"})).removesuffix(form.closing)[:-2],
    ):
        content, calls = read(form, text)
        assert (content.strip(), calls) == (text.strip(), [])
    twice = written(form, ("edit", {"path": "x", "mode": "add"})).replace("mode", "path")
    assert read(form, twice) == (twice, [])


def accepts(form: CallForm, grammar: str, text: str) -> bool:
    """Whether a grammar takes a text, in which control tokens stand for marks, and could stop behind it."""
    tokens = {token: mark for mark, token in reversed(form.tokens.items()) if token is not None}
    union = union_of_bytes(("call_begin", "call_end", "call_text"))
    parse = Grammars(union)(Constraint(LARK, grammar))
    parts = re.split(f"({'|'.join(map(re.escape, tokens))})", text) if tokens else [text]
    for part in parts:
        mark = tokens.get(part)
        columns = list(part.encode()) if mark is None else [union.texts + union.marks.index(mark)]
        for column in columns:
            if not parse.accepts(column):
                return False
            parse.consume(column)
    return bool(parse.allowed(())[union.end])


def test_the_grammar_takes_calls_by_their_schemas_and_nothing_else(form: CallForm) -> None:
    pytest.importorskip("llguidance")
    grammar = call_grammar(form, TOOLS, several=True)
    calls = calls_of(form)
    for each in calls:
        assert accepts(form, grammar, written(form, each)), each
    assert accepts(form, grammar, written(form, *calls))
    for called, arguments in (
        ("edit", {"mode": "add"}),
        ("edit", {"path": "x", "mode": "other"}),
        ("edit", {"path": "x", "count": 1.5}),
        ("edit", {"path": "x", "lines": ["a", "b", "c", "d"]}),
        ("edit", {"path": "x", "lines": [5]}),
        ("edit", {"path": "x", "node": {"size": 1}}),
        ("edit", {"path": "x", "other": 1}),
        ("ping", {"a": 1}),
        ("other", {}),
    ):
        if form.parameters and form.parameters.tags and arguments.get("lines") == [5]:
            continue  # is a text there
        assert not accepts(form, grammar, written(form, (called, arguments))), (called, arguments)
    assert not accepts(form, call_grammar(form, TOOLS), written(form, *calls))


def test_a_free_answer_may_call_and_any_object_is_one_of_arguments_without_a_schema(form: CallForm) -> None:
    pytest.importorskip("llguidance")
    anything = [Tool(type="function", function={"name": name, "parameters": {"type": "object"}}) for name in NAMES]
    free = call_grammar(form, anything, free=True, several=True)
    called = written(form, *calls_of(form)).lstrip()
    for text in ("Hello", "Hello" + called, "Hi.\n" + called):
        assert accepts(form, free, text), text
    silent = no_call_grammar(form)
    assert silent is not None
    assert accepts(form, silent, "Hello")
    assert not accepts(form, silent, "Hello" + form.sign)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "a b"], ["a", "abcd"]),
        ({"type": "string", "pattern": "^[a-c]+$"}, ["abc"], ["abd", ""]),
        ({"type": "string", "format": "date"}, ["2026-11-28"], ["2026-02-30", "x"]),
        ({"type": ["string", "null"], "enum": ["it's", None]}, ["it's", None], ["b"]),
        ({"type": "integer", "minimum": 5}, [7], [3, "7", 7.5]),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 1}, [[True], [True, False]], [[], [1]]),
        ({"anyOf": [{"type": "string"}, {"type": "boolean"}]}, ["true", True, "x, y"], [5]),
        ({"type": "string"}, ["\\", "a\nb", "', x='"], []),
    ],
)
def test_values_are_kept_to_their_schemas(form: CallForm, schema: Any, good: list[Any], bad: list[Any]) -> None:
    pytest.importorskip("llguidance")
    parameters = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    tool = Tool(type="function", function={"name": "f", "parameters": parameters})
    grammar = call_grammar(form, [tool])
    assert form.parameters is not None
    if form.parameters.text_middle is None:  # a text is told by its schema alone
        good = [each for each in good if each != "true"]
        bad = [each for each in bad if each != "7" and ("string" not in str(schema) or isinstance(each, str))]
    for value in good if form.parameters.tags is None else filter(lambda each: each is not None, good):
        text = written(form, ("f", {"a": value}))
        assert accepts(form, grammar, text), value
        assert find_calls(form, ["f"], text, tools=[tool])[1] == (FoundCall("f", json.dumps({"a": value})),)
    for value in bad:
        assert not accepts(form, grammar, written(form, ("f", {"a": value}))), value


def test_a_value_that_holds_what_ends_texts_is_none_that_is_written() -> None:
    pytest.importorskip("llguidance")
    form = encoder_for(DELIMITED).call_form()
    assert form.parameters is not None
    assert form.parameters.literals is not None
    delimiter = form.parameters.literals.text[0]
    for schema in ({"enum": ["b", f"b{delimiter}c"]}, {"type": "array", "items": {"enum": ["b", f"b{delimiter}c"]}}):
        tool = Tool(
            type="function", function={"name": "f", "parameters": {"type": "object", "properties": {"a": schema}}}
        )
        good, bad = ("b", f"b{delimiter}c") if "enum" in schema else (["b"], [f"b{delimiter}c"])
        assert accepts(form, call_grammar(form, [tool]), written(form, ("f", {"a": good})))
        assert not accepts(form, call_grammar(form, [tool]), written(form, ("f", {"a": bad})))
    for value in (f"b{delimiter}c", [f"b{delimiter}c"], {f"b{delimiter}c": 1}):
        properties = {"a": {"const": value}}
        tool = Tool(type="function", function={"name": "f", "parameters": {"type": "object", "properties": properties}})
        with pytest.raises(SpecError, match="a allows no value"):
            call_grammar(form, [tool])


def test_a_schema_within_itself_is_refused_by_the_argument() -> None:
    tree = {"type": "object", "properties": {"left": {"$ref": "#/$defs/tree"}, "right": {"$ref": "#/$defs/tree"}}}
    parameters = {"type": "object", "properties": {"root": {"$ref": "#/$defs/tree"}}, "$defs": {"tree": tree}}
    tool = Tool(type="function", function={"name": "f", "parameters": parameters})
    with pytest.raises(SpecError, match=r"root\.left.* is nested more than 20 levels deep, or is large or"):
        call_grammar(encoder_for(DELIMITED).call_form(), [tool])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("path='a', count=5", {"path": "a", "count": 5}),
        ('path="a, b", sure=true', {"path": "a, b", "sure": True}),
        ("path='it's', mode='add'", {"path": "it's", "mode": "add"}),
        (r"path='it\'s\n\u00e9\ud83d\ude00 \d'", {"path": "it's\né😀 \\d"}),
        ("path = 'a' ,sure=False", {"path": "a", "sure": False}),
        ("path=5, lines=['a', \"b\"]", {"path": "5", "lines": ["a", "b"]}),
        ("path='x', more={'k': [None, 1e3], \"l\": 'm'}", {"path": "x", "more": {"k": [None, 1000.0], "l": "m"}}),
        ("path='x', more=some", {"path": "x", "more": "some"}),
        ("path='x', count=inf", {"path": "x", "count": "inf"}),
    ],
)
def test_calls_as_of_python_are_read_as_models_write_them(text: str, value: Any) -> None:
    form = encoder_for(PYTHONIC).call_form()
    assert read(form, f"Well.<|tool|>[edit({text}), ping()]<|tool_end|>") == ("Well.", [("edit", value), ("ping", {})])


def test_values_that_nothing_can_be_are_content() -> None:
    form = encoder_for(PYTHONIC).call_form()
    for text in ("path=", "path='a' b", "path=[1", "path={1}", "=1", "path=" + "[" * 300):
        whole = f"<|tool|>[edit({text})]<|tool_end|>"
        assert read(form, whole) == (whole, [])


def test_lists_as_of_python_are_lists_where_a_schema_wants_them() -> None:
    assert read_value("['a', \"it's\", None]", {"type": "array"}) == ["a", "it's", None]
    assert read_value("{'a': True}", {"type": "object"}) == {"a": True}
    assert read_value("['a'", {"type": "array"}) == "['a'"
    assert read_value("['a']", {"type": "string"}) == "['a']"
    assert read_value("['a'] ['b']", {"type": "array"}) == "['a'] ['b']"
    assert whole_literal("x") == "x"


@pytest.mark.parametrize(
    ("source", "change", "why"),
    [
        (TYPED, ("<｜DSML｜invoke name", "<|user|><｜DSML｜invoke name"), ""),
        (TYPED, ("</｜DSML｜parameter>", "<|user|>"), "one by one, and with the control token '<|user|>'"),
        (TYPED, ("| tojson }}</", "| string }}</"), "one by one, each in another way"),
        (DELIMITED, ("<|quote|>{% elif", "<|system|>{% elif"), "texts between <|quote|> and <|system|>"),
        (DELIMITED, ("[{% for inner", "({% for inner"), "lists or mappings in another way"),
        (ENCLOSED, ("[CALLS]\\n", "[CALLS][OTHER]"), "marks a call by several control tokens"),
        (ENCLOSED, ("</parameter>", "</{{ key }}>"), "each one's name twice"),
    ],
)
def test_a_form_that_cannot_be_told_is_refused(source: str, change: tuple[str, str], why: str) -> None:
    changed = source.replace(*change).replace(change[0].replace("\\n", "\n"), change[1])
    assert changed != source
    encoder = encoder_for(changed)
    if not why:
        assert encoder.call_form().begin_token == "<|user|>"
        return
    with pytest.raises(PromptError, match=re.escape(why)):
        encoder.call_form()


@pytest.mark.parametrize(
    ("behind", "result", "ends"),
    [
        ("<|result|>", "{% if loop.previtem.role == 'tool' %}<|result|>{% endif %}{{ m.content }}<|close|>", True),
        ("<|result|>", "{{ m.content }}<|close|>", False),
        ("", "<|result|>{{ m.content }}<|close|>", False),
        ("</s>", "<|result|>{{ m.content }}<|close|>", False),
    ],
)
def test_a_token_behind_calls_with_which_results_begin_ends_answers(behind: str, result: str, ends: bool) -> None:
    source = (
        "{{ tools | tojson }}{% for m in messages %}{% if m.tool_calls %}<|calls|>{% for c in m.tool_calls %}"
        "{{ c.function | tojson }}{% endfor %}BEHIND{% elif m.role == 'tool' %}RESULT{% else %}{{ m.content }}</s>"
        "{% endif %}{% endfor %}"
    )
    source = source.replace("BEHIND", behind).replace("RESULT", result)
    table = with_tokens(source + "<|result|>")
    found = probe_answer_form(ChatTemplate(source, table.special_texts), LongestMatchTokenizer(table))
    assert (table.texts.index("<|result|>") in found.turn_end_ids) is ends
    assert table.texts.index("</s>") in found.turn_end_ids


def test_a_model_makes_the_call_that_is_demanded_in_its_own_tokens(name: str) -> None:
    pytest.importorskip("llguidance")
    source = source_of(name)
    table = replace(with_tokens(source, texts=("ping", "on")), chat_template=source)
    other = replace(with_tokens(ENCLOSED), chat_template=SOURCES["typed"])
    for each, its in (("lead", table), ("other", other)):
        rule = hashed_rule(len(its.texts))
        register_fake(each, FakeModel(LongestMatchTokenizer(its), rule, context=8192))
    schema = {"properties": {"s": {"enum": ["on"]}, "n": {"const": 7}}, "required": ["s", "n"], "type": "object"}
    tool = Tool(type="function", function={"name": "ping", "description": "Nothing.", "parameters": schema})
    members = [{"name": each, "model": f"fake:{each}"} for each in ("lead", "other")]
    with Ensemble.load({"members": members}) as ensemble:
        form = ensemble.call_form()
        answer = demanded(ensemble, tool, 600)
        assert find_calls(form, ["ping"], answer, tools=[tool])[1] == (FoundCall("ping", '{"s": "on", "n": 7}'),)
        heard = {
            each: "".join(
                FAKE_MODELS[each].tokenizer.table.texts[token]
                for one in FAKE_MODELS[each].passes
                for feed in one.feeds
                for token in feed.ids
            )
            for each in ("lead", "other")
        }
    FAKE_MODELS.clear()
    assert form.parameters is not None
    call_text = "ping" + form.parameters.written({"s": "on", "n": 7})
    assert byte_level(call_text) in heard["lead"]
    quoted = call_text.replace(form.text_token, '"') if form.text_token else call_text
    if form.parameters.tags is None or form.begin_token is None:  # it reads nothing where a call begins
        assert byte_level(quoted) in heard["other"]


def byte_level(text: str) -> str:
    """A text as tokens of bytes spell it, and control tokens as they are."""
    letters = {byte: letter for letter, byte in BYTE_LEVEL_ALPHABET.items()}
    parts = re.split(r"(<\|[^|]+\|>|\[[A-Z_]+\])", text)
    return "".join(
        "".join(letters[byte] for byte in part.encode()) if place % 2 == 0 else part for place, part in enumerate(parts)
    )
