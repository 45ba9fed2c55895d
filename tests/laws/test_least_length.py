"""Law 5 where END has to wait: the engine writes what the plain loop writes, and END comes no earlier."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from support.fakes import PROMPTS, check, make_fakes
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.config.method import Method
from unisono.constraints.least_length import LeastLength
from unisono.engine.reference import plain_steps
from unisono.ensemble import Ensemble
from unisono.errors import SpecError
from unisono.records import Limits

NAMES = ("a", "b", "c")
PIECES = 9


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


@pytest.mark.parametrize("drafter", ["off", "a:3", "ngram"])
@pytest.mark.parametrize("gate", ["always", "confidence:0.6", "every:3"])
def test_the_engine_equals_the_plain_loop_and_end_waits(gate: str, drafter: str) -> None:
    ensemble = Ensemble.load({"members": [{"name": name, "model": f"fake:{name}"} for name in NAMES]}, batch=8)
    engine = ensemble._engine
    lengths = set()
    for draw, least in itertools.product(("greedy", "0.9 seed:3", "beam_width:3"), (1, 4, PIECES)):
        likely = f"{draw} logit_bias:{engine.union.end}=30"
        method = Method(lead="b").but(gate=gate, speculate=drafter) if "beam" not in draw else Method()
        method = method.but(sampling=likely)
        limits = Limits(PIECES, min_new_tokens=least)
        texts = [engine.add(prompt, limits, method=method, trace=True) for prompt in PROMPTS[:2]]
        while engine.active:
            engine.step()
        lengths |= {text.pieces for text in texts}
        assert all(text.pieces >= least for text in texts)
        if "beam" not in draw:
            start = LeastLength(least, engine.union)
            expected = [
                list(plain_steps(engine.members, engine.union, prompt, PIECES, method, parse=start.copy()))
                for prompt in PROMPTS[:2]
            ]
            check(texts, expected, NAMES)
    assert {1, 4, PIECES} <= lengths
    ensemble.close()


@pytest.mark.parametrize("least", [-1, 10, 1.5, True, "3"])
def test_a_least_number_that_cannot_be_kept_is_refused(least: object) -> None:
    with pytest.raises(SpecError, match="from 0 to 9"):
        Limits(9, min_new_tokens=least)  # type: ignore[arg-type]
