"""Members that are lost and come back: texts fail by name, or go on as the plain loop does without them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.fakes import LONG, PROMPTS, make_fakes
from support.methods import FixedDraftLength
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.messages import Prompt
from unisono.config.method import Method
from unisono.engine.engine import Engine
from unisono.engine.reference import plain_steps
from unisono.ensemble import Ensemble
from unisono.records import Generation, Limits

NAMES = ("a", "b", "c")
PIECES = 12


class Clock:
    """Time that goes on by a breaker's first wait whenever it is looked at, or stands still."""

    def __init__(self, step: float = 0.0) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


def engine_of(
    degrading: Sequence[str] = NAMES,
    clock: Callable[[], float] | None = None,
    names: Sequence[str] = NAMES,
    weights: Sequence[float] = (2, 1, 1),
    batch: int = 8,
    longest_block: int | None = None,
    **keys: Any,
) -> Engine:
    members = [
        {"name": name, "model": f"fake:{name}", "weight": weight}
        | ({"on_failure": "degrade"} if name in degrading else {})
        for name, weight in zip(names, weights, strict=False)
    ]
    loaded = Ensemble.load({"members": members, **keys}, batch=batch)._engine
    for member in loaded.members:
        member.breaker._clock = clock or Clock()
    return Engine(
        loaded.members, loaded.union, loaded.method, draft_length=FixedDraftLength(), longest_block=longest_block
    )


def lose(engine: Engine, name: str, when: Callable[[], bool]) -> None:
    """Let passes of a member fail where ``when`` says so."""
    FAKE_MODELS[name].away = lambda feeds: "refused" if when() else None


def check_plain(engine: Engine, prompt: Prompt, method: Method, generation: Generation) -> None:
    """Hold a text to the plain loop with the members that its trace calls present."""
    steps = generation.steps or ()
    away = {name: FAKE_MODELS[name].away for name in NAMES}
    for name in NAMES:
        FAKE_MODELS[name].away = None
    for member in engine.members:
        member.breaker._error = None
    free = engine_of((), names=[member.name for member in engine.members], weights=[m.weight for m in engine.members])
    plain = list(
        plain_steps(free.members, free.union, prompt, len(steps), method, absent=[step.absent for step in steps])
    )
    for name in NAMES:
        FAKE_MODELS[name].away = away[name]
    assert [step.piece for step in steps] == [step.piece for step in plain]
    assert [step.voted for step in steps] == [step.voted for step in plain]
    assert [step.p for step in steps] == pytest.approx([step.p for step in plain], rel=1e-4)
    missed = [name for step in steps for name in step.absent]
    assert generation.usage.degraded == ({name: missed.count(name) for name in dict.fromkeys(missed)} or None)


METHODS = (
    Method(),
    Method(lead="b").but(gate="confidence:0.6"),
    Method().but(speculate="a:3"),
    Method(lead="b").but(gate="confidence:0.6", speculate="b:3"),
    Method().but(gate="every:3", speculate="c:2"),
    Method().but(speculate="ngram", combine="geometric"),
    Method().but(draw="1 seed:3", speculate="b:2"),
    Method().but(draw="one-member seed:5", speculate="a:2"),
    Method().but(draw="one-member seed:6", gate="margin:0.5"),
    Method(lead="c").but(gate="entropy:1.5 boundary", combine="max truncate:3"),
    Method().but(combine="mean weights:consistency", speculate="auto"),
)


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
    """Members fail at random passes and come back; gates, drafts, draws, rules, batches and bounded blocks."""
    make_fakes()
    method = data.draw(st.sampled_from(METHODS))
    losing = data.draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True))
    engine = engine_of(
        losing,
        Clock(data.draw(st.sampled_from([0.0, 0.05, 0.4]))),
        longest_block=data.draw(st.sampled_from([None, 4, 30])),
    )
    dice = random.Random(data.draw(st.integers(0, 10**6)))
    for name in losing:
        lose(engine, name, lambda: dice.random() < 0.3)
    prompts = data.draw(st.lists(st.sampled_from([*PROMPTS, LONG]), min_size=1, max_size=3))
    for prompt, generation in zip(prompts, written(engine, prompts, method), strict=True):
        check_plain(engine, prompt, method, generation)
