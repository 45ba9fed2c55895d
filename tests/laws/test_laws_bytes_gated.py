"""Members that vote on bytes, asked where a gate opens: held to the plain loop."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import pytest

from support.bytes_ensembles import EXACT, TINY, essence, load, written
from support.fakes import PROMPTS, STORY, fail, step_in_spite_of_failures
from unisono.backends.fake.backend import scripted_rule
from unisono.chat.messages import Prompt
from unisono.engine import byte_scoring
from unisono.engine.byte_reference import plain_steps
from unisono.engine.plan import Plan
from unisono.ensemble import Ensemble
from unisono.records import Limits
from unisono.testing import FakeModel, LongestMatchTokenizer, byte_level_table, register_fake, sentencepiece_table

GATES = ("first:0", "first:2", "every:3", "confidence:0.6", "margin:0.5", "entropy:1.5")


pytestmark = pytest.mark.usefixtures("bytes_fakes")


def plain(ensemble: Ensemble, prompt: Prompt, steps: int) -> list[tuple[object, ...]]:
    engine = ensemble._engine
    plan = Plan(engine.method, engine.members, engine.union)
    return [(step.piece, step.voted) for step in plain_steps(engine.members, plan, prompt, steps)]


@pytest.mark.parametrize("gate", GATES)
def test_greedy_texts_are_those_of_the_plain_loop(gate: str) -> None:
    asked = set()
    with load(["a", "b"], EXACT, batch=1, gate=gate) as ensemble:
        for prompt in (PROMPTS[0], PROMPTS[1], PROMPTS[6]):
            steps = written(ensemble, prompt, 8).steps or ()
            assert [(step.piece, step.voted) for step in steps] == plain(ensemble, prompt, len(steps))
            asked |= {step.gate.asked for step in steps if step.gate}
    assert asked == ({False} if gate == "first:0" else {False, True})


@pytest.mark.parametrize("gate", ["always", "first:1", "every:2", "entropy:5"])
def test_drawn_texts_are_those_of_the_plain_loop(gate: str) -> None:
    for seed in range(3):
        with load(["p", "q"], EXACT, batch=1, gate=gate, sampling=f"1 seed:{seed}") as ensemble:
            for prompt in (PROMPTS[0], PROMPTS[6]):
                steps = written(ensemble, prompt, 4).steps or ()
                assert [(step.piece, step.voted) for step in steps] == plain(ensemble, prompt, len(steps))


@pytest.mark.parametrize("sampling", ["greedy", "1 seed:4"])
def test_a_gate_that_never_opens_leaves_the_lead_alone_and_one_that_always_does_is_none(sampling: str) -> None:
    with load(["a"], sampling=sampling) as alone, load(["a", "b"], sampling=sampling) as both:
        for prompt in PROMPTS[:3]:
            shut = written(both, prompt, method={"gate": "first:0"})
            assert shut.data == written(alone, prompt).data
            assert shut.usage.ensembled == 0
            assert shut.seconds.members["b1"] == 0
            assert essence(written(both, prompt, method={"gate": "first:99"})) == essence(written(both, prompt))


def test_a_trace_tells_of_gates() -> None:
    with load(["a", "b"], gate="every:2") as ensemble:
        generation = written(ensemble, PROMPTS[4])
    for place, step in enumerate(generation.steps or ()):
        assert step.gate is not None
        assert (step.gate.score, step.gate.asked) == (place, place % 2 == 0)
        assert step.voted == (("a0", "b1") if place % 2 == 0 else ("a0",))
        assert step.unasked == (() if place % 2 == 0 else ("b1",))
        assert (step.kind == "shut") == bool(place % 2)
        assert list(step.top) == list(step.voted)
    assert generation.usage.ensembled == sum(len(step.voted) == 2 for step in (generation.steps or ()) if step.piece)


def test_what_a_member_missed_is_read_in_one_block() -> None:
    with load(["a", "b"], gate="every:6", batch=1) as ensemble:
        engine, blocks = ensemble._engine, []
        backend = engine.members[1].backend
        right = backend.advance

        def counted(feeds: Sequence[Any]) -> Any:
            blocks.append([len(feed.ids) for feed in feeds])
            return right(feeds)

        engine.members[1].advance = counted  # type: ignore[method-assign]
        text = engine.add(PROMPTS[4], Limits(7))
        while engine.active and text.pieces < 7:
            before = len(blocks)
            engine.step()
            assert len(blocks) == before or text.pieces in (1, 7)
    assert blocks


@pytest.mark.parametrize("gate", ["confidence:0.6", "every:3 boundary", "always boundary"])
def test_batches_and_failures_change_no_text(gate: str) -> None:
    for sampling in ("greedy", "1 seed:5"):
        with load(["a", "b"], sampling=sampling, batch=6, gate=gate) as ensemble:
            alone = [essence(written(ensemble, prompt, 6)) for prompt in PROMPTS[:4]]
            engine = ensemble._engine
            count = iter(range(10_000))
            fail(engine, "b1", lambda feeds, count=count: next(count) % 4 == 1)
            texts = [engine.add(prompt, Limits(6), trace=True) for prompt in PROMPTS[:4]]
            step_in_spite_of_failures(engine)
            assert [essence(text.generation()) for text in texts] == alone
            assert engine.free == engine.slots


def test_a_boundary_keeps_the_gate_shut_inside_a_token() -> None:
    """``b`` has the token `` So`` where the lead has `` Sofia``; asked behind `` S``, it is inside."""
    table = byte_level_table([" S", "ofia", "fia"])
    script = {"": {" S": 1.0}, " S": {"ofia": 1.0}}
    register_fake("x", FakeModel(LongestMatchTokenizer(table), scripted_rule(table, script)))
    with load(["x", "b"], gate="always boundary") as ensemble:
        steps = written(ensemble, Prompt(text="a"), 4).steps or ()
    assert [(step.piece, step.voted, step.gate and step.gate.inside) for step in steps] == [
        (b" S", ("x0", "b1"), None),
        (b"ofia", ("x0",), "b1"),
    ] * 2


def test_long_lags_are_read_between_steps() -> None:
    with load(["a", "b"], gate="every:8", batch=1) as ensemble:
        engine = ensemble._engine
        expected = essence(written(ensemble, PROMPTS[4], 10))
        engine._running._prefill.longest_block = 3
        text = engine.add(PROMPTS[4], Limits(10), trace=True)
        waited = 0
        while engine.active:
            if backlog := engine.backlog(text):
                waited += 1
                engine.read({text: min(3, backlog)})
            else:
                engine.step()
        assert waited > 4
        assert essence(text.generation()) == expected


def test_grammars_hold_and_open_a_gate_whose_lead_is_blind() -> None:
    with load(["a", "b"], gate="first:0") as ensemble:
        for sampling in ("greedy", "1 seed:2"):
            bound = ensemble.generate(
                PROMPTS[4].text, max_new_tokens=30, constraint="regex:(cat|dog|日本)+ends", sampling=sampling
            )
            assert re.fullmatch("(cat|dog|日本)+ends", bound.text) or bound.finish_reason == "length"
    table = byte_level_table(["ab", "cd"])
    for name, word in (("x", "ab"), ("y", "cd")):
        register_fake(name, FakeModel(LongestMatchTokenizer(table), scripted_rule(table, {"": {word: 1.0}})))
    with load(["x", "y"], gate="first:0") as ensemble:
        assert ensemble.generate("z", max_new_tokens=1).text == "ab"
        bound = ensemble.generate("z", max_new_tokens=2, constraint="regex:cd", trace=True)
        assert bound.text == "cd"
        assert {step.voted for step in bound.steps or ()} == {("x0", "y1")}


def test_the_lead_alone_writes_what_all_can_spell() -> None:
    ascii_ = [*map(chr, range(0x20, 0x7F)), "\n"]
    some = sentencepiece_table(["é", *ascii_], byte_fallback=False)
    lead = byte_level_table(["é", "ü", "éa"])
    lead_rule = scripted_rule(lead, {"": {"ü": 0.5, "éa": 0.3, "é": 0.2}})
    register_fake("m", FakeModel(LongestMatchTokenizer(lead), lead_rule))
    register_fake("n", FakeModel(LongestMatchTokenizer(some), scripted_rule(some, {"": {"a": 1.0}})))
    for sampling in ("greedy", "1 seed:1"):
        with load(["m", "n"], gate="every:3", sampling=sampling) as ensemble:
            text = written(ensemble, Prompt(text="z"), 8)
            assert set(text.data.decode()) <= {"é", "a"}
            assert text.finish_reason == "length"


def register_narrow() -> None:
    """``m`` writes ``é`` or ``ü`` by halves or whole, and ``n`` can spell ``é`` alone of all that is not ASCII."""
    lead = byte_level_table(["é", "ü"])
    some = sentencepiece_table(["é", *map(chr, range(0x20, 0x7F)), "\n"], byte_fallback=False)
    register_fake("m", FakeModel(LongestMatchTokenizer(lead), scripted_rule(lead, {"": {"ü": 1.0}})))
    register_fake("n", FakeModel(LongestMatchTokenizer(some), scripted_rule(some, {"": {"a": 0.5, "é": 0.5}})))


@pytest.mark.parametrize("gate", ["first:0", "every:3"])
@pytest.mark.parametrize("sampling", ["greedy", "1 seed:1"])
def test_a_gate_opens_within_a_piece_where_the_lead_writes_nothing_that_all_can_spell(gate: str, sampling: str) -> None:
    """Behind the first byte of ``ü``, which is that of ``é``, the lead has no mass that ``n`` can spell."""
    register_narrow()
    with load(["m", "n"], EXACT, batch=1, gate=gate, sampling=sampling) as ensemble:
        text = written(ensemble, Prompt(text="z"), 4)
        steps = text.steps or ()
        assert [(step.piece, step.voted) for step in steps] == plain(ensemble, Prompt(text="z"), len(steps))
        assert text.finish_reason == "length"
        assert {step.gate.asked for step in steps if step.gate} == {True}
        assert "é" in text.data.decode()
        score = ensemble._engine.score([(Prompt(text="z"), "é")])[0]
        first = 1.0 if gate == "first:0" else 0.75  # the second byte is the only one, though the lead gives it nothing
        assert score.logp == pytest.approx(math.log(first), abs=1e-6)


def test_a_gate_opens_within_a_piece_where_a_grammar_leaves_the_lead_nothing() -> None:
    table = byte_level_table(["ab", "cd"])
    register_fake("x", FakeModel(LongestMatchTokenizer(table), scripted_rule(table, {"": {"ab": 1.0}})))
    plainer = byte_level_table([])
    rule = scripted_rule(plainer, {"": {"a": 1.0}, "a": {"e": 0.5, "c": 0.5}})
    register_fake("y", FakeModel(LongestMatchTokenizer(plainer), rule))
    with load(["x", "y"], gate="first:0") as ensemble:
        bound = ensemble.generate("z", max_new_tokens=1, constraint="regex:a[cd]", trace=True)
        assert bound.text == "ac"
        assert [step.voted for step in bound.steps or ()] == [("x0", "y1")]


@pytest.mark.parametrize("gate", ["first:0", "every:2", "entropy:0.5"])
def test_scores_read_gates_as_texts_do(gate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [(Prompt(text=STORY), STORY[:30]), (Prompt(text=STORY), " the dog sings")]
    with load(["a", "b"], TINY, batch=2, gate=gate) as ensemble, load(["a"], TINY, batch=2) as alone:
        engine = ensemble._engine
        scores = engine.score(asked)
        monkeypatch.setattr(byte_scoring, "AT_ONCE", 1)
        for score, again in zip(scores, engine.score(asked), strict=True):
            assert score.logp == pytest.approx(again.logp, rel=1e-5)
            assert [each.voted for each in score.pieces] == [each.voted for each in again.pieces]
        voted = {each.voted for score in scores for each in score.pieces}
        if gate == "first:0":
            assert voted == {("a0",)}
            assert [score.logp for score in scores] == pytest.approx([s.logp for s in alone._engine.score(asked)])
        else:
            assert voted > {("a0",)}
        assert engine.free == engine.slots
