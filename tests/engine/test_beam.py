"""Beam search: what it finds is the likeliest there is, and it leaves nothing behind."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest

from support.demo import written
from support.fakes import PROMPTS, engine_of, make_fakes
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.messages import Prompt
from unisono.config.method import Method
from unisono.engine.engine import Engine
from unisono.engine.reference import plain_distribution
from unisono.engine.request import GenerationRequest
from unisono.errors import SpecError
from unisono.records import Limits

PIECES = 10


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


def plain_beam(
    engine: Engine, prompt: Prompt, width: int, pieces: int, penalty: float = 1.0
) -> tuple[tuple[int, ...], float]:
    """The same search, written down as shortly as can be: the best columns and their ranked score."""
    end = engine.union.end
    following: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    ended: list[tuple[float, tuple[int, ...]]] = []
    for length in range(1, pieces + 1):
        found = []
        for score, columns in following:
            q_U = np.zeros(engine.union.size)
            for member in engine.members:
                ids = member.encoder.encode(prompt)
                for place, column in enumerate(columns):
                    piece = engine.union.piece(column)
                    assert piece is not None
                    first = place == 0 and prompt.messages is not None and member.opens()
                    ids += member.spell(column, piece, first=first)
                first = not columns and prompt.messages is not None
                q_U += member.weight * plain_distribution(member, member.map, ids, first=first)
            best = np.argsort(-q_U, kind="stable")[: 2 * width]
            found += [(score + math.log(q_U[column]), (*columns, int(column))) for column in best if q_U[column] > 0]
        found.sort(key=lambda each: -each[0])
        ended += [(s / length**penalty, c) for s, c in found[:width] if c[-1] == end]
        ended = sorted(ended, key=lambda each: -each[0])[:width]
        following = [each for each in found if each[1][-1] != end][:width]
        if len(ended) == width and max(s for s, _ in following) / length**penalty <= ended[-1][0]:
            break
    else:
        ended += [(s / pieces**penalty, c) for s, c in following]
    best_score, best_columns = max(ended, key=lambda each: each[0])
    return best_columns, best_score


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("names", [("a",), ("a", "b"), ("b", "c", "a")])
def test_a_beam_finds_what_the_plain_search_finds(names: tuple[str, ...], width: int) -> None:
    for penalty in (1.0, 0.0, 2.0):
        engine = engine_of(names, batch=width)
        method = Method().but(draw={"beam_width": width, "length_penalty": penalty})
        for prompt, text in zip(PROMPTS[::3], written(engine, PROMPTS[::3], PIECES, 1, method), strict=True):
            columns, score = plain_beam(engine, prompt, width, PIECES, penalty)
            assert [step.piece for step in text.steps] == [engine.union.piece(column) for column in columns]
            mine = sum(math.log(step.p) for step in text.steps) / len(text.steps) ** penalty
            assert mine == pytest.approx(score, rel=1e-4)


def test_a_wider_beam_finds_no_worse_text_than_greedy_here() -> None:
    """With room for all continuations of two steps the likeliest text of two pieces is found."""
    engine = engine_of(("a", "b"), batch=64)
    [text] = written(engine, PROMPTS[:1], 2, 1, Method().but(draw={"beam_width": 64, "length_penalty": 0}))
    [greedy] = written(engine, PROMPTS[:1], 2, 1)
    assert math.prod(step.p for step in text.steps) >= math.prod(step.p for step in greedy.steps)


def test_beams_share_a_batch_with_other_texts_and_leave_no_slot_taken() -> None:
    engine = engine_of(("a", "b"), batch=8)
    beam = Method().but(draw="beam_width:3", gate="confidence:0.6")
    alone = [written(engine_of(("a", "b"), batch=3), [prompt], PIECES, 1, beam)[0] for prompt in PROMPTS[:2]]
    plain = written(engine_of(("a", "b")), PROMPTS[2:4], PIECES, 1)
    texts = [engine.add(prompt, Limits(PIECES), method=beam, trace=True) for prompt in PROMPTS[:2]]
    texts += [engine.add(prompt, Limits(PIECES), trace=True) for prompt in PROMPTS[2:4]]
    assert engine.free == 0
    while engine.active:
        engine.step()
    assert engine.free == 8
    for text, expected in zip(texts, [*alone, *plain], strict=True):
        assert [step.piece for step in text.steps or ()] == [step.piece for step in expected.steps or ()]
    slots = [engine.members[0].backend.open() for _ in range(8)]
    assert len(set(slots)) == 8


def test_a_beam_is_given_up_in_the_middle_and_frees_its_slots() -> None:
    engine = engine_of(("a", "b"), batch=4)
    text = engine.add(PROMPTS[0], Limits(PIECES), method=Method().but(draw="beam_width:4"))
    for _ in range(3):
        engine.step()
    assert len(engine.groups[0].open) == 4
    engine.drop(text)
    assert engine.free == 4
    for member in engine.members:
        assert len({member.backend.open() for _ in range(4)}) == 4


def test_a_stop_string_ends_a_hypothesis_and_the_result_is_cut_before_it() -> None:
    engine = engine_of(("a", "b"), batch=4)
    text = engine.add(PROMPTS[4], Limits(40, "Sofia"), method=Method().but(draw="beam_width:4"))
    while engine.active:
        engine.step()
    generation = text.generation()
    assert "Sofia" not in generation.text
    assert generation.finish_reason in ("stop", "end", "length")


def test_a_failure_in_a_beam_is_undone() -> None:
    expected = written(engine_of(("a", "b"), batch=3), PROMPTS[:1], PIECES, 1, Method().but(draw="beam_width:3"))
    engine = engine_of(("a", "b"), batch=3)
    text = engine.add(PROMPTS[0], Limits(PIECES), method=Method().but(draw="beam_width:3"), trace=True)
    advance, calls = engine.members[1].backend.advance, itertools.count()

    def failing(feeds: object) -> object:
        if next(calls) % 2 == 0:
            raise KeyboardInterrupt
        return advance(feeds)  # type: ignore[arg-type]

    engine.members[1].backend.advance = failing  # type: ignore[method-assign]
    while engine.active:
        try:
            engine.step()
        except KeyboardInterrupt:
            assert len(engine.groups[0].open) <= 3
    assert [step.piece for step in text.steps or ()] == [step.piece for step in expected[0].steps]


def test_a_beam_that_does_not_fit_is_refused() -> None:
    engine = engine_of(("a", "b"), batch=2)
    with pytest.raises(SpecError, match="beam_width is 4, but there are slots for 2 texts"):
        engine.add(PROMPTS[0], method=Method().but(draw="beam_width:4"))
    engine.add(PROMPTS[0])
    with pytest.raises(RuntimeError, match="1 of 2 slots are free"):
        engine.add(PROMPTS[0], method=Method().but(draw="beam_width:2"))


def test_continuations_of_one_prompt_read_it_once() -> None:
    for gate in ("always", "every:3"):
        make_fakes()
        engine = engine_of(("a", "b"), batch=4)
        method = Method().but(draw="1 seed:5", gate=gate)
        request = GenerationRequest("", PROMPTS[3], Limits(PIECES), trace=True, method=method, n=4)
        group = engine.begin(engine.prepare(request))
        assert engine.free == 0
        engine.prefill(group)
        group.fork(engine.members)
        first, texts = group.sequences[0], group.sequences
        read = {name: FAKE_MODELS[name].tokens_read() for name in ("a", "b")}
        assert read == {name: len(first.cursors[name].ids) - 1 for name in ("a", "b")}
        while engine.active:
            engine.step()
        for seed, text in zip((5, 6, 7, 8), texts, strict=True):
            own = Method().but(draw=f"1 seed:{seed}", gate=gate)
            [alone] = written(engine_of(("a", "b")), [PROMPTS[3]], PIECES, 1, own)
            assert [step.piece for step in text.steps or ()] == [step.piece for step in alone.steps or ()]
            assert text.generation().seed == seed
