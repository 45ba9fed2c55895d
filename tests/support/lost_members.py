"""Fake members that do not answer for a while, and the plain loop that is told who was away."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from support.methods import FixedDraftLength
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.messages import Prompt
from unisono.config.method import Method
from unisono.engine.engine import Engine
from unisono.engine.reference import plain_steps
from unisono.ensemble import Ensemble
from unisono.records import Generation

NAMES = ("a", "b", "c")
PIECES = 12


class Clock:
    """Time that stands still, or goes on by a step whenever it is looked at."""

    def __init__(self, step: float = 0.0) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


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


def lose_at_random(engine: Engine, name: str, share: float, seed: int) -> None:
    dice = random.Random(seed)
    lose(engine, name, lambda: dice.random() < share)


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


def check_certain(engine: Engine, prompt: Prompt, method: Method, generation: Generation) -> None:
    """Hold a text of truncated members to the plain loop up to the first piece that is not certain.

    They tell everything, and are there, from then on.
    """
    steps = generation.steps or ()
    for name in NAMES:
        FAKE_MODELS[name].top = FAKE_MODELS[name].away = None
    free = engine_of((), names=[member.name for member in engine.members], weights=[m.weight for m in engine.members])
    absent = [step.absent for step in steps]
    plain = plain_steps(free.members, free.union, prompt, len(steps), method, absent=absent)
    for step, oracle in zip(steps, plain, strict=True):
        if step.certain is False:
            return  # from here on it may be another text
        assert (step.piece, step.voted) == (oracle.piece, oracle.voted)


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
