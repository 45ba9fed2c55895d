"""Members that are lost and come back: texts fail by name, or go on as the plain loop does without them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.fakes import LONG, PROMPTS, STORY, make_fakes
from support.lost_members import (
    METHODS,
    NAMES,
    PIECES,
    Clock,
    check_certain,
    check_plain,
    engine_of,
    lose,
    lose_at_random,
)
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.backends.prefix_cache import PrefixCache
from unisono.chat.messages import Prompt
from unisono.config.method import Method
from unisono.engine.engine import Engine
from unisono.engine.reference import plain_steps
from unisono.ensemble import Ensemble
from unisono.errors import MemberUnavailable
from unisono.records import Generation, Limits
from unisono.testing import Truncation


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


def written(engine: Engine, prompts: Sequence[Prompt], method: Method, longest: int = 40) -> list[Generation]:
    texts = [engine.add(prompt, Limits(PIECES), method=method, trace=True) for prompt in prompts]
    for _ in range(longest * len(texts)):
        if not engine.active:
            return [text.generation() for text in texts]
        for group in engine.groups:
            if ids := engine.backlog(group):
                engine.read({group: min(ids, 50)})
        engine.step()
    raise AssertionError("the texts do not end")


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_every_piece_is_that_of_the_plain_loop_with_the_members_that_were_there(data: st.DataObject) -> None:
    """Members fail at random passes and come back; gates, drafts, draws, rules, batches, bounded blocks, kept slots."""
    make_fakes()
    method = data.draw(st.sampled_from(METHODS))
    losing = data.draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True))
    engine = engine_of(
        losing,
        Clock(data.draw(st.sampled_from([0.0, 0.05, 0.4]))),
        longest_block=data.draw(st.sampled_from([None, 4, 30])),
    )
    shortest = data.draw(st.sampled_from([None, 1, 16]))
    for member in engine.members if shortest else ():
        member.backend = member.prefixes = PrefixCache(member.backend, shortest=shortest)
    for name in losing:
        lose_at_random(engine, name, 0.3, data.draw(st.integers(0, 10**6)))
    prompts = data.draw(st.lists(st.sampled_from([*PROMPTS, LONG]), min_size=1, max_size=3))
    for prompt, generation in zip(prompts, written(engine, prompts, method), strict=True):
        check_plain(engine, prompt, method, generation)


def test_the_law_above_is_not_vacuous() -> None:
    """Members are lost as voters, leads and drafters, before a prompt is read and behind it, and come back."""
    for method in METHODS:
        engine = engine_of(("a", "b"), Clock(0.1), longest_block=8)
        for name in ("a", "b"):
            lose_at_random(engine, name, 0.2, 1)
        steps = [step for text in written(engine, PROMPTS, method) for step in text.steps or ()]
        assert {step.absent for step in steps} >= {("a",), ("b",), ()}
        assert any(step.draft for step in steps) == (method.speculate is not None)


@pytest.mark.parametrize("method", METHODS, ids=range(len(METHODS)))
def test_where_nothing_fails_the_key_changes_nothing(method: Method) -> None:
    """The same bytes, probabilities and passes."""
    found = []
    for degrading in ((), NAMES):
        make_fakes()
        engine = engine_of(degrading, longest_block=6)
        texts = written(engine, PROMPTS, method)
        passes = {name: FAKE_MODELS[name].passes for name in NAMES}
        found.append(([(text.data, text.steps, text.usage) for text in texts], passes))
    assert found[0] == found[1]


def test_a_beam_goes_on_with_the_members_that_are_there() -> None:
    away = engine_of(("b",))
    lose(away, "b", lambda: True)
    method = Method().but(draw="beam_width:2", gate="every:3")
    without = engine_of((), names=("a", "c"), weights=(2, 1))
    for prompt in PROMPTS[:3]:
        [text] = written(away, [prompt], method)
        [expected] = written(without, [prompt], method)
        assert (text.text, [step.p for step in text.steps or ()]) == (
            expected.text,
            pytest.approx([step.p for step in expected.steps or ()], rel=1e-5),
        )
        assert text.usage.degraded


def test_a_lost_member_is_asked_once_and_then_left_alone_until_its_time_has_come() -> None:
    clock = Clock()
    engine = engine_of(("b",), clock)
    tried: list[int] = []
    FAKE_MODELS["b"].away = lambda feeds: "refused" if not tried.append(len(feeds)) and clock.now < 1 else None
    texts = [engine.add(prompt, Limits(PIECES), trace=True) for prompt in PROMPTS[:4]]
    for _ in range(4):
        engine.step()
    assert tried == [4]
    clock.now = 1.0
    engine.step()
    assert tried == [4, 4]
    lags = FAKE_MODELS["b"].passes[-1].feeds
    assert [len(feed.ids) for feed in lags] == [len(text.cursors["b"].ids) for text in texts] or min(
        len(feed.ids) for feed in lags
    ) > 4  # all that was missed, in one block
    while engine.active:
        engine.step()
    for prompt, text in zip(PROMPTS, texts, strict=False):
        check_plain(engine, prompt, Method(), text.generation())
        assert [step.absent for step in text.steps or ()] == [("b",)] * 4 + [()] * (len(text.steps or ()) - 4)


def test_texts_go_on_while_a_member_that_is_back_reads_a_long_prompt_in_portions() -> None:
    clock = Clock()
    engine = engine_of(("b",), clock, longest_block=20)
    lose(engine, "b", lambda: clock.now < 1)
    prompt = Prompt(text=STORY + STORY[:20])
    text = engine.add(prompt, Limits(20), trace=True)
    while engine.backlog(text):
        engine.read({text: 1000})
    engine.step()
    clock.now, pieces, before = 1.0, 1, len(FAKE_MODELS["b"].passes)
    while text.cursors["b"].away:
        engine.step()
        assert text.pieces == (pieces := pieces + 1)
    read = [len(step.feeds[0].ids) for step in FAKE_MODELS["b"].passes[before:]]
    assert len(read) > 3
    assert max(read) <= 20
    while engine.active:
        engine.step()
    check_plain(engine, prompt, Method(), text.generation())
    assert not (text.steps or ())[-1].absent


@pytest.mark.parametrize(
    ("names", "weights", "method", "why"),
    [
        (("a", "b"), (1, 1), Method(), "nobody else is there"),
        (("a", "b", "c"), (1, 1, -0.5), Method(combine="contrastive"), "'c'"),  # type: ignore[arg-type]
        (("a", "b", "c"), (1, -0.5, 1), Method(combine="logits"), "'c'"),  # type: ignore[arg-type]
        (("a", "b", "c"), (1, 1, 1), Method().but(combine="mean weights:perplexity"), "refused"),
    ],
)
def test_what_cannot_do_without_a_member_is_an_error_by_its_name(
    names: Sequence[str], weights: Sequence[float], method: Method, why: str
) -> None:
    combine = method.combine.rule if min(weights) < 0 else "mean"
    engine = engine_of(names, weights=weights, names=names, combine=combine)
    for name in names if len(names) == 2 else names[-1:]:
        lose(engine, name, lambda: True)
    engine.add(PROMPTS[0], Limits(PIECES), method=method)
    for _ in range(2):  # the second time without asking
        with pytest.raises(MemberUnavailable, match=why):
            engine.step()
    assert sum(len(FAKE_MODELS[name].passes) for name in names[-1:]) <= 1


def test_scores_are_those_of_all_members_or_none() -> None:
    engine = engine_of(("b",))
    lose(engine, "b", lambda: True)
    for _ in range(2):
        with pytest.raises(MemberUnavailable, match=r"'b' at fake://elsewhere .* refused"):
            engine.score([(PROMPTS[0], " the cat")])
    assert engine.free == engine.slots


@pytest.mark.parametrize("top", [None, Truncation(1, 300), Truncation(2, 300)])
def test_open_copy_and_rewind_may_fail_too(top: Truncation | None) -> None:
    """A slot that is lost is opened anew, and all of the text read in it; also where more is to be told of it."""
    clock = Clock()
    FAKE_MODELS["b"].top = top
    engine = engine_of(("b",), clock, weights=(1, 6, 1))
    backend = next(member.backend for member in engine.members if member.name == "b")
    working = {name: getattr(backend, name) for name in ("open", "rewind", "close", "advance")}

    def refuse(*args: Any, **keys: Any) -> Any:
        raise MemberUnavailable("b", "fake://elsewhere", "reset")

    def give(names: Sequence[str], broken: bool) -> None:
        for name in names:
            setattr(backend, name, refuse if broken else working[name])

    give(working, True)
    first = engine.add(PROMPTS[0], Limits(30), trace=True, method=Method().but(speculate="a:3"))
    engine.step()
    assert first.cursors["b"].held is None
    give(working, False)
    clock.now = 1.0
    engine.step()
    assert first.cursors["b"].held is not None
    second = engine.add(PROMPTS[1], Limits(30), trace=True)
    give(["rewind", "close"], True)
    for _ in range(8):
        engine.step()
    give(["rewind", "close"], False)
    while engine.active:
        clock.now += 1
        engine.step()
    check = check_plain if top is None else check_certain
    for prompt, text in zip(PROMPTS, (first, second), strict=False):
        check(engine, prompt, Method(), text.generation())
    assert {step.absent for step in first.steps or ()} == {(), ("b",)}


def test_members_that_share_a_model_are_lost_together() -> None:
    members = [
        {"name": "a", "model": "fake:a"},
        {"name": "b", "model": "fake:b", "on_failure": "degrade"},
        {"name": "b2", "share_weights_with": "b", "prefix": "Sing. ", "on_failure": "degrade"},
    ]
    loaded = Ensemble.load({"members": members}, batch=2)._engine
    FAKE_MODELS["b"].away = lambda feeds: "refused"
    engine = Engine(loaded.members, loaded.union)
    [text] = written(engine, PROMPTS[:1], Method())
    assert {step.absent for step in text.steps or ()} == {("b", "b2")}
    assert len(FAKE_MODELS["b"].passes) == 1


@pytest.mark.parametrize("top", [4, 20])
def test_a_certificate_is_of_the_members_that_are_there(top: int) -> None:
    """A truncated member that is away is absent, and not unknown: without it a dense one decides for certain."""
    FAKE_MODELS["b"].top = top
    engine = engine_of(("b",), names=("a", "b"), weights=(1, 1))
    answers = iter(range(100))
    lose(engine, "b", lambda: next(answers) >= 3)
    [text] = written(engine, PROMPTS[:1], Method())
    FAKE_MODELS["b"].top = None
    plain = engine_of((), names=("a", "b"), weights=(1, 1))
    steps = text.steps or ()
    FAKE_MODELS["b"].away = None
    expected = plain_steps(plain.members, plain.union, PROMPTS[0], len(steps), absent=[step.absent for step in steps])
    for step, oracle in zip(steps, expected, strict=True):
        assert step.certain is not True or step.piece == oracle.piece
        if step.absent:
            assert (step.piece, step.certain) == (oracle.piece, None)
    assert {step.absent for step in steps} == {(), ("b",)}


def test_two_members_may_be_lost_at_once_in_threads_of_their_devices() -> None:
    loaded = engine_of(("b", "c"))
    for member in loaded.members:
        member.backend.facts = replace(member.backend.facts, device=f"http://{member.name}")
    engine = Engine(loaded.members, loaded.union)
    together = threading.Barrier(2, timeout=10)

    def refuse(feeds: object) -> str:
        together.wait()
        return "refused"

    FAKE_MODELS["b"].away = FAKE_MODELS["c"].away = refuse
    texts = written(engine, PROMPTS, Method())
    engine.close()
    assert {step.absent for text in texts for step in text.steps or ()} == {("b", "c")}


def test_who_is_lost_while_it_is_asked_again_has_told_something_that_counts() -> None:
    FAKE_MODELS["b"].top = Truncation(2, 300)
    engine = engine_of(("b",), names=("a", "b"), weights=(1, 3))
    FAKE_MODELS["b"].away = lambda feeds: "refused" if any(feed.top for feed in feeds) else None
    [text] = written(engine, PROMPTS[:1], Method().but(speculate="a:3"))
    steps = text.steps or ()
    first = [step.absent for step in steps].index(("b",))
    assert (steps[first - 1].certain, steps[first - 1].voted) == (False, ("a", "b"))
    assert {step.absent for step in steps[:first]} == {()}
    assert {step.certain for step in steps[first:]} == {None}
    assert text.usage.uncertain == sum(step.certain is False for step in steps) > 0


def test_who_is_lost_while_it_is_asked_again_is_not_asked_a_second_time_in_that_step() -> None:
    FAKE_MODELS["b"].top = Truncation(2, 300)
    engine, asked = engine_of(("b",), Clock(1000.0), names=("a", "b"), weights=(1, 3)), list[int]()
    text = engine.add(PROMPTS[0], Limits(PIECES))

    def refuse(feeds: Sequence[Any]) -> str | None:
        again = any(feed.top for feed in feeds)
        asked.extend([text.pieces] * again)
        return "refused" if again else None

    FAKE_MODELS["b"].away = refuse
    while engine.active:
        engine.step()
    assert len(asked) == len(set(asked)) > 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("speculate", ["off", "a:3", "b:3"])
def test_truncated_leads_and_voters_that_are_lost_leave_certain_choices_right(seed: int, speculate: str) -> None:
    """Gates of a truncated lead that is away are open, and what is certain is the plain loop's."""
    FAKE_MODELS["a"].top = FAKE_MODELS["b"].top = Truncation(8, 300)
    engine = engine_of(("a", "b"), Clock(0.1))
    for name in ("a", "b"):
        lose_at_random(engine, name, 0.2, seed)
    method = Method().but(gate="confidence:0.6", speculate=speculate)
    [text] = written(engine, [PROMPTS[seed]], method)
    check_certain(engine, PROMPTS[seed], method, text)


@pytest.mark.parametrize("name", NAMES)
def test_where_a_member_is_lost_that_was_asked_in_turn_all_who_are_there_are_asked(name: str) -> None:
    """Who is away and could have changed nothing is not missed."""
    method = Method(gate="certain").but(speculate="a:2")  # type: ignore[arg-type]
    engine = engine_of(clock=Clock(1.0), weights=(5, 2, 2))
    lose_at_random(engine, name, 0.4, 7)
    texts, lost = written(engine, PROMPTS[:4], method), 0
    FAKE_MODELS[name].away = None
    for prompt, text in zip(PROMPTS, texts, strict=False):
        steps = text.steps or ()
        free = engine_of((), weights=(5, 2, 2))
        absent = [step.absent for step in steps]
        plain = list(plain_steps(free.members, free.union, prompt, len(steps), method, absent=absent))
        assert [step.piece for step in steps] == [step.piece for step in plain]
        assert all(step.voted == oracle.voted for step, oracle in zip(steps, plain, strict=True) if step.absent)
        lost += sum(bool(step.absent) for step in steps)
    assert lost
    assert any(text.usage.unasked for text in texts)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("speculate", ["a:3", "ngram:4"])
def test_what_was_heard_in_turn_outlasts_the_loss_of_another(seed: int, speculate: str) -> None:
    """A position was certain without a member that is asked about it after all, when another is lost."""
    method = Method(gate="certain").but(speculate=speculate)  # type: ignore[arg-type]
    engine = engine_of(("c",), clock=Clock(1.0), weights=(5, 2, 2))
    lose_at_random(engine, "c", 0.5, seed)
    texts = written(engine, PROMPTS, method)
    FAKE_MODELS["c"].away = None
    for prompt, text in zip(PROMPTS, texts, strict=True):
        absent = [step.absent for step in text.steps or ()]
        free = engine_of((), weights=(5, 2, 2))
        plain = list(plain_steps(free.members, free.union, prompt, len(absent), method, absent=absent))
        assert [step.piece for step in text.steps or ()] == [step.piece for step in plain]
