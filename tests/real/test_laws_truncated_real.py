"""Certified choices of the real demo pair, of which k ids a step are told, are those of its whole distributions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.demo import written
from support.prompts import ALL
from unisono.backends.base import Truncation
from unisono.backends.truncated import TruncatedBackend
from unisono.engine.engine import Engine
from unisono.engine.member import Member
from unisono.ensemble import Ensemble
from unisono.step_records import StepRecord

pytestmark = pytest.mark.models

PIECES = 6
PROMPTS = ALL[::8]


@pytest.fixture(scope="module")
def pair(load_demo: Callable[..., Ensemble]) -> Engine:
    return load_demo(backend="transformers", dtype="float32")._engine


@pytest.fixture(scope="module")
def whole(pair: Engine) -> list[list[StepRecord]]:
    return [text.steps for text in written(pair, PROMPTS, PIECES, len(PROMPTS))]


def truncated(engine: Engine, truncation: Truncation) -> Engine:
    """The same loaded members, of whose distributions so much is told."""
    members = []
    for each in engine.members:
        backend = TruncatedBackend(each.backend, truncation)
        members.append(Member(each.name, each.weight, backend, each.encoder, each.speller, each.map))
    return Engine(members, engine.union)


@pytest.mark.parametrize("k", [5, 20, 200])
def test_certified_choices_are_those_of_whole_distributions(
    pair: Engine, whole: list[list[StepRecord]], k: int
) -> None:
    texts, certain = written(truncated(pair, Truncation(k, k)), PROMPTS, PIECES, len(PROMPTS)), 0
    for text, expected in zip(texts, whole, strict=True):
        for step, other in zip(text.steps, expected, strict=False):
            if step.piece != other.piece:
                assert not step.certain
                break
            certain += step.certain
            assert step.p * (1 - 1e-3) <= other.p <= (step.p + step.unknown) * (1 + 1e-3)
    assert certain >= {5: 8, 20: 12, 200: 16}[k]
