"""The laws for marks, on fakes: what the plain loop writes is written, and a mark is mass like a piece, and no text."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from support.covering import covering
from support.demo import written
from support.fakes import GATES, check, engine_of, oracle
from support.methods import RULES, FixedDraftLength, weights_for
from support.thinkers import NAMES, QUESTIONS, make_thinkers
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.config.method import Method
from unisono.engine.detokenizer import decode_text
from unisono.engine.engine import Engine
from unisono.engine.reference import plain_steps
from unisono.ensemble import Ensemble
from unisono.records import Generation, Limits

PIECES = 28
GROUPS = [("t",), ("h",), ("o",), ("t", "p"), ("h", "p"), ("p", "t", "h"), ("o", "h", "p"), ("s",), ("t", "s", "p")]


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_thinkers()
    yield
    FAKE_MODELS.clear()


def generated(engine: Engine, method: Method | None = None, pieces: int = PIECES, size: int = 8) -> list[Generation]:
    return [text.generation() for text in written(engine, QUESTIONS, pieces, size, method)]


@pytest.mark.parametrize("names", GROUPS)
def test_the_engine_writes_what_the_plain_loop_writes(names: tuple[str, ...]) -> None:
    engine = engine_of(names)
    expected = oracle(engine, QUESTIONS, engine.method, PIECES)
    for size in (1, 8):
        check(written(engine, QUESTIONS, PIECES, size), expected, names)
    for drafter in (names[-1], "ngram"):
        drafting = engine_of(names, draft_length=FixedDraftLength())
        method = Method().but(speculate=f"{drafter}:4")
        if drafter == "ngram" or len(names) > 1:
            check(written(drafting, QUESTIONS, PIECES, 3, method), expected, names)


def test_the_texts_above_are_not_vacuous() -> None:
    """All marks are chosen, also where they make no sense; drafts hold; some texts end."""
    engine = engine_of(NAMES, draft_length=FixedDraftLength())
    texts = written(engine, QUESTIONS, 60, 8, Method().but(speculate="t:4"))
    steps = [step for text in texts for step in text.steps]
    assert {step.mark for step in steps} == {None, "reasoning_begin", "reasoning_end"} | {
        mark for mark in engine.union.marks if any(step.mark == mark for step in steps)
    }
    assert any(step.part == "reasoning" and not step.mark for step in steps)
    assert any(step.part == "answer" and not step.mark for step in steps)
    assert sum(text.accepted for text in texts) > 10
    alone = [step.mark for text in written(engine_of(("h",)), QUESTIONS, 60, 8) for step in text.steps]
    assert {"reasoning_begin", "reasoning_end", "answer_begin"} <= set(alone)


@pytest.mark.parametrize("names", [("t",), ("o", "h", "p"), ("t", "s", "p")])
def test_a_text_is_the_same_however_often_it_is_looked_at(names: tuple[str, ...]) -> None:
    engine = engine_of(names)
    texts = [engine.add(prompt, Limits(max_new_tokens=PIECES)) for prompt in QUESTIONS]
    shown = [["", ""] for _ in texts]
    while any(text.finish is None for text in texts):
        engine.step()
        for text, parts in zip(texts, shown, strict=True):
            parts[0], parts[1] = parts[0] + text.take_text(), parts[1] + text.take_reasoning()
    found = [text.generation() for text in texts]
    assert [tuple(parts) for parts in shown] == [(each.text, each.reasoning or "") for each in found]


def test_an_end_within_reasoning_ends_that_alone() -> None:
    for names in (("s",), ("t", "s"), ("s", "h")):
        texts = generated(engine_of(names), pieces=60)
        assert any(text.reasoning and text.data for text in texts)
    alone = engine_of(("s",))
    [text] = written(alone, QUESTIONS[:1], 60, 1)
    member = alone.members[0]
    end = member.encoder.tokenizer.table.controls["<|end|>"]
    assert end in member.speller.vocabulary.end_ids
    form = member.encoder.marks.anywhere["reasoning_end"]
    assert form[0] == end
    ids = text.cursors["s"].ids
    assert any(tuple(ids[place : place + len(form)]) == form for place in range(text.prompt_tokens["s"], len(ids)))


@functools.cache
def ways() -> list[tuple[Any, ...]]:
    """Gate, lead and drafter: any two of them meet."""
    return covering(GATES, NAMES, ("off", "t:4", "h:4", "p:3", "ngram:4"))


@pytest.mark.parametrize(
    "gate", [pytest.param(gate, marks=[] if gate == "confidence:0.6" else [pytest.mark.slow]) for gate in GATES]
)
def test_gates_and_drafts_equal_the_plain_loop(gate: str) -> None:
    for _, lead, drafter in (way for way in ways() if way[0] == gate):
        method = Method(lead=lead).but(gate=gate)
        expected = oracle(engine_of(NAMES), QUESTIONS, method, PIECES)
        engine = engine_of(NAMES, draft_length=FixedDraftLength())
        check(written(engine, QUESTIONS, PIECES, 3, method.but(speculate=drafter)), expected, NAMES)


@pytest.mark.parametrize("rule", RULES)
def test_rules_equal_the_plain_loop(rule: str) -> None:
    method = Method().but(combine=rule)
    weights = [("t", 1.0), ("h", 1.0), ("p", weights_for(rule)[-1])]
    engine = _engine(weights, combine=rule)
    expected = oracle(engine, QUESTIONS[:3], method, PIECES)
    engine = Engine(engine.members, engine.union, engine.method, draft_length=FixedDraftLength())
    check(written(engine, QUESTIONS[:3], PIECES, 3, method.but(speculate="t:3")), expected, NAMES)


@pytest.mark.parametrize("reasoning", ["off", *(pytest.param(budget, marks=pytest.mark.slow) for budget in (1, 3, 6))])
def test_reasoning_is_off_or_limited_with_drafts_and_in_batches(reasoning: Any) -> None:
    for names in GROUPS:
        method = Method().but(reasoning=reasoning)
        plain = generated(engine_of(names), method, size=1)
        drafting = generated(engine_of(names, draft_length=FixedDraftLength()), method.but(speculate="ngram:4"))
        assert [(text.data, text.reasoning) for text in plain] == [(text.data, text.reasoning) for text in drafting]
        for text in plain:
            assert text.usage.reasoning <= (0 if reasoning == "off" else reasoning)
            marks = [step.mark for step in text.steps or ()]
            assert reasoning != "off" or (text.reasoning is None and "reasoning_begin" not in marks)


@pytest.mark.parametrize("names", GROUPS)
def test_mass_is_kept_and_weight_zero_is_absence(names: tuple[str, ...]) -> None:
    engine = engine_of(names)
    for prompt in QUESTIONS:
        for step in plain_steps(engine.members, engine.union, prompt, PIECES):
            assert step.q_U.sum() == pytest.approx(1.0)
    expected = generated(engine)
    for absent in {"t", "h", "p"} - set(names) - ({"t"} if "o" in names else set()):
        with_absent = _engine([(name, 1.0) for name in names] + [(absent, 0.0)])
        assert [text.to_json()["steps"] for text in map(_timeless, generated(with_absent))] == [
            text.to_json()["steps"] for text in map(_timeless, expected)
        ]


def test_order_changes_no_distribution_and_a_model_twice_is_itself() -> None:
    for prompt in QUESTIONS:
        rows = [
            [(step.piece, step.p) for step in plain_steps(engine.members, engine.union, prompt, PIECES)]
            for engine in (engine_of(names) for names in itertools.permutations(NAMES))
        ]
        for row in rows[1:]:
            assert [piece for piece, _ in row] == [piece for piece, _ in rows[0]]
            np.testing.assert_allclose([p for _, p in row], [p for _, p in rows[0]])
    for name in ("t", "h", "o"):
        alone = written(engine_of((name,)), QUESTIONS, PIECES, 8)
        twice = _engine([("first", 1.0), ("second", 3.0)], model=name)
        for one, both in zip(alone, written(twice, QUESTIONS, PIECES, 8), strict=True):
            for member in ("first", "second"):
                assert both.cursors[member].ids == one.cursors[name].ids


@pytest.mark.parametrize("names", GROUPS)
def test_no_mark_adds_a_byte_to_a_text(names: tuple[str, ...]) -> None:
    engine = engine_of(names)
    for text in generated(engine, pieces=50):
        steps = text.steps or ()
        assert all(step.piece == b"" for step in steps if step.mark)
        parts = {
            part: b"".join(step.piece or b"" for step in steps if step.part == part) for part in ("answer", "reasoning")
        }
        assert parts["answer"].strip() == text.data.strip()
        assert decode_text(parts["reasoning"].strip()) == (text.reasoning or "")


@pytest.mark.parametrize("names", [("t", "p"), ("h", "p", "t")])
def test_sampled_texts_are_the_same_in_batches_and_with_drafts(names: tuple[str, ...]) -> None:
    for seed in (1, 2):
        method = Method().but(temperature=0.9, seed=seed)
        alone = generated(engine_of(names), method, size=1)
        together = generated(engine_of(names), method)
        expected = oracle(engine_of(names), QUESTIONS, method, PIECES)
        for one, other, plain in zip(alone, together, expected, strict=True):
            assert (one.data, one.reasoning) == (other.data, other.reasoning)
            assert [step.piece for step in one.steps or ()] == [step.piece for step in plain]


def test_stop_strings_end_answers_alone_and_least_lengths_count_marks() -> None:
    engine = engine_of(("t",))
    plain = engine.add(QUESTIONS[0], Limits(60), trace=True)
    _finish(engine)
    made = plain.generation()
    assert made.reasoning
    word = made.reasoning.split()[0]
    stopped = engine.add(QUESTIONS[0], Limits(60, word))
    _finish(engine)
    assert stopped.generation().reasoning == made.reasoning
    assert stopped.generation().data == made.data.partition(word.encode())[0]
    for least in (1, 40, 60):
        text = engine.add(QUESTIONS[0], Limits(80, min_new_tokens=least))
        _finish(engine)
        assert text.generation().usage.pieces >= least


@pytest.mark.parametrize("names", [("t",), ("h",), ("t", "p"), ("h", "t", "p")])
def test_a_beam_finds_nothing_less_likely_than_what_is_written_greedily(names: tuple[str, ...]) -> None:
    engine = engine_of(names)
    for prompt in QUESTIONS[:3]:
        likelihoods = []
        for width in (1, 3):
            text = engine.add(prompt, Limits(14), method=Method().but(sampling={"beam_width": width}), trace=True)
            _finish(engine)
            made = text.generation()
            steps = made.steps or ()
            likelihoods.append(sum(np.log(step.p) for step in steps) / len(steps))
            answer = b"".join(step.piece or b"" for step in steps if step.part == "answer")
            assert answer.strip() == made.data.strip()
        assert likelihoods[1] >= likelihoods[0] - 1e-6


def _finish(engine: Engine) -> None:
    while engine.active:
        engine.step()


def _engine(weights: list[tuple[str, float]], model: str | None = None, **keys: Any) -> Engine:
    members = [{"name": name, "model": f"fake:{model or name}", "weight": weight} for name, weight in weights]
    return Ensemble.load({"members": members, **keys}, batch=8)._engine


def _timeless(text: Generation) -> Generation:
    return replace(text, steps=tuple(replace(step, seconds=None) for step in text.steps or ()))
