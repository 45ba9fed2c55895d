"""Texts that are bound to a grammar: the mask is what can be completed, and every way of writing keeps to it."""

from __future__ import annotations

import enum
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Annotated, Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from support.fakes import PROMPTS, check
from support.methods import FixedDraftLength
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.call_form import CallForm
from unisono.chat.tool_grammar import call_grammar
from unisono.config.constraint import Constraint
from unisono.config.method import Method
from unisono.constraints.grammar import Compile, Grammars
from unisono.constraints.json_schema import (
    FORMATS,
    NULLABLE,
    check_schema,
    plain_schema,
    without_unknown_formats,
)
from unisono.engine.draft_length import DraftLengthController
from unisono.engine.engine import Engine
from unisono.engine.reference import PlainStep, plain_steps
from unisono.engine.request import Ended, Request
from unisono.engine.service import Service
from unisono.ensemble import Ensemble
from unisono.errors import BackendMissing, SpecError
from unisono.records import Generation, Limits
from unisono.testing import FakeModel, LongestMatchTokenizer, byte_level_table, hashed_rule, register_fake
from unisono.vocab.union import UnionVocabulary

WORDS = {
    "a": ['{"', '":', '": ', '", "', '"}', " the", "日本", "ab", "abc", "true", "[1", ", ", "12", "\n\n", "é", " a"],
    "b": ['{"a', '"a":', "日", "bc", "abcd", "null", "]}", '"x"', "2,", "   ", '"é', "12]", '{"a": "', " }"],
    "c": ['{"a": ', "abcab", "cab", '"y",', "[", "]"],
}
NAMES = ("a", "b", "c")
OBJECT = {
    "type": "object",
    "properties": {
        "a": {"enum": ["x", "é", "日本"]},
        "list": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 2},
        "in": {
            "type": "object",
            "properties": {"s": {"type": "string", "maxLength": 3}, "t": {"type": ["boolean", "null"]}},
            "required": ["s", "t"],
            "additionalProperties": False,
        },
    },
    "required": ["a", "list", "in"],
    "additionalProperties": False,
}
GATES = ("always", "confidence:0.3", "entropy:1.5 boundary", "every:3")
DRAWS = ("greedy", "1 seed:1", "0.7 seed:2 top_p:0.8 repetition_penalty:1.4", "1 seed:4 top_k:3", "one-member seed:6")
DRAFTERS = ("off", "a:3", "b:2", "c", "ngram", "auto")


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


def make_fakes(seed: int = 0) -> None:
    for number, (name, words) in enumerate(WORDS.items()):
        table = byte_level_table(words)
        rule = hashed_rule(len(table.texts), 10 * seed + number)
        register_fake(name, FakeModel(LongestMatchTokenizer(table), rule))


def load(names: Sequence[str] = NAMES, batch: int = 8, **keys: Any) -> Ensemble:
    return Ensemble.load({"members": [{"name": name, "model": f"fake:{name}"} for name in names], **keys}, batch=batch)


def engine_of(
    names: Sequence[str] = NAMES,
    batch: int = 8,
    draft_length: DraftLengthController | None = None,
    compile_grammar: Compile | None = None,
) -> Engine:
    ensemble = load(names, batch)
    loaded, compile_grammar = ensemble._engine, compile_grammar or ensemble.prepared.grammars
    return Engine(
        loaded.members, loaded.union, loaded.method, draft_length=draft_length, compile_grammar=compile_grammar
    )


def grammars() -> Grammars:
    return load().prepared.grammars


def test_as_many_grammars_are_kept_as_their_sources_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unisono.constraints.grammar.CHARACTERS", 100)
    compiled = grammars()
    short = [Constraint("regex", letter) for letter in "abc"]
    for constraint in (*short, short[0]):
        compiled(constraint)
    assert list(compiled._compiled) == [*short[1:], short[0]]
    assert compiled._compiled[short[0]] is not compiled(short[0])
    middle, long = Constraint("regex", "a" * 98), Constraint("regex", "b" * 200)
    compiled(middle)
    assert list(compiled._compiled) == [short[2], short[0], middle]
    compiled(long)
    assert list(compiled._compiled) == [long]
    for number in range(40):
        compiled(Constraint("regex", str(number)))
    assert [each.source for each in compiled._compiled] == [str(number) for number in range(8, 40)]


def columns(union: UnionVocabulary, allowed_U: NDArray[np.bool_]) -> set[bytes | None]:
    return {union.piece(int(column)) for column in np.nonzero(allowed_U)[0]}


def completable(union: UnionVocabulary, language: Iterable[bytes], written: bytes) -> set[bytes | None]:
    """What may follow in a finite language: by trying every piece with every text of it."""
    texts = [text for text in language if text.startswith(written)]
    pieces = {piece for column in range(union.end) if (piece := union.piece(column)) is not None}
    allowed: set[bytes | None] = {
        text[len(written) : end] for text in texts for end in range(len(written) + 1, len(text) + 1)
    } & pieces
    return allowed | ({None} if written in texts else set())


class ListParse:
    """The same as a `Parse`, so that the engine is tried without the library."""

    by_seams = False

    def __init__(self, union: UnionVocabulary, language: frozenset[bytes] | None, written: bytes = b"") -> None:
        self.union, self.language, self.written = union, language, written

    def allowed(self, ahead: Sequence[int]) -> NDArray[np.bool_]:
        if self.language is None:
            return np.ones(self.union.size, np.bool_)
        written = self.written + b"".join(self.union.piece(column) or b"" for column in ahead)
        wanted = completable(self.union, self.language, written)
        assert wanted, f"asked behind {written!r}, which is not allowed"
        return np.asarray([self.union.piece(column) in wanted for column in range(self.union.size)])

    def settle(self, column: int) -> int:
        return column

    def consume(self, column: int) -> None:
        self.written += self.union.piece(column) or b""

    def copy(self) -> ListParse:
        return ListParse(self.union, self.language, self.written)


@cache
def finite(pattern: str) -> frozenset[bytes]:
    """The texts of a few characters that a pattern matches, by trying all there are of its own characters."""
    letters = sorted(set(re.sub(r"[\\\[\](){}?*+|.,]|\d", "", pattern)))
    texts = ("".join(word) for size in range(7) for word in itertools.product(letters, repeat=size))
    return frozenset(text.encode() for text in texts if re.fullmatch(pattern, text))


def step_through(language: Iterable[bytes], constraint: Constraint) -> int:
    """Hold the mask against brute force behind every beginning, reached by whichever pieces lead there."""
    union, made = load().prepared.union, grammars()
    pieces = {piece: column for column in range(union.end) if (piece := union.piece(column)) is not None}
    waiting, seen = [(b"", made(constraint))], {b""}
    while waiting:
        written, parse = waiting.pop()
        wanted = completable(union, language, written)
        assert columns(union, parse.allowed(())) == wanted, written
        for piece in wanted - {None}:
            assert piece is not None
            assert columns(union, parse.allowed([pieces[piece]])) == completable(union, language, written + piece)
            if written + piece not in seen:
                seen.add(written + piece)
                twin = parse.copy()
                twin.consume(pieces[piece])
                waiting.append((written + piece, twin))
    return len(seen)


@pytest.mark.parametrize("pattern", ["abc", "(abc?)+b?", "a(bc|é|日本)?", "(é|è)a?", "", "[abc]{2,4}", "a?b?c?a?"])
def test_the_mask_of_a_regex_is_what_can_be_completed(pattern: str) -> None:
    if not pattern:
        with pytest.raises(SpecError, match="empty"):
            Constraint.parse("regex:")
        return
    language = {text for text in finite(pattern) if len(text) <= 6}
    bounded = "|".join(re.escape(text.decode()) for text in sorted(language))
    assert step_through(language, Constraint("regex", bounded)) > 3


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.sets(st.text("abc1 é日\n\"'/\\{[", min_size=0, max_size=5), min_size=1, max_size=6))
def test_the_mask_of_any_few_texts_is_what_can_be_completed(texts: set[str]) -> None:
    """As a Lark grammar and as an enumeration in JSON, for texts of any characters."""
    make_fakes()
    lark = "start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in sorted(texts))
    step_through({text.encode() for text in texts}, Constraint("lark", lark))
    schema = {"enum": sorted(texts)}
    written = {json.dumps(text, ensure_ascii=False).encode() for text in texts}
    step_through(written, Constraint.parse({"json_schema": schema}) or Constraint("json_object"))


def test_the_mask_of_a_schema_is_what_can_be_completed() -> None:
    """One space may stand behind a comma or a colon and no whitespace elsewhere."""
    schema = {
        "type": "object",
        "properties": {"a": {"enum": ["x", 12, None]}, "日": {"type": "array", "items": {"const": 1}, "maxItems": 2}},
        "required": ["a"],
        "additionalProperties": False,
    }
    language = set()
    for value, colon, comma, other in itertools.product(('"x"', "12", "null"), (":", ": "), (",", ", "), (":", ": ")):
        language.add(f'{{"a"{colon}{value}}}')
        for items in ("", "1", "1,1", "1, 1"):
            language.add(f'{{"a"{colon}{value}{comma}"日"{other}[{items}]}}')
    assert step_through({text.encode() for text in language}, Constraint("json_schema", json.dumps(schema))) > 100


def test_halves_of_characters_are_allowed_in_strings_and_whole_ones_come_of_them() -> None:
    union = load().prepared.union
    parse = grammars()(Constraint("json_schema", '{"type": "string"}'))
    pieces = {union.piece(column): column for column in range(union.size)}
    parse.consume(pieces[b'"'])
    for byte in "日".encode():
        assert bytes([byte]) in columns(union, parse.allowed(()))
        parse.consume(pieces[bytes([byte])])
        ends = b'"' in columns(union, parse.allowed(()))
        assert ends == (byte == "日".encode()[-1])
    forbidden = {bytes([byte]) for byte in (*range(0x20), *range(0x80, 0xC2), *range(0xF5, 0x100))}
    assert not forbidden & columns(union, parse.allowed(()))


LANGUAGES = {
    "abc": frozenset(b"abc".splitlines()),
    "words": frozenset(
        text.encode() for text in ("abcabcab", "ab", "é the 日本", "日本日本", "true, 12", "12", "12]}")
    ),
    "long": frozenset(("ab" * size).encode() for size in range(3, 30)),
}


@pytest.mark.slow
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_constrained_engine_equals_the_constrained_plain_loop(gate: str, language: str) -> None:
    """Law 5 with a grammar: gate x draw x drafter x batch; every text is one of the language or was cut."""
    union = load().prepared.union
    start = ListParse(union, LANGUAGES[language])
    for number, (draw, drafter) in enumerate(itertools.product(DRAWS, DRAFTERS)):
        if number % 3 != list(LANGUAGES).index(language):  # a third of them for each language
            continue
        method = Method(lead="b").but(gate=gate, draw=draw, speculate=drafter)
        plain = engine_of()
        expected: list[list[PlainStep]] = [
            list(plain_steps(plain.members, plain.union, prompt, 10, method, parse=start.copy()))
            for prompt in PROMPTS[:4]
        ]
        for size, draft_length in ((1, FixedDraftLength()), (4, DraftLengthController())):
            engine = engine_of(batch=size, draft_length=draft_length, compile_grammar=lambda _: start.copy())
            check(write(engine, size, method, "json_object", 10), expected, NAMES)


def write(engine: Engine, size: int, method: Method, constraint: object, pieces: int) -> list[Any]:
    texts: list[Any] = []
    waiting = list(PROMPTS[:4])
    while waiting or engine.active:
        while waiting and len(engine.active) < size:
            prompt = waiting.pop(0)
            texts.append(engine.add(prompt, Limits(pieces), method=method, trace=True, constraint=constraint))
        engine.step()
    return texts


@pytest.mark.parametrize("drafter", ["off", "a:3", "ngram"])
def test_a_grammar_that_allows_everything_changes_nothing(drafter: str) -> None:
    for gate, draw in itertools.product(GATES[1:3], DRAWS):
        method = Method(lead="b").but(gate=gate, draw=draw, speculate=drafter)
        union = load().prepared.union
        engine = engine_of(draft_length=FixedDraftLength(), compile_grammar=lambda _, its=union: ListParse(its, None))
        free = write(engine_of(draft_length=FixedDraftLength()), 4, method, None, 10)
        bound = write(engine, 4, method, "json_object", 10)
        for one, other in zip(free, bound, strict=True):
            assert one.steps == other.steps


def keeps(generation: Generation, language: frozenset[bytes]) -> bool:
    """Whether a text is of a language, or was cut within one of its texts."""
    if generation.finish_reason == "end":
        return generation.data in language
    return any(text.startswith(generation.data) for text in language)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_text_keeps_to_its_grammar_however_it_is_written(data: st.DataObject) -> None:
    """Random members, gates, draws, drafts, beams and batches of bound and free texts; all by llguidance."""
    make_fakes(data.draw(st.integers(0, 1000)))
    engine = engine_of(batch=6, draft_length=data.draw(st.sampled_from([FixedDraftLength, DraftLengthController]))())
    wanted: dict[Any, Any] = {}
    for _ in range(data.draw(st.integers(1, 4))):
        draw = data.draw(st.sampled_from([*DRAWS, "greedy beam_width:2"]))
        method = Method(lead=data.draw(st.sampled_from(NAMES))).but(
            gate=data.draw(st.sampled_from(GATES)),
            speculate=data.draw(st.sampled_from(["off"] if "beam" in draw else DRAFTERS)),
            draw=draw,
            combine=data.draw(st.sampled_from(["mean"] if "one-member" in draw else ["geometric", "mean truncate:2"])),
        )
        bound = data.draw(st.sampled_from(["schema", "object", *LANGUAGES, None]))
        limits = Limits(data.draw(st.integers(1, 40)))
        prompt, steps = data.draw(st.sampled_from(PROMPTS)), data.draw(st.booleans())
        if engine.free < method.draw.beam_width:  # which depends on the clock, by which drafts are made
            continue
        wanted[engine.add(prompt, limits, method=method, constraint=constraint_of(bound))] = bound
        if steps:
            engine.step()
    while engine.active:
        engine.step()
    for text, bound in wanted.items():
        generation = text.generation()
        if bound in LANGUAGES:
            assert keeps(generation, LANGUAGES[bound])
        elif bound is not None and generation.finish_reason == "end":
            schema = OBJECT if bound == "schema" else {"type": "object"}
            jsonschema.validate(json.loads(generation.data), schema)


def constraint_of(bound: str | None) -> Constraint | None:
    if bound is None:
        return None
    if bound in LANGUAGES:
        texts = sorted(json.dumps(text.decode(), ensure_ascii=False) for text in LANGUAGES[bound])
        return Constraint("lark", f"start: {' | '.join(texts)}")
    return Constraint.parse({"json_schema": OBJECT}) if bound == "schema" else Constraint("json_object")


@pytest.mark.slow
def test_the_texts_above_are_not_vacuous() -> None:
    """Some end by themselves, drafts hold and fail, and grammars do change what is written."""
    ended, drafts = set(), set()
    for seed in range(20):
        make_fakes(seed)
        engine = engine_of(draft_length=FixedDraftLength())
        limit = 60 if seed % 2 else 12
        for text in write(engine, 4, Method().but(speculate="a:3", draw="1 seed:3"), {"json_schema": OBJECT}, limit):
            ended.add(text.finish)
            drafts |= {step.draft.accepted for step in text.steps if step.draft}
            if text.finish == "end":
                jsonschema.validate(json.loads(text.generation().data), OBJECT)
    assert ended == {"end", "length"}
    assert drafts == {True, False}


def test_copies_of_a_text_keep_to_the_grammar_each_with_its_seed() -> None:
    ensemble = load(batch=4)
    texts = ensemble.generate("x", n=6, draw="1 seed:5", max_new_tokens=80, constraint={"regex": "(ab|日本|12){1,5}"})
    assert len({text.data for text in texts}) > 1
    for number, text in enumerate(texts):
        assert re.fullmatch("(ab|日本|12){1,5}", text.text)
        draw = f"1 seed:{5 + number}"
        alone = ensemble.generate("x", draw=draw, max_new_tokens=80, constraint="regex:(ab|日本|12){1,5}")
        assert (alone.data, alone.seed) == (text.data, 5 + number)


def test_a_beam_finds_the_likeliest_text_of_a_small_language() -> None:
    """With as many hypotheses as there are beginnings nothing is lost: the search is exhaustive."""
    language = frozenset((b"ab", b"bc", b"12"))
    ensemble = load(batch=1, sampling="greedy beam_width:12 length_penalty:0")
    engine = ensemble._engine
    bound = ensemble.generate("x", constraint="regex:ab|bc|12", max_new_tokens=5)
    parse = ListParse(engine.union, language)

    def best(parse: ListParse, path: tuple[int, ...]) -> tuple[float, bytes]:
        allowed_U = parse.allowed(())
        q_U = exact(engine, path)
        q_U = np.where(allowed_U, q_U, 0) / q_U[allowed_U].sum()
        found = []
        for column in np.nonzero(allowed_U)[0]:
            if column == engine.union.end:
                found.append((float(np.log(q_U[column])), parse.written))
                continue
            twin = parse.copy()
            twin.consume(int(column))
            score, text = best(twin, (*path, int(column)))
            found.append((score + float(np.log(q_U[column])), text))
        return max(found)

    assert bound.data == best(parse, ())[1]


def exact(engine: Engine, path: Sequence[int]) -> NDArray[np.float64]:
    """The mean distribution behind some pieces, from the plain loop made to follow them."""

    class Follow(ListParse):
        def allowed(self, ahead: Sequence[int]) -> NDArray[np.bool_]:
            only = np.zeros(self.union.size, np.bool_)
            only[path[self.place] if self.place < len(path) else self.union.end] = True
            return only

        place = 0

        def consume(self, column: int) -> None:
            self.place += 1

    [*_, last] = plain_steps(engine.members, engine.union, PROMPT_X, len(path) + 1, parse=Follow(engine.union, None))
    return last.q_U


PROMPT_X = PROMPTS[0].__class__(text="x")


def test_the_trace_tells_the_mass_before_the_grammar_took_any_away() -> None:
    engine = engine_of()
    [text, *_] = write(engine, 1, Method(), "regex:ab", 5)
    union = engine.union
    start = ListParse(union, frozenset((b"ab",)))
    plain = list(plain_steps(engine.members, union, PROMPTS[0], 5, parse=start))
    assert [step.piece for step in text.steps] == [step.piece for step in plain]
    for step, oracle_step in zip(text.steps, plain, strict=True):
        assert step.p == pytest.approx(oracle_step.p, rel=1e-4)
        assert step.p < 0.9


def test_what_is_allowed_without_mass_is_taken_evenly() -> None:
    """A rule that truncates leaves one piece of each member: forced text has no mass, and is written all the same."""
    generation = load().generate("x", combine="mean truncate:1", constraint="regex:日本é12", max_new_tokens=20)
    assert (generation.text, generation.finish_reason) == ("日本é12", "end")
    drawn = load().generate(
        "x", n=30, combine="mean truncate:1", draw="1 seed:1", constraint="regex:[a-z]", max_new_tokens=4
    )
    assert len({text.text for text in drawn}) > 8


def test_a_failed_pass_leaves_the_grammar_where_the_text_is() -> None:
    for moment in range(1, 12):
        make_fakes()
        engine = engine_of(draft_length=FixedDraftLength())
        method = Method().but(speculate="a:3")
        [expected] = write(engine, 1, method, {"json_schema": OBJECT}, 12)[:1]
        make_fakes()
        engine = engine_of(draft_length=FixedDraftLength())
        text = engine.add(PROMPTS[0], Limits(12), method=method, trace=True, constraint={"json_schema": OBJECT})
        member = engine.members[moment % 3].backend
        advance, calls = member.advance, itertools.count(1)

        def failing(feeds: Any, advance: Any = advance, calls: Any = calls, moment: int = moment) -> Any:
            if next(calls) == moment:
                raise RuntimeError("a pass failed")
            return advance(feeds)

        member.advance = failing  # type: ignore[method-assign]
        while text.finish is None:
            try:
                engine.step()
            except RuntimeError:
                assert text in engine.active
        assert [step.piece for step in text.steps or ()] == [step.piece for step in expected.steps]


def test_a_service_and_a_batch_bind_each_request_by_itself() -> None:
    ensemble = load()
    requests = [
        Request("json", PROMPTS[0], Limits(60), constraint={"json_schema": OBJECT}),
        Request("free", PROMPTS[0], Limits(10)),
        Request("wrong", PROMPTS[0], Limits(10), constraint={"json_schema": {"not": {}}}),
        Request("ab", PROMPTS[0], Limits(60), constraint="regex:(ab){3}"),
    ]
    results = {request.id: result for request, result in ensemble.generate_batch(requests)}
    assert isinstance(results["wrong"], SpecError)
    free, bound = results["free"], results["ab"]
    assert isinstance(free, Generation)
    assert isinstance(bound, Generation)
    assert bound.text == "ababab"
    assert free.data == ensemble.generate(PROMPTS[0].text, max_new_tokens=10).data
    service = Service({"all": ensemble._engine})
    method = Method().but(draw="1 seed:1")
    request = Request("", PROMPTS[0], Limits(60), n=2, method=method, constraint="regex:(ab){3}", model="all")
    service.submit(service.prepare(request))
    texts = []
    while service.busy:
        texts += [event.generation.text for event in service.step() if isinstance(event, Ended)]
    assert texts == ["ababab", "ababab"]
    with pytest.raises(SpecError, match="cannot be kept"):
        service.prepare(Request("", PROMPTS[0], constraint={"json_schema": {"not": {}}}, model="all"))


REFUSED = {
    'that are not supported: "not"': {"type": "object", "not": {}},
    "uniqueItems": {"type": "array", "uniqueItems": True},
    "Unknown format": {"type": "string", "format": "barcode"},
    "Invalid type": {"type": "strin"},
    "oneOf": {"oneOf": [{"type": "number"}, {"type": "integer"}]},
    "look-around": {"type": "string", "pattern": "(?=a)b"},
    "minimum": {"type": "integer", "minimum": 3, "maximum": 2},
    "x-guidance": {"type": "string", "x-guidance": {"lenient": True}},
    "did you mean 'required'": {"properties": {"a": {"type": "object", "requird": ["b"]}}},
    "did you mean 'minLength'": {"items": {"type": "string", "minlength": 2}},
    "minContains": {"type": "array", "minContains": 1},
    'that are not supported: "if"': {"type": "object", "if": {}, "then": {}},
    "required is true": {"type": "object", "properties": {"a": {"type": "string", "required": True}}},
    "exclusiveMinimum is true": {"type": "integer", "minimum": 3, "exclusiveMinimum": True},
    "items is [": {"type": "array", "items": [{"type": "integer"}]},
    "additionalItems": {"type": "array", "prefixItems": [{"type": "integer"}], "additionalItems": False},
    "maxLength is '5'": {"anyOf": [{"type": "string", "maxLength": "5"}]},
    "minProperties": {"anyOf": [{"type": "object", "minProperties": 2}]},
    "nullable is true": {"anyOf": [{"type": "string", "nullable": True}]},
    "registry": {"$ref": "https://example.org/schema"},
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_schema_that_cannot_be_kept_is_refused_by_name(words: str) -> None:
    with pytest.raises(SpecError, match=re.escape(words)) as refused:
        load().generate("x", constraint={"json_schema": REFUSED[words]})
    assert refused.value.hint
    assert len(str(refused.value)) < 400


def test_remarks_and_properties_of_any_name_are_no_misspelt_keywords() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "t",
        "example": 1,
        "x-order": 2,
        "type": "object",
        "properties": {"requird": {"const": 1}, "minlength": {"const": 2}},
        "required": ["requird", "minlength"],
        "additionalProperties": False,
    }
    made = load().generate("x", max_new_tokens=80, constraint={"json_schema": schema})
    assert json.loads(made.data) == {"requird": 1, "minlength": 2}


class Colour(enum.Enum):
    RED = "rouge"
    GREEN = "vert ✓"


class Part(BaseModel, extra="forbid"):
    colour: Colour
    size: Annotated[int, Field(ge=0, le=9)] | None = None


class Whole(BaseModel, extra="forbid"):
    parts: Annotated[list[Part], Field(min_length=1, max_length=2)]
    name: Annotated[str, Field(max_length=5)] = ""


@pytest.mark.parametrize("seed", range(6))
def test_the_schema_of_a_pydantic_model_is_kept_as_it_comes(seed: int) -> None:
    made = load().generate(
        "x", draw=f"1 seed:{seed}", max_new_tokens=300, constraint={"json_schema": Whole.model_json_schema()}
    )
    assert made.finish_reason == "end"
    assert Whole.model_validate_json(made.data)


def test_a_name_does_not_come_in_disguise() -> None:
    r"""``\u0061`` is ``a`` to whoever parses it: a free name may not be a named one."""
    union = load().prepared.union
    schema = {
        "properties": {"a": {"const": 1}},
        "required": ["a"],
        "additionalProperties": {"const": 2},
        "type": "object",
    }
    parse = grammars()(Constraint("json_schema", json.dumps(schema)))
    pieces = {union.piece(column): column for column in range(union.size)}
    for letter in '{"a":1,"\\':
        parse.consume(pieces[letter.encode()])
    allowed = columns(union, parse.allowed(()))
    assert {piece[:1] for piece in allowed if piece} == {letter.encode() for letter in 'nrbtf\\"'}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("json_objet", "did you mean 'json_object'"),
        ("json_object:1", "any JSON object"),
        ("regex:", "empty"),
        ("regex:(", "unclosed group"),
        (r"regex:a\b", "lookarounds"),
        ("lark:start: foo", "unknown name"),
        ("lark:start: <think>", "special token"),
        ("lark:start: <[3]>", "token numbers"),
        ("lark:start: <|reasoning_end|>", "has '<|reasoning_end|>': token numbers, marks"),
        ('lark:start: "<|reasoning_end|>" x\nx: <|answer_begin|> /a/', "has '<|answer_begin|>'"),
        ("lark:start: x\nx[temperature=0.5]: /a/", "temperature"),
        ('lark:%llguidance {"nope": 1}\nstart: "a"', "the option 'nope', which it ignores"),
        ('lark:start: "a"\n%llguidance {"allow_initial_skp": true}', "did you mean 'allow_initial_skip'"),
        ('lark:%llguidance {"no_forcing": 1}\nstart: "a"', "boolean"),
        ("json_schema:{", "not JSON"),
        ("json_schema:[1]", "not an object"),
        ({"regex": "a", "lark": "b"}, "one key"),
        ({"json_schema": {"const": float("nan")}}, "written as JSON"),
        ({"json_schema": {1: 2}}, "not text"),
        ({"json-schema": {}}, "did you mean 'json_schema'"),
        ({"regex": 3}, "not text"),
        (3, "the constraint is 3"),
        ("regex:\ud800", "Unicode"),
        ({"json_schema": False}, "anyOf is empty"),
    ],
)
def test_what_is_no_constraint_is_refused(value: object, words: str) -> None:
    with pytest.raises(SpecError, match=re.escape(words)) as refused:
        load().generate("x", constraint=value)  # type: ignore[arg-type]
    assert refused.value.hint


def test_a_constraint_is_read_alike_in_all_its_forms() -> None:
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    forms = [{"json_schema": schema}, {"json_schema": json.dumps(schema)}, f"json_schema:{json.dumps(schema)}"]
    assert len({Constraint.parse(form) for form in forms}) == 1
    assert Constraint.parse("regex:a:b") == Constraint("regex", "a:b") == Constraint.parse({"regex": "a:b"})
    assert Constraint.parse(None) is None
    constraint = Constraint("json_object")
    assert Constraint.parse(constraint) is constraint


@pytest.mark.parametrize(("kind", "source"), [("lark", 'start: "a"'), ("json_schema", '{"type": "object"}')])
def test_a_byte_order_mark_is_no_part_of_a_grammar_or_a_schema(kind: str, source: str) -> None:
    assert Constraint(kind, "\ufeff" + source) == Constraint(kind, source)
    with pytest.raises(SpecError, match="is empty"):
        Constraint(kind, "\ufeff")
    assert Constraint("regex", "\ufeffa").source == "\ufeffa"


def test_a_grammar_of_another_language_is_told_how_it_becomes_one_of_lark() -> None:
    with pytest.raises(SpecError) as refused:
        grammars()(Constraint("lark", 'root ::= "a"'))
    assert "gbnf_to_lark" in str(refused.value.hint)
    with pytest.raises(SpecError) as refused:
        grammars()(Constraint("lark", 'start: "::=" foo'))
    assert "gbnf_to_lark" not in str(refused.value.hint)


def test_the_options_of_a_grammar_are_kept_to_and_no_text_or_remark_is_one() -> None:
    union = load().prepared.union
    skipping = '%llguidance {"allow_initial_skip": true}\n%ignore " "\nstart: "a"'
    assert b" " in columns(union, grammars()(Constraint("lark", skipping)).allowed(()))
    spoken = Constraint("lark", 'start: "%llguidance {" // %llguidance {"nope": 1}')
    assert b"%" in columns(union, grammars()(spoken).allowed(()))


def test_a_lark_grammar_may_speak_of_brackets_in_its_texts() -> None:
    grammar = 'start: "<[1]>" x // <[2]>\nx[lazy]: /[a-c]+temperature/ # [stop=1]'
    assert load().generate("x", constraint={"lark": grammar}, max_new_tokens=2).text.startswith("<[1]>"[:1])


def test_the_grammar_of_calls_is_one_that_a_text_can_be_bound_to() -> None:
    """Whatever stands in a tool's schema, it is no attribute of Lark."""
    form = CallForm("<call>", None, "</call>", "name", "arguments")
    parameters = {
        "type": "object",
        "properties": {"stop": {"enum": ["temperature"], "description": "<[3]> x[stop=1]"}},
        "required": ["stop"],
        "additionalProperties": False,
    }
    ping: Any = {"type": "function", "function": {"name": "ping", "parameters": parameters}}
    made = load().generate("x", constraint={"lark": call_grammar(form, [ping])}, max_new_tokens=90)
    assert made.finish_reason == "end"
    call = json.loads(made.text.removeprefix("<call>").removesuffix("</call>"))
    assert call == {"name": "ping", "arguments": {"stop": "temperature"}}


def test_a_text_that_no_member_can_write_is_an_error_and_no_end() -> None:
    union = load().prepared.union
    lacking = UnionVocabulary(union.maps, b"ab", np.asarray([0, 1, 2]), ())
    with pytest.raises(SpecError, match="no pieces to go on with"):
        Grammars(lacking)(Constraint("regex", "c"))
    parse = Grammars(lacking)(Constraint("regex", "abc|a"))
    parse.consume(0)
    assert parse.allowed(()).tolist() == [False, True, True]
    parse.consume(1)
    with pytest.raises(SpecError, match="no pieces to go on with"):
        parse.allowed(())


def test_pieces_with_the_mark_of_special_tokens_are_never_allowed() -> None:
    union = load().prepared.union
    marked = UnionVocabulary(union.maps, b"\xffa\xffab\xff", np.asarray([0, 1, 3, 4, 5, 6]), ())
    parse = Grammars(marked)(Constraint("lark", '%llguidance {"allow_invalid_utf8": true}\nstart: /(.|\\n)*/'))
    assert parse.allowed(()).tolist() == [False, False, True, True, False, True]


def test_the_mask_holds_on_another_librarys_arrays() -> None:
    torch = pytest.importorskip("torch")
    from unisono.fusion.logits_processors import confine

    q_BU = np.asarray([[0.5, 0.25, 0.25, 0.0], [0.5, 0.0, 0.5, 0.0], [0.1, 0.2, 0.3, 0.4]], np.float32)
    allowed = [np.asarray([False, True, True, True]), np.asarray([False, True, False, True]), None]
    expected = [[0, 0.5, 0.5, 0], [0, 0.5, 0, 0.5], [0.1, 0.2, 0.3, 0.4]]
    np.testing.assert_allclose(confine(q_BU, allowed), expected)
    np.testing.assert_allclose(confine(torch.asarray(q_BU), allowed), expected)
    assert confine(q_BU, [None, np.ones(4, np.bool_), None]) is q_BU


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendMissing) as missing:
        Grammars(load().prepared.union)(Constraint("json_object"))
    assert "unisono[constraints]" in str(missing.value.hint)


def test_an_engine_without_grammars_says_so() -> None:
    loaded = load()._engine
    with pytest.raises(SpecError, match="nothing that makes grammars"):
        Engine(loaded.members, loaded.union).add(PROMPTS[0], constraint="json_object")


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": ["a\u0007b"]},
        {"const": 12345678901234567890123},
        {"const": {"a": [{"b": -(2**53) - 1}]}},
        {"const": float("inf")},
        {"enum": [{"a\u0000": 1}]},
        {"properties": {"a\u001f": {}}, "required": ["a\u001f"]},
        {"items": {"anyOf": [{"const": "\u001b"}]}},
    ],
)
def test_a_value_that_would_be_written_as_another_is_refused(schema: dict[str, object]) -> None:
    with pytest.raises(SpecError, match=r"which is not written|would not be written exactly"):
        check_schema(schema)


def test_values_that_are_written_as_they_are_pass() -> None:
    check_schema({"enum": ['\b\f\n\r\t"\\/ é 日本 \u007f', 2**53, -(2**53), 0.1, 1e300, True, None]})


def test_schemas_within_a_lark_grammar_are_held_to_the_same() -> None:
    with pytest.raises(SpecError, match="'minimun' in the schema is not a keyword"):
        Grammars(load().prepared.union)(Constraint("lark", 'start: "a" %json {"minimun": 3}'))


NULL = {"type": "null"}
NULLABLES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"type": "STRING"}, {"type": ["string", "null"]}),
    ({"type": ["string", "null"], "minLength": 2}, {"type": ["string", "null"], "minLength": 2}),
    ({"type": "string", "enum": ["a"]}, {"type": ["string", "null"], "enum": ["a", None]}),
    ({"enum": ["a"]}, {"enum": ["a", None]}),
    ({"const": "a"}, {"anyOf": [{"const": "a"}, NULL]}),
    ({"$ref": "#/$defs/a", "title": "t"}, {"title": "t", "anyOf": [{"$ref": "#/$defs/a"}, NULL]}),
    ({"allOf": [{"type": "string"}]}, {"anyOf": [{"allOf": [{"type": "string"}]}, NULL]}),
    ({"minLength": 2}, {"anyOf": [{"minLength": 2}, NULL]}),
    ({"title": "anything"}, {"title": "anything"}),
]


@pytest.mark.parametrize(("given", "meant"), NULLABLES)
@pytest.mark.parametrize("word", NULLABLE)
def test_null_fits_what_openapi_calls_nullable(given: dict[str, Any], meant: dict[str, Any], word: str) -> None:
    llguidance = pytest.importorskip("llguidance")
    defined = {"a": {"type": "string"}}
    meant = {"properties": {"a": meant, "nullable": {"type": "string"}}, "$defs": defined}
    whole = plain_schema({"properties": {"a": {**given, word: True}, "nullable": {"type": "string"}}, "$defs": defined})
    assert whole == meant
    tokenizer = llguidance.LLTokenizer("byte")
    matcher = llguidance.LLMatcher(tokenizer, f"start: %json {json.dumps({**whole, 'type': 'object'})}")
    assert matcher.try_consume_tokens(list(b'{"a":null}')) == len('{"a":null}')
    assert plain_schema({**given, word: False, "type": "string"})["type"] == "string"


def test_a_format_may_be_spelled_with_other_capitals_and_hyphens() -> None:
    for slip, name in {
        "datetime": "date-time",
        "DATE_TIME": "date-time",
        "IPv4": "ipv4",
        "uriReference": "uri-reference",
    }.items():
        assert plain_schema({"items": {"format": slip}}) == {"items": {"format": name}}
    assert plain_schema({"format": "int32"}) == {"format": "int32"}


def test_formats_are_known_exactly_where_a_grammar_is() -> None:
    grammars = Grammars(load().prepared.union)
    names = "binary byte idn-email iri json-pointer json-string password path regex uri-reference uri-template wish"
    for name in (*FORMATS, *names.split()):
        schema = {"anyOf": [{"type": "string", "format": name}, {"type": "null"}]}
        bare = {"anyOf": [{"type": "string"}, {"type": "null"}]}
        assert without_unknown_formats(schema) == (schema if name in FORMATS else bare)
        if name in FORMATS:
            grammars(Constraint("json_schema", json.dumps(schema)))
        else:
            with pytest.raises(SpecError, match=f"Unknown format: {name}"):
                grammars(Constraint("json_schema", json.dumps(schema)))
    kept = {"const": {"format": "path"}, "properties": {"format": {"enum": [{"format": "path"}]}}}
    assert without_unknown_formats(kept) == kept
