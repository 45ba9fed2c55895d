"""Scores of given texts: what the plain loop says of the same pieces, however texts are batched."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.fakes import PROMPTS, STORY, make_fakes
from support.fakes import chunked_engine_of as engine_of
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.backends.prefix_cache import PrefixCache
from unisono.chat.messages import Message, Prompt
from unisono.config.method import Method
from unisono.engine.engine import Engine
from unisono.engine.given_text import cut
from unisono.engine.member import Place
from unisono.engine.plan import Plan
from unisono.engine.reference import _PlainText
from unisono.engine.scoring import AT_ONCE
from unisono.ensemble import Ensemble
from unisono.errors import CapacityError, PromptError
from unisono.testing import (
    FakeModel,
    LongestMatchTokenizer,
    byte_level_table,
    hashed_rule,
    register_fake,
    sentencepiece_table,
)

NAMES = ("a", "b", "c")
TEXTS = (" the cat sat", "Sofia", "日本 and é", "x", " sing" * 8)
METHODS = [
    Method(),
    Method(lead="b").but(gate="confidence:0.6"),
    Method(lead="c").but(gate="every:3"),
    Method().but(gate="first:0"),
    Method().but(combine="geometric"),
    Method().but(combine={"rule": "mean", "weights": "perplexity"}),
    Method().but(draw="0.7 top_k:3 member_temperature:0.5"),
]


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


def plain_scores(engine: Engine, prompt: Prompt, columns: Sequence[int], method: Method) -> list[tuple[float, bool]]:
    """The plain loop, made to choose what is given: mass of each piece, and whether it was the likeliest."""
    members, union = engine.members, engine.union
    plan = Plan(method, members, union)
    text = _PlainText(plan, union, members, {member.name: member.encoder.encode(prompt) for member in members})
    text.losses = {
        member.name: member.prompt_loss(member.asked_ids(prompt)) for member in members if plan.combine.reads_losses
    }
    found = []
    for place, column in enumerate(columns):
        first = place == 0 and prompt.messages is not None
        here: Place | None = "opening" if first else None
        lead_U = text.distribution(plan.lead, here)
        opens = plan.gate.opens(plan.gate.score(lead_U[None], [place])[0])
        voters, p_U_K = text.asked_of(members, dict.fromkeys((member.name for member in members), here), opens=opens)
        q_U = text.combined(p_U_K, voters) if opens else p_U_K[0]
        found.append((float(q_U[column]), int(np.argmax(q_U)) == column))
        piece = union.piece(column)
        assert piece is not None
        text.append(column, piece, dict.fromkeys((member.name for member in members), first), None)
    return found


@pytest.mark.parametrize("method", METHODS, ids=range(len(METHODS)))
@pytest.mark.parametrize("store", [False, True])
def test_scores_are_those_of_the_plain_loop_alone_and_in_any_batch(method: Method, store: bool) -> None:
    engine = engine_of(NAMES)
    if store:
        for member in engine.members:
            member.backend = member.prefixes = PrefixCache(member.backend, shortest=3)
    asked = [(prompt, text) for prompt in (*PROMPTS[:3], Prompt(text=STORY)) for text in TEXTS]
    lead = next(member for member in engine.members if member.name == (method.lead or "a"))
    together = [
        score for start in range(0, len(asked), 8) for score in engine.score(asked[start : start + 8], method=method)
    ]
    for (prompt, text), score in zip(asked, together, strict=True):
        assert b"".join(piece.piece or b"" for piece in score.pieces) == text.encode()
        plain = plain_scores(engine, prompt, cut(lead, prompt, text), method)
        assert [piece.logp for piece in score.pieces] == pytest.approx([math.log(p) for p, _ in plain], abs=1e-3)
        assert [piece.is_likeliest for piece in score.pieces] == [likeliest for _, likeliest in plain]
        assert score.logp == pytest.approx(sum(math.log(p) for p, _ in plain), abs=1e-3)
        assert engine.active == []


def test_what_greedy_writes_is_likeliest_piece_by_piece() -> None:
    engine = engine_of(("a",))
    for prompt in PROMPTS:
        text = engine.add(prompt)
        while text.finish is None:
            engine.step()
        written = text.generation()
        if written.text.encode() != written.data or not written.text:
            continue
        [score] = engine.score([(prompt, written.text)])
        if len(score.pieces) == written.usage.pieces:
            assert score.is_greedy


def test_a_text_longer_than_one_pass_is_scored_in_several() -> None:
    engine = engine_of(("a", "b"))
    long, short = "x" * (2 * AT_ONCE + 7), "x"
    scores = engine.score([(PROMPTS[0], long), (PROMPTS[1], short)])
    assert [len(score.pieces) for score in scores] == [len(long), 1]
    plain = plain_scores(engine, PROMPTS[0], cut(engine.members[0], PROMPTS[0], long), Method())
    assert [piece.logp for piece in scores[0].pieces] == pytest.approx([math.log(p) for p, _ in plain], abs=1e-3)


def test_who_is_not_asked_is_not_run() -> None:
    engine = engine_of(("a", "b"))
    [score] = engine.score([(PROMPTS[0], " the cat")], method=Method().but(gate="first:0"))
    assert {piece.voted for piece in score.pieces} == {("a",)}
    assert not FAKE_MODELS["b"].passes
    assert len(FAKE_MODELS["a"].passes) == 1


def test_a_prompt_and_a_text_are_cut_where_the_leads_tokenizer_cuts_them() -> None:
    engine = engine_of(("a", "b"))
    lead = engine.members[0]
    whole = lead.encoder.encode(Prompt(text="Hello the cat"))
    columns = cut(lead, Prompt(text="Hello"), " the cat")
    assert columns == [
        int(lead.map.column_V[token]) for token in whole[len(lead.encoder.encode(Prompt(text="Hello"))) :]
    ]


@settings(max_examples=30, deadline=None)
@given(st.text(min_size=1, max_size=30), st.text(min_size=1, max_size=10))
def test_any_text_is_cut_into_pieces_that_are_its_bytes(text: str, prompt: str) -> None:
    make_fakes()
    engine = engine_of(("a", "b"))
    [score] = engine.score([(Prompt(text=prompt), text)])
    assert b"".join(piece.piece or b"" for piece in score.pieces) == text.encode()


def test_the_first_piece_of_an_answer_is_scored_without_the_space_that_a_template_puts_before_it() -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
    )
    spaced = sentencepiece_table([" Yes", " No", "!"], chat_template=template)
    plain = byte_level_table(["Yes", "No", "!"], chat_template="{% for m in messages %}{{ m.content }}{% endfor %}")
    for name, table in (("spaced", spaced), ("plain", plain)):
        register_fake(name, FakeModel(LongestMatchTokenizer(table), hashed_rule(len(table.texts), 3)))
    prompt = Prompt(messages=(Message(role="user", content="Well?"),))
    with Ensemble.load({"members": [{"name": name, "model": f"fake:{name}"} for name in ("plain", "spaced")]}) as duo:
        engine = duo._engine
        assert engine.members[1].opens()
        for text in ("Yes!", "No", "Yes"):
            [score] = engine.score([(prompt, text)])
            expected = plain_scores(engine, prompt, cut(engine.members[0], prompt, text), Method())
            assert [piece.logp for piece in score.pieces] == pytest.approx([math.log(p) for p, _ in expected], abs=1e-3)


def test_what_cannot_be_scored_is_refused_and_everything_is_free_again() -> None:
    engine = engine_of(("a", "b"), batch=2)
    cases: list[tuple[Any, str]] = [
        ([(PROMPTS[0], "")], "the text to score is ''"),
        ([(PROMPTS[0], "\ud800")], "the text to score is"),
        ([(PROMPTS[0], "ok"), (Prompt(text="Hello"), "word " * 2000)], "than its context of"),
        ([(Prompt(text="x" * 9000), "a")], "more than its context of"),
    ]
    for asked, message in cases:
        with pytest.raises(PromptError, match=message):
            engine.score(asked)
        assert engine.active == []
        assert engine.free == 2
    with pytest.raises(CapacityError):
        engine.score([(prompt, "a") for prompt in PROMPTS[:3]])
    assert engine.free == 2
    assert engine.score([]) == []


def test_a_prompt_that_several_texts_follow_is_read_once() -> None:
    engine = engine_of(("a", "b"))
    prompt = PROMPTS[0]
    alone = [engine.score([(prompt, text)])[0] for text in TEXTS]
    FAKE_MODELS["a"].passes.clear()
    assert engine.score([(prompt, text) for text in TEXTS]) == alone
    once = sum(len(feed.ids) for each in FAKE_MODELS["a"].passes for feed in each.feeds)
    pieces = sum(len(score.pieces) for score in alone)
    assert once < len(engine.members[0].encoder.encode(prompt)) + 2 * pieces
    assert engine.active == []


def test_a_whole_text_is_scored_behind_what_begins_a_text() -> None:
    engine = engine_of(("a", "b"))
    [whole] = engine.score([(Prompt(text=""), "Hello the cat")])
    assert b"".join(piece.piece or b"" for piece in whole.pieces) == b"Hello the cat"
    for member in engine.members:
        table = member.encoder.tokenizer.table
        begun = member.encoder.encode(Prompt(text=""), may_be_empty=True)
        assert begun == ([table.bos_id] if table.bos_id is not None else sorted(member.speller.vocabulary.end_ids)[:1])
        with pytest.raises(PromptError, match="the prompt is empty"):
            member.encoder.encode(Prompt(text=""))


def test_an_ensemble_scores_as_its_engine_does() -> None:
    with Ensemble.load({"members": [{"name": name, "model": f"fake:{name}"} for name in ("a", "b")]}, batch=2) as duo:
        expected = [duo._engine.score([(Prompt(text="Hello"), text)])[0] for text in TEXTS]
        assert duo.score(TEXTS, "Hello") == expected
        assert duo.score(TEXTS[0], "Hello") == expected[:1]
        lead_b = duo.score(TEXTS[0], "Hello", lead="b", gate="confidence:0.6", combine="geometric")
        assert lead_b == duo._engine.score(
            [(Prompt(text="Hello"), TEXTS[0])],
            method=duo.method.but(lead="b", gate="confidence:0.6", combine="geometric"),
        )
        assert duo.score([], "Hello") == []
