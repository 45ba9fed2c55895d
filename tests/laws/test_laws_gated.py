"""Law 5 for gates and drafts on fakes: every combination writes what the plain loop writes."""

from __future__ import annotations

import functools
import itertools
import random
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.covering import covering
from support.demo import written
from support.fakes import GATES, PIECES, PROMPTS, check, engine_of, in_turn, make_fakes, oracle
from support.methods import FixedDraftLength
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.config.method import Method
from unisono.engine.draft_length import DraftLengthController
from unisono.engine.engine import Engine
from unisono.engine.step_state import StepState
from unisono.ensemble import Ensemble
from unisono.records import Limits


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


PACES: dict[str, tuple[type[DraftLengthController], int]] = {
    "steady2": (FixedDraftLength, 2),
    "steady6": (FixedDraftLength, 6),
    "adaptive": (DraftLengthController, 6),
}


BOUNDARIES = (False, True)
SIZES = (1, 3, 8)


@functools.cache
def ways(names: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """Gate, boundary, batch size, drafter and length of drafts: any three of them meet."""
    return covering(GATES, BOUNDARIES, SIZES, ("off", *names, "ngram", "auto"), PACES, together=3)


@pytest.mark.slow
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("names", [("a", "b"), ("b", "c", "a")])
def test_gates_drafts_and_batches_equal_the_plain_loop(names: tuple[str, ...], gate: str, boundary: bool) -> None:
    """Law 5, for gates x drafters x lengths of drafts x batch sizes, the lead not being the first member."""
    lead = names[1]
    method = Method(lead=lead).but(gate=gate, boundary=boundary)
    expected = oracle(engine_of(names), PROMPTS, method)
    mine = [way for way in ways(names) if way[:2] == (gate, boundary)]
    for number, (*_, size, drafter, pace) in enumerate(mine):
        draft_length, longest = PACES[pace]
        engine = engine_of(names, draft_length=draft_length())
        speculate = "off" if drafter == "off" else f"{drafter}:{longest}"
        part = in_turn(size, number)
        texts = written(engine, PROMPTS[part], PIECES, size, method.but(speculate=speculate))
        check(texts, expected[part], names)
        assert all(text.drafted >= text.accepted >= 0 and text.blocks <= text.drafted for text in texts)


@pytest.mark.slow
def test_the_combinations_above_are_not_vacuous() -> None:
    """Gates open and shut, drafts hold and fail, END is reached, boundaries keep gates shut."""
    engine = engine_of(("a", "b", "c"), draft_length=FixedDraftLength())
    texts = written(engine, PROMPTS, 60, 8, Method().but(gate="confidence:0.6", boundary=True, speculate="b"))
    steps = [step for text in texts for step in text.steps]
    assert {step.gate.asked for step in steps} == {True, False}
    assert {step.draft.accepted for step in steps if step.draft} == {True, False}
    assert any(step.gate.inside for step in steps)
    assert any(step.piece is None for step in steps)
    found = written(
        engine_of(("a", "b"), draft_length=FixedDraftLength()), PROMPTS, 60, 8, Method().but(speculate="ngram")
    )
    assert sum(text.accepted for text in found) > 10


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_texts_of_different_methods_share_a_batch(data: st.DataObject) -> None:
    """What a text says does not depend on how the others beside it are written."""
    make_fakes()
    names = ("a", "b", "c")
    engine = engine_of(
        names, batch=4, draft_length=data.draw(st.sampled_from([FixedDraftLength, DraftLengthController]))()
    )
    wanted = []
    for _ in range(data.draw(st.integers(2, 6))):
        method = Method(lead=data.draw(st.sampled_from(names))).but(
            gate=data.draw(st.sampled_from(GATES)),
            boundary=data.draw(st.booleans()),
            speculate=data.draw(st.sampled_from(["off", "a", "b:2", "c", "ngram", "auto"])),
        )
        wanted.append((data.draw(st.sampled_from(PROMPTS)), data.draw(st.integers(1, 18)), method))
    texts, waiting = [], list(wanted)
    # Not of the data: who is active depends on the clock, by which drafts are made.
    chance = random.Random(data.draw(st.integers(0, 1 << 16)))
    while waiting or engine.active:
        while waiting and len(engine.active) < 4 and chance.random() < 0.5:
            prompt, pieces, method = waiting.pop(0)
            texts.append(engine.add(prompt, Limits(pieces), method=method, trace=True))
        if not engine.active:
            prompt, pieces, method = waiting.pop(0)
            texts.append(engine.add(prompt, Limits(pieces), method=method, trace=True))
        engine.step()
    for text, (prompt, pieces, method) in zip(texts, wanted, strict=True):
        expected = oracle(engine_of(names), [prompt], method, pieces)
        check([text], expected, names)


def test_a_shut_gate_is_the_lead_alone_and_runs_nobody_else() -> None:
    """Law 1 for a gate that never opens: the lead's own ids; the other model is not touched."""
    alone = engine_of(("a",))
    pair = engine_of(("a", "b"))
    own = written(alone, PROMPTS, PIECES, 1)
    led = written(pair, PROMPTS, PIECES, 1, Method().but(gate="first:0"))
    assert [text.cursors["a"].ids for text in led] == [text.cursors["a"].ids for text in own]
    assert FAKE_MODELS["b"].passes == []
    assert all(text.ensembled == 0 and text.member_seconds["b"] == 0 for text in led)


def test_a_lagging_member_catches_up_in_one_block() -> None:
    """Asked at every fourth piece, it reads its prompt with the first and four pieces with each after."""
    engine = engine_of(("a", "b"))
    text = written(engine, PROMPTS[:1], 13, 1, Method().but(gate="every:4"))[0]
    passes = [step.feeds[0] for step in FAKE_MODELS["b"].passes]
    assert len(passes) == 4 == sum(step.voted == ("a", "b") for step in text.steps)
    read = [token for feed in passes for token in feed.ids]
    assert text.cursors["b"].ids[: len(read)] == read
    assert all(feed.wanted == 1 for feed in passes)
    assert len(FAKE_MODELS["a"].passes) == 13


def test_a_draft_is_read_in_one_pass_by_those_who_verify_it() -> None:
    engine = engine_of(("a", "b", "c"), draft_length=FixedDraftLength())
    text = written(engine, PROMPTS[:1], 40, 1, Method().but(speculate="a:5"))[0]
    steps = len(FAKE_MODELS["b"].passes)
    assert steps == len(FAKE_MODELS["c"].passes) < 40
    assert text.blocks <= steps
    assert text.accepted == len(text.steps) - steps
    assert {feed.wanted for step in FAKE_MODELS["a"].passes for feed in step.feeds} == {1}


def test_prompts_can_be_read_before_the_gate_asks() -> None:
    engine = engine_of(("a", "b"))
    method = Method().but(gate="every:5")
    expected = oracle(engine_of(("a", "b")), PROMPTS[:1], method)
    FAKE_MODELS["b"].passes.clear()
    text = engine.add(PROMPTS[0], Limits(PIECES), method=method, trace=True)
    engine.prefill(text)
    assert text.cursors["b"].read == len(text.cursors["b"].ids) - 1
    while engine.active:
        engine.step()
    check([text], expected, ("a", "b"))


@pytest.mark.slow
def test_a_context_that_fills_within_a_draft_ends_the_text_where_the_plain_way_does() -> None:
    for drafter, context in itertools.product(("off", "a", "b", "ngram"), range(14, 26)):
        plain = engine_of(("a", "b"), context=context)
        engine = engine_of(("a", "b"), draft_length=FixedDraftLength(), context=context)
        expected = written(plain, PROMPTS[:3], 40, 1)
        texts = written(engine, PROMPTS[:3], 40, 3, Method().but(speculate=drafter))
        assert [(text.finish, [step.piece for step in text.steps]) for text in texts] == [
            (text.finish, [step.piece for step in text.steps]) for text in expected
        ]


def test_a_stop_string_within_a_draft_ends_the_text_there() -> None:
    for drafter in ("off", "a", "b", "ngram", "auto"):
        engine = engine_of(("a", "b"), draft_length=FixedDraftLength())
        text = engine.add(PROMPTS[4], Limits(60, "Sofia"), method=Method().but(speculate=drafter))
        while engine.active:
            engine.step()
        assert text.finish == "stop"
        assert text.generation().text == " 日本 sees Hello, "


def test_the_trace_says_what_each_voter_would_have_written_and_where_the_time_went() -> None:
    engine = engine_of(("a", "b"), draft_length=FixedDraftLength())
    method = Method().but(gate="confidence:0.9")
    text = written(engine, PROMPTS[:1], PIECES, 1, method.but(speculate="a:3"))[0]
    expected = oracle(engine_of(("a", "b")), PROMPTS[:1], method)[0]
    columns = {engine.union.piece(column): column for column in range(engine.union.size)}
    for step, plain in zip(text.steps, expected, strict=True):
        if step.voted == ("a",):
            likeliest = np.argsort(-plain.q_U, kind="stable")[:10]
            kept = [column for column in likeliest if plain.q_U[column] >= 1e-3]
            assert [columns[piece] for piece, _ in step.top["a"]] == kept
            assert [mass for _, mass in step.top["a"]] == pytest.approx(plain.q_U[kept], rel=1e-4)
        for name, top in step.top.items():
            assert 1 <= len(top) <= 10
            assert [mass for _, mass in top] == sorted((mass for _, mass in top), reverse=True)
            assert step.members[name] == pytest.approx(dict(top).get(step.piece, step.members[name]))
        record = step.to_json()
        assert record["gate"]["threshold"] == 0.9
        assert bytes(record["bytes"] or []) == (step.piece or b"")
    drafts = [step.draft for step in text.steps if step.draft]
    assert sum(draft.accepted for draft in drafts) == text.accepted
    assert all(draft.drafter == "a" for draft in drafts)
    seconds = text.generation().seconds
    for name in ("a", "b"):
        spent = sum(step.seconds.members.get(name, 0.0) for step in text.steps)
        assert spent == pytest.approx(seconds.members[name])
    assert sum(step.seconds.total for step in text.steps) <= seconds.total


def test_recording_nothing_keeps_nothing() -> None:
    engine = engine_of(("a", "b"))
    text = engine.add(PROMPTS[0], Limits(3))
    while engine.active:
        engine.step()
    assert text.generation().steps is None


def test_a_failure_in_the_middle_of_a_draft_leaves_texts_as_they_were() -> None:
    """After an interruption the engine goes on as if the step had never begun."""
    engine = engine_of(("a", "b"), draft_length=FixedDraftLength())
    method = Method().but(speculate="a:4")
    expected = oracle(engine_of(("a", "b")), PROMPTS[:2], method)
    texts = [engine.add(prompt, Limits(PIECES), method=method, trace=True) for prompt in PROMPTS[:2]]
    engine.step()
    advance, calls = engine.members[1].backend.advance, itertools.count()

    def failing(feeds: Any) -> Any:
        if next(calls) % 2 == 0:
            raise KeyboardInterrupt
        return advance(feeds)

    engine.members[1].backend.advance = failing  # type: ignore[method-assign]
    while engine.active:
        try:
            engine.step()
        except KeyboardInterrupt:
            assert all(len(cursor.ids) >= cursor.read for text in engine.active for cursor in text.cursors.values())
    check(texts, expected, ("a", "b"))


def test_streams_that_take_turns_are_each_read_to_their_end() -> None:
    members = [{"name": name, "model": f"fake:{name}"} for name in ("a", "b")]
    with Ensemble.load({"members": members}, batch=3) as pair:
        streams = [
            pair.stream(prompt.text, max_new_tokens=size) for prompt, size in zip(PROMPTS, (8, 8, 5), strict=False)
        ]
        shown = ["", "", ""]
        for turn in itertools.cycle(range(3)):
            shown[turn] += next(streams[turn], "")
            if not any(pair._client.service.has(stream._id) for stream in streams):
                break
        assert [text + "".join(stream) for text, stream in zip(shown, streams, strict=True)] == [
            stream.generation.text for stream in streams
        ]
        waiting = pair.stream(PROMPTS[0].text, max_new_tokens=3)
        pair.generate(PROMPTS[1].text, max_new_tokens=20)
        assert "".join(waiting) == waiting.generation.text != ""


def test_a_text_that_ends_in_a_step_that_fails_is_not_written_further(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(("a", "b"))
    short, other = engine.add(PROMPTS[0], Limits(2)), engine.add(PROMPTS[1], Limits(20))
    engine.step()
    take = StepState.take

    def fails_at_the_second(window: StepState, position: int, column: int) -> None:
        if window.text is other:
            raise RuntimeError("no more")
        take(window, position, column)

    with monkeypatch.context() as patch:
        patch.setattr(StepState, "take", fails_at_the_second)
        with pytest.raises(RuntimeError, match="no more"):
            engine.step()
    assert short.finish == "length"
    assert engine.active == [other]
    while engine.active:
        engine.step()
    assert short.generation().usage.pieces == 2
    alone = written(engine_of(("a", "b")), PROMPTS[1:2], 20, 1)[0]
    assert other.generation().data == alone.generation().data


def test_a_member_that_fails_beside_a_slow_one_on_another_device_leaves_it_as_it_was() -> None:
    engine = engine_of(("a", "b"))
    for member in engine.members:
        facts = member.backend.facts
        member.backend.facts = type(facts)(f"device of {member.name}", facts.rows, facts.context, facts.slots)
    engine = Engine(engine.members, engine.union)
    text = engine.add(PROMPTS[0], Limits(PIECES), trace=True)
    failing, slow = (member.backend.advance for member in engine.members)
    broken = [True]

    def fails_once(feeds: Any) -> Any:
        if broken and broken.pop():
            raise RuntimeError("once")
        return failing(feeds)

    def late(feeds: Any) -> Any:
        time.sleep(0.02)
        return slow(feeds)

    engine.members[0].backend.advance, engine.members[1].backend.advance = fails_once, late  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="once"):
        engine.step()
    while engine.active:
        engine.step()
    check([text], oracle(engine_of(("a", "b")), PROMPTS[:1], Method()), ("a", "b"))


def test_a_text_given_up_within_a_step_keeps_its_slots_until_the_step_ends() -> None:
    """As when a garbage collector finds an abandoned stream while another text is written."""
    engine = engine_of(("a", "b"), batch=2)
    abandoned, other = engine.add(PROMPTS[0], Limits(20)), engine.add(PROMPTS[1], Limits(PIECES), trace=True)
    advance = engine.members[0].backend.advance

    def collects(feeds: Any) -> Any:
        engine.drop(abandoned)
        return advance(feeds)

    engine.members[0].backend.advance = collects  # type: ignore[method-assign]
    engine.step()
    assert engine.active == [other]
    engine.members[0].backend.advance = advance  # type: ignore[method-assign]
    while engine.active:
        engine.step()
    check([other], oracle(engine_of(("a", "b")), PROMPTS[1:2], Method()), ("a", "b"))
