"""Gates that look at what a lead tells open and shut for certain only as those of whole distributions do."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.fakes import PROMPTS, make_fakes
from support.methods import FixedDraftLength
from support.truncated import ALL, NAMES, hold, truncated, write
from unisono.backends.base import Truncation
from unisono.config.method import Method

GATES = ("confidence:0.3", "confidence:0.6", "confidence:0.95", "margin:0.5", "every:3", "first:5", "first:0")
BOUNDARIES = ("always boundary", "confidence:0.6 boundary", "every:2 boundary")


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    make_fakes()


@pytest.mark.parametrize("gate", GATES + BOUNDARIES)
def test_gates_of_truncated_leads_are_those_of_whole_distributions(gate: str) -> None:
    for lead, k in (("a", 1), ("b", 5), ("a", 40)):
        method = Method(lead=lead).but(gate=gate)
        engine = truncated(dict.fromkeys(NAMES, Truncation(k, k)))
        certain, _ = hold(engine, write(engine, method, PROMPTS[:2], 10), method)
        assert certain > (6 if k > 2 else -1)


@pytest.mark.parametrize("gate", GATES + BOUNDARIES)
@pytest.mark.parametrize(
    "speculate", ["b:4", *(pytest.param(each, marks=pytest.mark.slow) for each in ("off", "ngram:3"))]
)
def test_leads_that_tell_all_write_the_text_of_whole_distributions(gate: str, speculate: str) -> None:
    method = Method(lead="b").but(gate=gate, speculate=speculate)
    engine = truncated(dict.fromkeys(NAMES, Truncation(ALL, ALL)), draft_length=FixedDraftLength())
    assert hold(engine, write(engine, method), method)[1] == 0


@pytest.mark.parametrize(
    ("sampling", "speculate"),
    [
        ("bias:ing=100", "ngram:3"),
        pytest.param("presence_penalty:2", "b:4", marks=pytest.mark.slow),
        pytest.param("bias:ing=100", "b:4", marks=pytest.mark.slow),
    ],
)
def test_a_boundary_keeps_a_gate_shut_over_choices_that_are_reshaped(sampling: str, speculate: str) -> None:
    shut = 0
    for gate, k in itertools.product(BOUNDARIES[:2], (5, ALL)):
        method = Method(lead="b").but(gate=gate, speculate=speculate, sampling=sampling)
        engine = truncated(dict.fromkeys(NAMES, Truncation(k, 4 * k)), draft_length=FixedDraftLength())
        texts = write(engine, method, PROMPTS[:3])
        hold(engine, texts, method)
        shut += sum(step.gate is not None and step.gate.inside is not None for text in texts for step in text.steps)
    assert shut


def test_a_gate_inside_a_token_is_shut_for_certain_whatever_its_score_may_be() -> None:
    method = Method(lead="b").but(gate="margin:0.5 boundary")
    engine = truncated({"b": Truncation(1, 1)})
    texts = write(engine, method, PROMPTS)
    hold(engine, texts, method)
    shut = [step.gate for text in texts for step in text.steps if step.gate.inside is not None]
    assert shut
    assert all(gate.certain and not gate.asked for gate in shut)


@pytest.mark.parametrize("gate", ["confidence:0.6", "margin:0.5"])
def test_whole_leads_and_truncated_ones_stand_beside_others(gate: str) -> None:
    for lead, told in (("a", "b"), ("b", "b")):
        method = Method(lead=lead).but(gate=gate)
        engine = truncated({told: Truncation(5, 5)})
        texts = write(engine, method)
        assert hold(engine, texts, method)[0] > 20
        assert lead == told or any(step.certain is None for text in texts for step in text.steps)


def test_a_gate_that_is_in_doubt_is_asked_again_and_else_opens() -> None:
    method = Method(lead="a").but(gate="confidence:0.95")
    unsure: list[int] = []
    for top in (Truncation(1, 1), Truncation(1, 100), Truncation(1, 300)):
        engine = truncated({"a": top})
        texts = write(engine, method)
        hold(engine, texts, method)
        steps = [step for text in texts for step in text.steps if step.gate and not step.gate.certain]
        assert all(step.voted == NAMES and step.certain is False for step in steps)
        unsure.append(len(steps))
    assert unsure[0] > unsure[1] >= unsure[2]


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_everything_together_is_certain_only_of_what_the_plain_loop_writes(data: st.DataObject) -> None:
    gate = data.draw(st.sampled_from(GATES + BOUNDARIES))
    sampling = data.draw(st.sampled_from(["greedy", "bias:%20the=3", "bias:ing=100", "presence_penalty:1"]))
    speculate = data.draw(st.sampled_from(["off", "a:3", "c:2", "ngram:3", "auto"]))
    method = Method(lead=data.draw(st.sampled_from(NAMES)), combine=data.draw(st.sampled_from(["mean", "geometric"])))
    method = method.but(gate=gate, sampling=sampling, speculate=speculate)
    top = data.draw(st.integers(1, 12))
    tells = Truncation(top, top * data.draw(st.sampled_from([1, 20])), data.draw(st.sampled_from([0, 6])))
    told = data.draw(st.sampled_from([NAMES, NAMES[:2], NAMES[1:], NAMES[2:]]))
    engine = truncated(dict.fromkeys(told, tells), draft_length=FixedDraftLength())
    constraint = data.draw(st.sampled_from([None, {"regex": "[ a-z]{3,40}"}]))
    hold(engine, write(engine, method, PROMPTS[:3], 10, constraint=constraint), method)
