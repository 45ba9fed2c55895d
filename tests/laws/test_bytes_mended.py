"""Bytes at their edges: contexts that fill, cuts that interleave, marks, and what traces and seeds say of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from support.bytes_ensembles import EXACT, TINY, load, written
from support.fakes import PROMPTS, STORY
from unisono.backends.fake.backend import scripted_rule
from unisono.chat.messages import Prompt
from unisono.engine import byte_scoring, byte_walk
from unisono.engine.byte_scoring import ByteScoring
from unisono.engine.byte_stepper import rows
from unisono.ensemble import Ensemble
from unisono.errors import PromptError
from unisono.testing import FakeModel, LongestMatchTokenizer, byte_level_table, register_fake

pytestmark = pytest.mark.usefixtures("bytes_fakes")


def register(name: str, words: list[str], script: dict[str, dict[str, float]]) -> None:
    table = byte_level_table(words)
    register_fake(name, FakeModel(LongestMatchTokenizer(table), scripted_rule(table, script)))


def register_by_tokens(
    name: str, words: list[str], chances: Callable[[list[str]], dict[str, float]], context: int
) -> None:
    """A model whose next token follows from the tokens before, and not from their text."""
    table = byte_level_table(words)

    def rule(read: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
        logits = np.full(len(table.texts), -np.inf, np.float32)
        for token, p in chances([table.texts[each] for each in read]).items():
            logits[table.texts.index(token)] = math.log(p)
        return logits

    register_fake(name, FakeModel(LongestMatchTokenizer(table), rule, context=context))


def pairs_or_singles(read: list[str]) -> dict[str, float]:
    """The first token decides whether all are ``aa`` or ``a``."""
    return {"aa": 1.0} if "aa" in read else {"a": 1.0} if "a" in read else {"aa": 0.7, "a": 0.3}


def test_a_light_hypothesis_that_fills_the_context_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """By single bytes the text has twice as many tokens as by pairs, and so that way of cutting it ends first."""
    register_by_tokens("x", ["aa"], pairs_or_singles, context=12)
    with load(["x"], EXACT, sampling="1 seed:0") as ensemble, caplog.at_level(logging.WARNING):
        generation = ensemble.generate("z", max_new_tokens=99)
        assert generation.finish_reason == "context"
        assert generation.data == b"aa" * 12
        assert ensemble._engine.free == ensemble._engine.slots
        [score] = ensemble.score("a" * 20, "z")
        assert score.logp == pytest.approx(0, abs=1e-4)
        with pytest.raises(PromptError, match="more tokens"):
            ensemble.score("a" * 40, "z")
        assert ensemble._engine.free == ensemble._engine.slots
    assert "member 'x0': 30% of its mass is dropped" in caplog.text


@pytest.mark.parametrize("sampling", ["greedy", "1 seed:1"])
def test_a_step_ends_somewhere_and_goes_on_exactly(sampling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for names, prompt in ((["a", "b", "c"], PROMPTS[4]), (["p", "q"], PROMPTS[0])):
        with load(names, TINY, sampling=sampling) as ensemble:
            whole = written(ensemble, prompt, 10).data
            monkeypatch.setattr(byte_walk, "MOST_WALKED", 2)
            cut = written(ensemble, prompt, 30)
            monkeypatch.undo()
        assert cut.data.startswith(whole)
        assert all((step.walked or 0) <= 2 for step in cut.steps or ())


def test_cuts_that_interleave_without_end_do_not_keep_a_step() -> None:
    """One way cuts at even places and one at odd ones, and the heavier one is always inside a pair."""
    odd = {"a": 0.5, "aa": 0.5}
    register_by_tokens("x", ["aa", "aaa"], lambda read: odd if "aaa" not in read else {"aaa": 1.0}, context=400)
    with load(["x"], "bytes beam:16 least:0", sampling="1 seed:0") as ensemble:
        steps = written(ensemble, Prompt(text="z"), 3).steps or ()
    assert len(steps) == 3
    assert all((step.walked or 0) <= byte_walk.MOST_WALKED for step in steps)


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
    def chances(read: list[str]) -> dict[str, float]:
        after = {"ab": {"<|user|>": 0.1, "a": 0.9}, "a": {"b": 1.0}, "b": {"<|user|>": 1.0}}
        return after.get(read[-1], {"ab": 0.6, "a": 0.4})

    register_by_tokens("x", ["ab"], chances, context=99)
    members = [{"name": "x", "model": "fake:x", "marks": {"call_begin": "<|user|>", "call_end": "<|system|>"}}]
    with Ensemble.load({"members": members, "vocabulary": EXACT}, batch=1) as ensemble:
        engine = ensemble._engine
        text = engine.add(Prompt(text="z"))
        walk = engine._bytes.walk(text)
        for byte in b"ab":
            engine._runner.read_rows(rows(walk))
            walk.take_byte(byte)
        engine._runner.read_rows(rows(walk))
        walk.voters.take_mark(0)
        weights = [path.hypothesis.weight for path in walk.voters.lead.paths]
        assert weights == pytest.approx([0.4 / 0.46, 0.06 / 0.46], rel=1e-3)
        engine.drop(text)


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


def test_what_is_foreseen_of_a_given_text_saves_passes_and_changes_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [(Prompt(text=STORY), STORY[:40]), (Prompt(text=STORY), " the cat"), (PROMPTS[1], STORY[8:30])]
    with load(["a", "b"], TINY, batch=16) as ensemble:
        engine, passes, found = ensemble._engine, [], []
        right = engine._runner.read_rows
        monkeypatch.setattr(engine._runner, "read_rows", lambda asked: (passes.append(1), right(asked)))
        for block in (32, 3):
            monkeypatch.setattr(byte_scoring, "AT_ONCE", block)
            found.append(engine.score(asked))
            passes.append(0)
            found.append([engine.score([each])[0] for each in asked])
        assert engine.free == engine.slots
    for scores in found[1:]:
        for score, first in zip(scores, found[0], strict=True):
            assert score.logp == pytest.approx(first.logp, rel=1e-5)
            assert [each.is_likeliest for each in score.pieces] == [each.is_likeliest for each in first.pieces]
    assert passes.index(0) < len(STORY[:40]) / 4


def test_scores_need_no_spare_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [(Prompt(text=STORY), STORY[:20]), (Prompt(text=STORY), " the cat")]
    with load(["p", "q"], TINY, batch=1) as ensemble:
        engine = ensemble._engine
        expected = [score.logp for score in engine.score(asked)]
        right = ByteScoring.score
        monkeypatch.setattr(ByteScoring, "score", lambda scoring, given, spare: right(scoring, given, 0))
        assert [score.logp for score in engine.score(asked)] == pytest.approx(expected, rel=1e-5)
