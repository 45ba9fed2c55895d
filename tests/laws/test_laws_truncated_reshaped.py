"""Where grammars, biases and penalties reshape what members tell, certain choices are those of the plain loop."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.fakes import PROMPTS, make_fakes
from support.methods import FixedDraftLength
from support.thinkers import QUESTIONS, make_thinkers
from support.truncated import ALL, NAMES, hold, truncated, write
from unisono.backends.base import Truncation
from unisono.config.method import Method

RULES = ("mean", "max", "geometric")
RESHAPED = (
    "bias:%20the=3 bias:at=-2",
    "presence_penalty:2 frequency_penalty:0.5",
    "logit_bias:5=-100 logit_bias:7=4 presence_penalty:-1",
)
WORDS = {"regex": "[ a-zA-Z]{4,12}( ends)?"}


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    make_fakes()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("k", [2, 40])
def test_grammars_mask_what_members_tell(rule: str, k: int) -> None:
    method = Method(combine=rule)
    engine = truncated(dict.fromkeys(NAMES, Truncation(k, k)))
    certain, _ = hold(engine, write(engine, method, constraint=WORDS), method)
    assert certain > (8 if k > 2 else 0)


@pytest.mark.parametrize(
    ("rule", "sampling"),
    [
        pytest.param(rule, sampling, marks=() if RULES.index(rule) == RESHAPED.index(sampling) else pytest.mark.slow)
        for rule, sampling in itertools.product(RULES, RESHAPED)
    ],
)
def test_biases_and_penalties_move_what_members_tell(rule: str, sampling: str) -> None:
    method = Method(combine=rule).but(sampling=sampling)
    engine = truncated(dict.fromkeys(NAMES, Truncation(8, 40, 4)))
    certain, _ = hold(engine, write(engine, method), method)
    assert certain > 8


@pytest.mark.parametrize(("sampling", "bound"), [("greedy", True), (RESHAPED[0], False), (RESHAPED[2], True)])
def test_members_that_tell_all_write_the_text_of_whole_distributions(sampling: str, bound: bool) -> None:
    method = Method(speculate="ngram:3").but(sampling=sampling)
    engine = truncated(dict.fromkeys(NAMES, Truncation(ALL, ALL)), draft_length=FixedDraftLength())
    texts = write(engine, method, PROMPTS, constraint=WORDS if bound else None)
    assert hold(engine, texts, method)[1] == 0
    assert all(step.certain and step.unknown == 0 for text in texts for step in text.steps)


@pytest.mark.parametrize("reasoning", ["off", 3])
@pytest.mark.parametrize("names", [pytest.param(("o", "h", "p"), marks=pytest.mark.slow), ("t", "s", "p")])
def test_budgets_of_reasoning_and_answers_behind_it_are_kept(reasoning: Any, names: tuple[str, ...]) -> None:
    make_thinkers()
    method = Method(speculate="ngram:3").but(reasoning=reasoning)
    for k, constraint in itertools.product((4, ALL), (None, WORDS)):
        engine = truncated(dict.fromkeys(names, Truncation(k, k)), names, FixedDraftLength())
        texts = write(engine, method, QUESTIONS[:3], 14, constraint=constraint)
        certain, uncertain = hold(engine, texts, method, names)
        assert certain > 8
        assert not uncertain or k < ALL
        assert all(text.generation().usage.reasoning <= (0 if reasoning == "off" else reasoning) for text in texts)


def test_end_waits_where_its_mass_is_not_told() -> None:
    engine = truncated(dict.fromkeys(NAMES, Truncation(4, 4)))
    method = Method().but(sampling=f"logit_bias:{engine.union.end}=30")
    texts = write(engine, method, min_new_tokens=7)
    assert all(text.pieces >= 7 for text in texts)
    hold(engine, texts, method)


def test_a_grammar_that_leaves_few_columns_is_asked_about_by_their_ids() -> None:
    """None of the ids is among the likeliest, and all are told when they are asked for."""
    digits = {"regex": "[0-9]{3}"}
    engine = truncated(dict.fromkeys(NAMES, Truncation(2, 2, 200)))
    texts = write(engine, Method(), PROMPTS, constraint=digits)
    certain, uncertain = hold(engine, texts, Method())
    assert certain > 20
    assert uncertain < 3  # two columns that are nearly as likely, where ids outside the union have what is not told


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_everything_together_is_certain_only_of_what_the_plain_loop_writes(data: st.DataObject) -> None:
    sampling = data.draw(st.sampled_from(["greedy", *RESHAPED]))
    speculate = data.draw(st.sampled_from(["off", "a:3", "ngram:3"]))
    method = Method(combine=data.draw(st.sampled_from(RULES))).but(sampling=sampling, speculate=speculate)
    bound = data.draw(st.booleans())
    top = data.draw(st.integers(1, 30))
    tells = Truncation(top, top * data.draw(st.sampled_from([1, 20])), data.draw(st.sampled_from([0, 6])))
    names = data.draw(st.sampled_from([NAMES, NAMES[:2], NAMES[1:], NAMES[2:]]))
    engine = truncated(dict.fromkeys(names, tells), draft_length=FixedDraftLength())
    texts = write(engine, method, PROMPTS[:3], 10, constraint=WORDS if bound else None)
    hold(engine, texts, method)
