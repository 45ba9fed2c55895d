"""Law 5 for every combine rule on the real demo pair, transformers in float32: 10 prompts against the plain loop."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from support.demo import written
from support.methods import RULES
from support.prompts import ALL
from unisono.config.method import Method
from unisono.engine import reference
from unisono.engine.engine import Engine
from unisono.engine.member import Member
from unisono.engine.reference import plain_steps
from unisono.ensemble import Ensemble

pytestmark = pytest.mark.models

PIECES = 4
PROMPTS = ALL[::3]
"""10 prompts, some of them not ASCII."""


@pytest.fixture(scope="module")
def pair(load_demo: Callable[..., Ensemble]) -> Engine:
    return load_demo(backend="transformers", dtype="float32")._engine


@pytest.fixture(scope="module")
def read_once() -> Iterator[None]:
    """Let the plain loop keep what it reads: texts of several rules begin alike."""
    read = reference.plain_distribution

    def reading(member: Member, member_map: Any, ids: list[int], *, first: bool = False, inside: bool = False) -> Any:
        key = member.name, tuple(ids), first
        if key not in found:
            found[key] = read(member, member_map, ids, first=first).astype(np.float32)
        return found[key].astype(np.float64)

    found: dict[Any, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "plain_distribution", reading)
        yield


def weighed(engine: Engine, weights: tuple[float, ...]) -> Engine:
    """The same loaded members with other weights."""
    members = [copy.copy(member) for member in engine.members]
    for member, weight in zip(members, weights, strict=True):
        member.weight = weight
    rule = "contrastive" if min(weights) < 0 else "mean"
    return Engine(members, engine.union, Method(combine=rule))  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_equals_the_plain_loop(pair: Engine, read_once: None, rule: str) -> None:
    engine = weighed(pair, (1.0, -0.5) if rule.startswith("contrastive") else (0.6, 0.4))
    method = Method(combine=rule)  # type: ignore[arg-type]
    texts = written(engine, PROMPTS, PIECES, 3, method)
    for prompt, text in zip(PROMPTS, texts, strict=True):
        expected = list(plain_steps(engine.members, engine.union, prompt, PIECES, method))
        assert [step.piece for step in text.steps] == [step.piece for step in expected], prompt
        np.testing.assert_allclose([step.p for step in text.steps], [step.p for step in expected], atol=1e-4)
