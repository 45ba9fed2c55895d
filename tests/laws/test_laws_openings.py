"""Where an answer begins is each member's own: one that has read nothing of it still opens it in its own way."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from support.fakes import make_fakes
from support.thinkers import CHANNEL_TOKENS, IN_CHANNELS, IN_TOKENS, THINK_TOKENS, with_rows
from unisono.backends.fake.backend import FAKE_MODELS, IMPOSSIBLE, NextToken
from unisono.ensemble import Ensemble
from unisono.testing import FakeModel, LongestMatchTokenizer, byte_level_table, register_fake, sentencepiece_table
from unisono.vocab.tokenizer import TokenTable

SPACED = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
ASK = [{"role": "user", "content": "Hi"}]


def by_last_token(table: TokenTable, said: dict[str, dict[str, float]]) -> NextToken:
    """A rule that looks at nothing but the last token, named as the table writes it; ``""`` is any other."""
    ids = {text: token for token, text in enumerate(table.texts)}

    def next_token(read: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
        logits_V = np.full(len(table.texts), IMPOSSIBLE, np.float32)
        for text, chance in said.get(table.texts[read[-1]], said[""]).items():
            logits_V[ids[text]] = np.log(chance)
        return logits_V

    return next_token


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    ends = {"Blue": {"</s>": 1.0}}
    channels = with_rows(byte_level_table(["Blue", "final", "analysis"], chat_template=IN_CHANNELS), CHANNEL_TOKENS)
    rule = by_last_token(channels, {**ends, "<|channel|>": {"final": 1.0}, "": {"Blue": 1.0}})
    register_fake("channels", FakeModel(LongestMatchTokenizer(channels), rule))
    words = [" Blue", "Blue", " Hello", " Yes", " The", " I"]
    spaced = sentencepiece_table(words, chat_template=SPACED)
    rule = by_last_token(spaced, {"▁Blue": {"</s>": 1.0}, **ends, "": {"▁Blue": 1.0}})
    register_fake("spaced", FakeModel(LongestMatchTokenizer(spaced, leading_space=True), rule))
    thinks = with_rows(byte_level_table(["Blue", "hm"], chat_template=IN_TOKENS), THINK_TOKENS)
    said = {**ends, "<|assistant|>": {"<think>": 1.0}, "hm": {"</s>": 0.9, "</think>": 0.1}, "<think>": {"hm": 1.0}}
    register_fake(
        "thinks", FakeModel(LongestMatchTokenizer(thinks), by_last_token(thinks, {**said, "": {"Blue": 1.0}}))
    )
    plain = byte_level_table(["Blue", "hm"])
    rule = by_last_token(plain, {**ends, "hm": {"Blue": 1.0}, "": {"hm": 0.6, "Blue": 0.4}})
    register_fake("plain", FakeModel(LongestMatchTokenizer(plain), rule))
    yield
    FAKE_MODELS.clear()


def load(*names: str, weights: tuple[float, ...] = ()) -> Ensemble:
    shares = weights or (1.0,) * len(names)
    members = [
        {"name": name, "model": f"fake:{name}", "weight": weight} for name, weight in zip(names, shares, strict=True)
    ]
    return Ensemble.load({"members": members})


@pytest.mark.parametrize("weights", [(0.6, 0.4), (0.4, 0.6)])
def test_a_leading_space_is_folded_away_behind_a_mark_that_its_member_does_not_read(
    weights: tuple[float, float],
) -> None:
    with load("channels", "spaced", weights=weights) as ensemble:
        text = ensemble.generate(messages=ASK, max_new_tokens=4, trace=True)
    assert text.text == "Blue"
    assert text.steps is not None
    blue = next(step for step in text.steps if step.piece == b"Blue")
    assert blue.members["spaced"] == pytest.approx(1.0)


def test_a_lead_that_cannot_end_reasoning_has_the_others_asked() -> None:
    with load("plain", "thinks", weights=(0.3, 0.7)) as ensemble:
        free = ensemble.generate(messages=ASK, max_new_tokens=12, gate="first:1", trace=True)
        assert free.steps is not None
        inside = [step for step in free.steps if step.part == "reasoning"]
        assert inside
        assert all(step.gate is not None and step.gate.asked for step in inside)


def test_an_end_within_the_reasoning_of_a_bound_text_ends_that_alone() -> None:
    with load("plain", "thinks", weights=(0.3, 0.7)) as ensemble:
        bound = ensemble.generate(messages=ASK, max_new_tokens=12, constraint={"regex": "[A-Z][a-z]*"})
    assert bound.reasoning
    assert re.fullmatch("[A-Z][a-z]*", bound.text)
