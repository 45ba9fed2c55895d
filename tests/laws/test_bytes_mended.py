"""Bytes at their edges: contexts that fill, cuts that interleave, marks, and what traces and seeds say of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from support.bytes_ensembles import EXACT, TINY, essence, load, make_tiny, written
from support.fakes import PROMPTS, STORY, make_fakes
from unisono.backends.fake.backend import FAKE_MODELS, scripted_rule
from unisono.chat.messages import Prompt
from unisono.engine import byte_scoring, byte_walk
from unisono.engine.byte_cursor import ByteCursor
from unisono.ensemble import Ensemble
from unisono.records import Limits
from unisono.testing import FakeModel, LongestMatchTokenizer, byte_level_table, register_fake


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    make_tiny()
    yield
    FAKE_MODELS.clear()


def register(name: str, words: list[str], script: dict[str, dict[str, float]], context: int = 4096) -> None:
    table = byte_level_table(words)
    register_fake(name, FakeModel(LongestMatchTokenizer(table), scripted_rule(table, script), context=context))


def interleaving(share: float = 0.5) -> None:
    """``x`` cuts after even bytes, and with another share after odd ones; ``y`` byte by byte."""
    pair = {"aa": share, "a": 1 - share}
    register("x", ["aa"], {"": pair, "aa": {"aa": 1.0}, "a": {"aa": 1.0}})
    register("y", [], {"": {"a": 1.0}})


def test_a_light_hypothesis_that_fills_the_context_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """By bytes the text is twice as long as by pairs, and so that way of cutting it ends first."""
    register("x", ["aa"], {"": {"aa": 0.7, "a": 0.3}, "aa": {"aa": 1.0}, "a": {"a": 1.0}}, context=12)
    with load(["x"], EXACT, sampling="1 seed:0") as ensemble, caplog.at_level(logging.WARNING):
        generation = ensemble.generate("z", max_new_tokens=99)
        assert generation.finish_reason == "context"
        assert len(generation.data) > 2 * 9
        assert ensemble._engine.free == ensemble._engine.slots
    assert "member 'x0': 30% of its mass is dropped" in caplog.text


def test_scoring_drops_it_too() -> None:
    register("x", ["aa"], {"": {"aa": 0.7, "a": 0.3}, "aa": {"aa": 1.0}, "a": {"a": 1.0}}, context=12)
    with load(["x"], EXACT) as ensemble:
        [score] = ensemble.score("a" * 20, "z")
        assert score.logp == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("sampling", ["greedy", "1 seed:1"])
def test_a_step_ends_somewhere_and_goes_on_exactly(sampling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    interleaving(0.6)
    for names, prompt in ((["x", "y"], Prompt(text="z")), (["a", "b", "c"], PROMPTS[4]), (["p", "q"], PROMPTS[0])):
        with load(names, TINY, sampling=sampling) as ensemble:
            whole = written(ensemble, prompt, 20).data
            monkeypatch.setattr(byte_walk, "MOST_WALKED", 2)
            cut = written(ensemble, prompt, 40)
            monkeypatch.undo()
        assert cut.data.startswith(whole) or whole.startswith(cut.data)
        assert all((step.walked or 0) <= 2 for step in cut.steps or ())


def test_cuts_that_interleave_without_end_do_not_keep_a_step() -> None:
    register("x", ["aaa", "aa"], {"": {"aaa": 0.5, "a": 0.5}, "aaa": {"aaa": 1.0}, "a": {"aaa": 0.5, "a": 0.5}})
    with load(["x"], "bytes beam:16 least:0", sampling="1 seed:0") as ensemble:
        generation = ensemble.generate("z", max_new_tokens=3, trace=True)
    assert all((step.walked or 0) <= byte_walk.MOST_WALKED for step in generation.steps or ())


def test_a_walked_piece_is_held_to_first_choices_byte_by_byte() -> None:
    """``x`` writes ``light`` as two pieces, ``y`` as one: both would have written each of its bytes."""
    register("x", ["li", "ght"], {"": {"li": 1.0}, "li": {"ght": 1.0}, "ght": {"</s>": 1.0}})
    register("y", ["light"], {"": {"light": 1.0}, "light": {"</s>": 1.0}})
    register("w", ["lo"], {"": {"lo": 1.0}})
    with load(["x", "y"]) as ensemble:
        steps = written(ensemble, Prompt(text="z")).steps or ()
        assert [(step.piece, step.kind) for step in steps] == [(b"li", "agreed"), (b"ght", "agreed"), (None, "agreed")]
        assert steps[0].walked == 2
    with load(["x", "y", "w"]) as ensemble:
        [step, *_] = written(ensemble, Prompt(text="z")).steps or ()
        assert (step.piece, step.kind, step.winners) == (b"li", "carried", ("x0", "y1"))


def test_a_mark_leaves_the_heaviest_hypothesis_first() -> None:
    table = byte_level_table(["ab"])
    script = {"": {"ab": 0.6, "a": 0.4}, "ab": {"<|user|>": 0.1, "a": 0.9}, "a": {"b": 1.0}, "b": {"<|user|>": 1.0}}
    register_fake("x", FakeModel(LongestMatchTokenizer(table), scripted_rule(table, script)))
    members = [{"name": "x", "model": "fake:x", "marks": {"call_begin": "<|user|>", "call_end": "<|system|>"}}]
    with Ensemble.load({"members": members, "vocabulary": EXACT}, batch=1) as ensemble:
        engine = ensemble._engine
        text = engine.add(Prompt(text="z"))
        walk = engine._bytes.walk(text)
        [cursor] = walk.voters.cursors.values()
        for byte in b"ab":
            _read(engine, cursor)
            walk.take_byte(byte)
        _read(engine, cursor)
        assert [path.cursor.ids[-1] for path in cursor.paths] != []
        cursor.take_mark(0)
        weights = [path.hypothesis.weight for path in cursor.paths]
        assert weights == sorted(weights, reverse=True)
        assert weights == pytest.approx([0.4 / 0.46, 0.06 / 0.46], rel=1e-3)
        engine.drop(text)


def _read(engine, cursor: ByteCursor) -> None:  # type: ignore[no-untyped-def]
    from unisono.engine.byte_stepper import rows
    from unisono.engine.byte_walk import ByteWalk

    for group in engine.groups:
        for text in group.open:
            assert isinstance(text.forks, ByteWalk)
            while cursor.unread():
                engine._runner.read_rows(rows(text.forks))


def test_a_text_that_is_resumed_behind_marks_draws_what_it_would_have_drawn() -> None:
    table = byte_level_table([])
    share = {"<|user|>": 0.3, "a": 0.25, "b": 0.25, "c": 0.2}
    register_fake("x", FakeModel(LongestMatchTokenizer(table), scripted_rule(table, {"": share})))
    members = [{"name": "x", "model": "fake:x", "marks": {"call_begin": "<|user|>", "call_end": "<|system|>"}}]
    with Ensemble.load({"members": members, "vocabulary": EXACT, "sampling": "1 seed:3"}, batch=1) as ensemble:
        whole = [{"mark": step.mark} if step.mark else step.piece for step in _steps(ensemble, [])]
        assert {"mark": "call_begin"} in whole[:6]
        resumed = [{"mark": step.mark} if step.mark else step.piece for step in _steps(ensemble, whole[:6])]
    assert whole[:6] + resumed[:6] == whole[:12]


def _steps(ensemble: Ensemble, begin: list[object]):  # type: ignore[no-untyped-def]
    return ensemble.generate("z", max_new_tokens=12, trace=True, begin=begin or None).steps or ()  # type: ignore[arg-type]


def test_what_is_foreseen_of_a_given_text_changes_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [(Prompt(text=STORY), STORY[:40]), (Prompt(text=STORY), " the cat"), (PROMPTS[1], STORY[8:30])]
    with load(["a", "b", "c"], TINY, batch=3) as ensemble:
        engine = ensemble._engine
        found = []
        for block in (32, 5, 1):
            monkeypatch.setattr(byte_scoring, "AT_ONCE", block)
            found.append(engine.score(asked))
            found.append([engine.score([each])[0] for each in asked])
        passes = 0
        for scores in found[1:]:
            for score, first in zip(scores, found[0], strict=True):
                assert score.logp == pytest.approx(first.logp, rel=1e-5)
                assert [each.is_likeliest for each in score.pieces] == [each.is_likeliest for each in first.pieces]
        assert engine.free == engine.slots
        assert passes == 0


def test_scores_need_no_spare_slot() -> None:
    asked = [(Prompt(text=STORY), STORY[:20]), (Prompt(text=STORY), " the cat")]
    with load(["p", "q"], TINY, batch=1) as ensemble:
        engine = ensemble._engine
        expected = [score.logp for score in engine.score(asked)]
        right = engine._byte_scoring.score
        engine._byte_scoring.score = lambda given, spare: right(given, 0)  # type: ignore[method-assign]
        assert [score.logp for score in engine.score(asked)] == pytest.approx(expected, rel=1e-5)


def test_texts_that_are_scored_give_their_slots_back_when_they_fail() -> None:
    register("x", ["aa"], {"": {"aa": 1.0}}, context=8)
    with load(["x"]) as ensemble:
        with pytest.raises(Exception, match="more tokens"):
            ensemble.score("a" * 40, "z")
        assert ensemble._engine.free == ensemble._engine.slots
        assert essence(ensemble.generate("z", max_new_tokens=2))[2] == 2
        assert Limits(2).max_new_tokens == 2
