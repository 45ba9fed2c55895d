"""Law 5 for every combine rule on the real demo pair, transformers in float32: prompts against the plain loop."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest

from support.covering import some
from support.demo import written
from support.methods import RULES, rule_for
from support.prompts import ALL
from support.read_ahead import PlainLoop
from unisono.config.method import Method
from unisono.engine.engine import Engine
from unisono.ensemble import Ensemble
from unisono.fusion.rules import SIGNED

pytestmark = pytest.mark.models

PIECES = 4
PROMPTS = some(ALL[::3], 3)
"""Some of them not ASCII."""
VARIANTS = ("contrastive alpha:0.3", "geometric weights:perplexity temperature:0.2")
"""Of rules that are there without: fakes show what their numbers do."""


@pytest.fixture(scope="module")
def pair(load_demo: Callable[..., Ensemble]) -> Engine:
    return load_demo(backend="transformers", dtype="float32")._engine


@pytest.fixture(scope="module")
def plain(pair: Engine) -> PlainLoop:
    """What it reads for one rule it knows for the next: texts of several rules begin alike."""
    return PlainLoop(pair)


def weighed(engine: Engine, weights: tuple[float, ...]) -> Engine:
    """The same loaded members with other weights."""
    members = [copy.copy(member) for member in engine.members]
    for member, weight in zip(members, weights, strict=True):
        member.weight = weight
    return Engine(members, engine.union, Method(combine=rule_for(weights)))  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in VARIANTS])
def test_every_rule_equals_the_plain_loop(pair: Engine, plain: PlainLoop, rule: str) -> None:
    weights = (1.0, -0.5) if rule.startswith(SIGNED) else (0.6, 0.4)
    method = Method(combine=rule)  # type: ignore[arg-type]
    texts = written(weighed(pair, weights), PROMPTS, PIECES, 3, method)
    for prompt, text in zip(PROMPTS, texts, strict=True):
        expected = plain.steps(prompt, PIECES, method, text, weights)
        assert [step.piece for step in text.steps] == [step.piece for step in expected], prompt
        np.testing.assert_allclose([step.p for step in text.steps], [step.p for step in expected], atol=1e-4)
