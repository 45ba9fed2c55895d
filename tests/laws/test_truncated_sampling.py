"""Drawing where members tell their likeliest ids only: asked for by a key, counted, and the same however it is run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from support.fakes import PROMPTS, check, engine_of, make_fakes, oracle
from support.methods import FixedDraftLength
from support.truncated import ALL, NAMES, truncated, write
from unisono.backends.base import Truncation
from unisono.config.method import Method
from unisono.config.sampling import Sampling

DRAWS = ("1 seed:3", "0.8 top_p:0.9 seed:4", "1 presence_penalty:1 seed:2", "mixture seed:5")
GATES = ("always", "confidence:0.6", "confidence:0.6 boundary", "every:3")
PAIRS = [
    pytest.param(draw, gate, marks=() if DRAWS.index(draw) == GATES.index(gate) else pytest.mark.slow)
    for draw, gate in itertools.product(DRAWS, GATES)
]


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    make_fakes()


def drawing(draw: str, gate: str = "always", speculate: str = "off") -> Method:
    return Method(lead="b").but(sampling=draw, truncated_sampling=True, gate=gate, speculate=speculate)


@pytest.mark.parametrize(("draw", "gate"), PAIRS)
def test_members_that_tell_all_draw_what_whole_distributions_draw(draw: str, gate: str) -> None:
    for speculate in ("off", "b:3", "ngram:3"):
        method = drawing(draw, gate, speculate)
        expected = oracle(engine_of(NAMES), PROMPTS[:3], method, 10)
        engine = truncated(dict.fromkeys(NAMES, Truncation(ALL, ALL)), draft_length=FixedDraftLength())
        texts = write(engine, method, PROMPTS[:3], 10)
        check(texts, expected, NAMES)
        assert all(step.certain is False and step.unknown is None for text in texts for step in text.steps)


@pytest.mark.parametrize(("draw", "gate"), PAIRS)
def test_a_seed_draws_one_text_alone_together_and_with_drafts_and_every_piece_counts(draw: str, gate: str) -> None:
    tops = dict.fromkeys(NAMES, Truncation(3, 30, 4))
    method = drawing(draw, gate, "b:3")
    together = write(truncated(tops, draft_length=FixedDraftLength()), method, PROMPTS[:4], 10)
    for prompt, text in zip(PROMPTS[:4], together, strict=True):
        assert text.uncertain == len(text.steps) == text.generation().usage.uncertain
        [alone] = write(truncated(tops, draft_length=FixedDraftLength()), method, [prompt], 10)
        assert [(step.piece, step.voted) for step in alone.steps] == [(step.piece, step.voted) for step in text.steps]


@pytest.mark.parametrize("method", [drawing("1 seed:3"), Method(lead="b")], ids=["drawn", "greedy"])
def test_each_text_keeps_what_a_whole_member_told_for_it_beside_one_that_tells_its_likeliest(method: Method) -> None:
    tops = {"a": Truncation(3, 30, 4)}
    together = write(truncated(tops), method, PROMPTS[:2], 10)
    for prompt, text in zip(PROMPTS[:2], together, strict=True):
        [alone] = write(truncated(tops), method, [prompt], 10)
        for step, other in zip(text.steps, alone.steps, strict=True):
            assert (step.piece, step.top.keys()) == (other.piece, other.top.keys())
            assert step.members == pytest.approx(other.members, rel=1e-4)
            assert step.top["b"][0] == (other.top["b"][0][0], pytest.approx(other.top["b"][0][1], rel=1e-4))


def test_grammars_bind_what_is_drawn_and_whole_members_that_are_drawn_alone_are_exact() -> None:
    engine = truncated({"a": Truncation(2, 2)})
    texts = write(engine, drawing("1 seed:1"), constraint={"regex": "[0-9]{4}"})
    assert all(text.generation().text.isdigit() for text in texts)
    texts = write(engine, drawing("mixture seed:7"))
    steps = [step for text in texts for step in text.steps]
    assert {step.certain for step in steps} == {None, False}
    assert all((step.certain is False) == (step.voted == ("a",)) for step in steps)


def test_an_uncertain_gate_counts_where_a_whole_member_is_drawn_behind_it() -> None:
    engine = truncated({"b": Truncation(1, 1)})
    texts = write(engine, drawing("mixture seed:5", "confidence:0.6"))
    steps = [step for text in texts for step in text.steps]
    unsure = [step for step in steps if not step.gate.certain and step.voted != ("b",)]
    assert unsure
    assert all(step.certain is False and step.unknown == 0 for step in unsure)
    for text in texts:
        assert text.uncertain == sum(step.certain is False for step in text.steps)


def test_the_key_is_a_word_a_field_and_a_keyword() -> None:
    drawn = Sampling.parse("0.7 truncated_sampling")
    assert drawn == Sampling(temperature=0.7, truncated_sampling=True) == Sampling.parse(str(drawn))
    assert Sampling.parse({"temperature": 0.7, "truncated_sampling": True}) == drawn
    assert Method().but(temperature=0.7, truncated_sampling=True).sampling == drawn
    assert Method(sampling=drawn).but(temperature=0).sampling == Sampling(truncated_sampling=True)
    assert "truncated_sampling" not in str(Method().to_json())
    assert "truncated_sampling" in str(Method(sampling=drawn).to_json())
