"""The plain loop that reads ahead writes what the plain loop writes, wherever what it has read ahead is right."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from support.demo import written
from support.fakes import PROMPTS, engine_of, make_fakes, oracle
from support.read_ahead import PlainLoop
from unisono.backends.base import Feed
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.config.method import Method

METHODS = {
    "plain": Method(),
    "gated": Method(lead="b").but(gate="confidence:0.6", boundary=True),
    "weighed by losses": Method().but(combine="mean weights:perplexity"),
    "drawn": Method().but(draw="0.8 seed:2"),
}


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_the_plain_loop_writes_the_same_whatever_it_has_read_ahead(method: Method) -> None:
    engine = engine_of(("a", "b"))
    expected = oracle(engine, PROMPTS, method, 12)
    plain = PlainLoop(engine)
    for guess in (method, Method().but(gate="first:0")):
        texts = written(engine, PROMPTS, 12, 3, guess)
        for prompt, text, steps in zip(PROMPTS, texts, expected, strict=True):
            found = plain.steps(prompt, 12, method, text)
            assert [step.piece for step in found] == [step.piece for step in steps]
            assert [step.p for step in found] == [step.p for step in steps]
        plain.forget()


def test_a_text_that_was_guessed_is_read_once() -> None:
    engine = engine_of(("a", "b"))
    [text] = written(engine, PROMPTS[:1], 12, 1)
    for model in FAKE_MODELS.values():
        model.passes.clear()
    PlainLoop(engine).steps(PROMPTS[0], 12, Method(), text)
    assert [len(FAKE_MODELS[name].passes) for name in ("a", "b")] == [1, 1]


def test_a_slot_that_was_told_what_it_has_not_read_is_not_read_on() -> None:
    [member] = PlainLoop(engine_of(("a",)))._members
    member.backend.read([5, 6, 7], 1)  # type: ignore[attr-defined]
    slot = member.backend.open()
    told = np.array(member.backend.advance([Feed(slot, [5, 6])]))
    with pytest.raises(AssertionError, match="it has not read"):
        member.backend.advance([Feed(slot, [7])])
    member.backend.close(slot)
    assert told.shape == (1, member.backend.facts.rows)
