"""Engines whose fakes tell their likeliest ids only, and what certain choices of theirs are held to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from support.fakes import PROMPTS, engine_of
from unisono.backends.base import Truncation
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.config.method import Method
from unisono.engine.draft_length import DraftLengthController
from unisono.engine.engine import Engine
from unisono.engine.reference import plain_steps
from unisono.records import Limits

NAMES = ("a", "b", "c")
ALL = 10_000  # more than any fake's rows


def truncated(
    tops: dict[str, Truncation], names: Sequence[str] = NAMES, draft_length: DraftLengthController | None = None
) -> Engine:
    """An engine whose members tell so much."""
    for name, truncation in tops.items():
        FAKE_MODELS[name].top = truncation
    engine = engine_of(names, draft_length=draft_length)
    for name in tops:
        FAKE_MODELS[name].top = None
    return engine


def write(
    engine: Engine, method: Method, prompts: Sequence[Any] = PROMPTS[:4], pieces: int = 16, **keys: Any
) -> list[Any]:
    limits = Limits(pieces, min_new_tokens=keys.pop("min_new_tokens", 0))
    texts = [engine.add(prompt, limits, method=method, trace=True, **keys) for prompt in prompts]
    while engine.active:
        engine.step()
    return texts


def hold(engine: Engine, texts: Sequence[Any], method: Method, names: Sequence[str] = NAMES) -> tuple[int, int]:
    """Hold certain pieces against the plain loop's, as long as the text is its text; count certain and uncertain."""
    whole, certain, uncertain = engine_of(names), 0, 0
    tops = {member.name for member in engine.members if member.is_truncated}
    for text in texts:
        parse = whole.prepare(text.request).parse
        plain = plain_steps(whole.members, whole.union, text.request.prompt, len(text.steps), method, parse=parse)
        for step, expected in zip(text.steps, plain, strict=False):
            is_certain = step.certain is not False  # nothing is to be proved where voters tell all
            assert step.certain is not None or not set(step.voted) & tops
            assert step.voted == expected.voted or not is_certain
            assert step.gate is None or not step.gate.certain or step.gate.asked == expected.asked
            if step.piece != expected.piece:
                assert not is_certain
                break
            if step.voted == expected.voted:
                assert step.p * (1 - 1e-4) <= expected.p <= (step.p + step.unknown) * (1 + 1e-4)
        unproved = sum(step.certain is False for step in text.steps)
        certain, uncertain = certain + len(text.steps) - unproved, uncertain + unproved
        assert text.uncertain == text.generation().usage.uncertain == unproved
    return certain, uncertain
