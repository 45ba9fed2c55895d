"""Prompts and lags read in portions, beside others: every text is what the plain loop writes (law 5)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.demo import written
from support.fakes import GATES, LONG, PROMPTS, check, make_fakes, oracle
from support.fakes import chunked_engine_of as engine_of
from support.methods import FixedDraftLength
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.config.method import Method
from unisono.engine.client import Client, Stream
from unisono.engine.draft_length import DraftLengthController
from unisono.engine.engine import Engine
from unisono.engine.request import GenerationRequest
from unisono.engine.sequence import TextSequence
from unisono.records import Limits

NAMES = ("a", "b", "c")


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


def serve(engine: Engine, texts: Sequence[TextSequence], chunk: int) -> None:
    """Read on at one text that stands back, write the others, until all have ended."""
    while engine.active:
        behind = [text for text in engine.active if engine.backlog(text)]
        for text in behind[:1]:
            before = engine.backlog(text)
            engine.read({text: chunk})
            assert engine.backlog(text) == max(0, before - chunk)
        engine.step()
    assert all(text.finish for text in texts)


@pytest.mark.slow
@pytest.mark.parametrize("longest_block", [1, 3, 16])
@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
def test_a_prompt_read_in_portions_of_any_size_changes_nothing(longest_block: int, chunk: int) -> None:
    names = ("a", "b")
    for method in (Method(), Method().but(gate="confidence:0.6"), Method(lead="b").but(gate="every:4")):
        expected = oracle(engine_of(names), PROMPTS, method, 10)
        engine = engine_of(names, longest_block)
        texts = [engine.add(prompt, Limits(10), method=method, trace=True) for prompt in PROMPTS]
        serve(engine, texts, chunk)
        check(texts, expected, names)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_texts_of_all_methods_share_a_batch_with_prompts_that_are_being_read(data: st.DataObject) -> None:
    make_fakes()
    longest_block, chunk = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 40))
    engine = engine_of(
        NAMES,
        longest_block,
        batch=4,
        draft_length=data.draw(st.sampled_from([FixedDraftLength, DraftLengthController]))(),
    )
    wanted = []
    for _ in range(data.draw(st.integers(2, 5))):
        draw = data.draw(st.sampled_from(["greedy", "0.8 seed:7", "one-member"]))
        method = Method(lead=data.draw(st.sampled_from(NAMES))).but(
            gate=data.draw(st.sampled_from(GATES)),
            speculate=data.draw(st.sampled_from(["off", "a", "b:2", "c", "ngram", "auto"])),
            draw={"one_member": True, "seed": 3} if draw == "one-member" else draw,
        )
        wanted.append((data.draw(st.sampled_from([*PROMPTS, LONG])), data.draw(st.integers(1, 14)), method))
    texts: list[TextSequence] = []
    # Not of the data: who is active depends on the clock, by which drafts are made.
    chance = random.Random(data.draw(st.integers(0, 1 << 16)))
    while len(texts) < len(wanted) or engine.active:
        if len(texts) < len(wanted) and engine.free and (not engine.active or chance.random() < 0.5):
            prompt, pieces, method = wanted[len(texts)]
            texts.append(engine.add(prompt, Limits(pieces), method=method, trace=True))
        behind = [text for text in engine.active if engine.backlog(text)]
        if behind:
            some = chance.sample(behind, chance.randint(1, len(behind)))
            engine.read({text: chance.randint(1, chunk) for text in some})
        engine.step()
    for text, (prompt, pieces, method) in zip(texts, wanted, strict=True):
        [alone] = written(engine_of(NAMES), [prompt], pieces, 1, method)
        assert [(step.piece, step.voted) for step in text.steps or ()] == [
            (step.piece, step.voted) for step in alone.steps
        ]
        assert [step.p for step in text.steps or ()] == pytest.approx([step.p for step in alone.steps], rel=1e-4)
        assert {name: cursor.ids for name, cursor in text.cursors.items()} == {
            name: cursor.ids for name, cursor in alone.cursors.items()
        }


def longest_block_of_a_step() -> int:
    """The longest that gave distributions: what a step has read of one text for one member."""
    feeds = [feed for name in NAMES for step in FAKE_MODELS[name].passes for feed in step.feeds]
    return max(len(feed.ids) for feed in feeds if feed.wanted)


@pytest.mark.parametrize("drafter", ["off", "a", "b:2", "c:2", "auto:2", "ngram:2"])
@pytest.mark.parametrize("gate", ["always", "confidence:0.6", "every:9", "first:0", "first:3"])
def test_no_step_reads_more_of_a_text_than_a_block_and_what_it_writes(gate: str, drafter: str) -> None:
    """Whoever lags reads what is too much for a step between the steps, also after a gate that was shut for long."""
    longest_block, drafts = 6, 2 * 8
    method = Method().but(gate=gate, speculate=drafter)
    engine = engine_of(NAMES, longest_block, draft_length=FixedDraftLength())
    texts = [engine.add(prompt, Limits(40), method=method) for prompt in (LONG, PROMPTS[0], LONG)]
    serve(engine, texts, 5)
    assert longest_block_of_a_step() <= longest_block + drafts
    unbounded = engine_of(NAMES, draft_length=FixedDraftLength())
    written(unbounded, [LONG], 10, 1, method)
    assert longest_block_of_a_step() > longest_block + drafts


def test_a_member_that_the_gate_never_asks_reads_nothing() -> None:
    engine = engine_of(("a", "b"), 4)
    texts = [engine.add(LONG, Limits(30), method=Method().but(gate="first:0")) for _ in range(2)]
    serve(engine, texts, 16)
    assert FAKE_MODELS["a"].passes
    assert not FAKE_MODELS["b"].passes


def test_a_text_whose_gate_opens_waits_for_the_one_that_lags_while_the_others_are_written() -> None:
    engine = engine_of(("a", "b"), 4)
    plain, gated = Method(), Method().but(gate="every:20")
    expected = oracle(engine_of(("a", "b")), [LONG, PROMPTS[0]], gated, 8)
    text = engine.add(LONG, Limits(8), method=gated, trace=True)
    other = engine.add(PROMPTS[0], Limits(40), method=plain)
    while backlog := engine.backlog(text):
        engine.read({text: 10})
        assert engine.backlog(text) == max(0, backlog - 10)
    assert (text.cursors["a"].read, text.cursors["b"].read) == (len(text.cursors["a"].ids) - 1, 0)
    engine.read({other: 100})
    before = other.pieces
    engine.step()
    assert text.pieces == 0, "the gate opened at once, and b had everything to read"
    assert other.pieces > before
    assert engine.backlog(text) == len(text.cursors["b"].ids) - 1
    for _ in range(3):
        before = other.pieces
        engine.read({text: 5})
        engine.step()
        assert (text.pieces, other.pieces) == (0, before + 1)
    serve(engine, [text, other], 1000)
    check([text], expected[:1], ("a", "b"))


def test_copies_share_a_prompt_that_was_read_in_portions() -> None:
    method = Method().but(draw="1 seed:5", gate="every:3")
    alone = [
        written(engine_of(("a", "b")), [LONG], 9, 1, method.but(draw=f"1 seed:{seed}"))[0].generation().data
        for seed in (5, 6, 7)
    ]
    engine = engine_of(("a", "b"), 4)
    group = engine.begin(engine.prepare(GenerationRequest("", LONG, Limits(9), method=method, n=3)))
    total = sum(len(cursor.ids) - 1 for cursor in group.sequences[0].cursors.values())
    assert engine.backlog(group) == total
    while engine.backlog(group):
        assert engine.step() == []
        engine.read({group: 20})
    group.fork(engine.members)
    assert sum(FAKE_MODELS[name].tokens_read() for name in "ab") == total
    serve(engine, group.sequences, 100)
    assert [text.generation().data for text in group.sequences] == alone


@pytest.mark.parametrize("gate", ["always", "every:5", "confidence:0.6"])
def test_a_search_reads_its_prompt_in_portions_before_it_branches(gate: str) -> None:
    method = Method().but(draw="beam_width:3", gate=gate)
    [alone] = written(engine_of(("a", "b")), [LONG], 12, 1, method)
    engine = engine_of(("a", "b"), 4)
    texts = [engine.add(LONG, Limits(12), method=method), engine.add(PROMPTS[0], Limits(12))]
    serve(engine, texts, 10)
    assert texts[0].generation().data == alone.generation().data
    assert longest_block_of_a_step() <= 4 + 8


def test_a_stream_reads_its_own_prompt() -> None:
    engine = engine_of(("a", "b"), 4)
    [alone] = written(engine_of(("a", "b")), [LONG], 9, 1)
    stream = Stream(Client.of(engine), GenerationRequest("", LONG, Limits(9)))
    assert "".join(stream) == alone.generation().text


def test_a_failure_while_a_prompt_is_read_leaves_it_as_it_was() -> None:
    engine = engine_of(("a", "b"), 4)
    expected = oracle(engine_of(("a", "b")), [LONG], Method(), 8)
    text = engine.add(LONG, Limits(8), trace=True)
    advance, calls = engine.members[1].backend.advance, itertools.count()

    def failing(feeds: Any) -> Any:
        logits_NV = advance(feeds)  # it has read, and fails then
        if next(calls) % 2 == 0:
            raise RuntimeError("a cable fell out")
        return logits_NV

    engine.members[1].backend.advance = failing  # type: ignore[method-assign]
    while engine.active:
        for go_on in (lambda: engine.read({text: 7}), engine.step):
            try:
                go_on()
            except RuntimeError as error:
                assert "member 'b'" in error.__notes__[0]  # noqa: PT017
    check([text], expected, ("a", "b"))


def test_a_text_that_cannot_be_restored_is_given_up_and_its_slots_are_free() -> None:
    engine = engine_of(("a", "b"), 4, batch=2)
    text, other = engine.add(LONG), engine.add(PROMPTS[0], Limits(5))
    backend = engine.members[1].backend
    advance, rewind = backend.advance, backend.rewind
    lost = text.cursors["b"].slot

    def failing(feeds: Any) -> Any:
        raise RuntimeError("the cache is gone")

    def failing_rewind(slot: Any, length: int) -> None:
        if slot == lost:
            raise RuntimeError("the cache is gone")
        rewind(slot, length)

    backend.advance, backend.rewind = failing, failing_rewind  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="the cache is gone"):
        engine.read({text: 5})
    assert engine.active == [other]
    assert engine.free == 1
    backend.advance, backend.rewind = advance, rewind  # type: ignore[method-assign]
    serve(engine, [other], 10)
    assert other.finish == "length"
    assert len({backend.open() for _ in range(2)}) == 2
