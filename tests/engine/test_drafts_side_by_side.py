"""What drafts cost where members run side by side: a drafter that has to go first takes time that was free before."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from support.fakes import STORY, engine_of, make_fakes
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.messages import Prompt
from unisono.config.method import Method
from unisono.config.speculation import Speculation
from unisono.engine.draft_length import DraftLengthController, Work
from unisono.engine.engine import Engine
from unisono.engine.speculation import _together
from unisono.records import Generation, Limits


class KnownTimes(DraftLengthController):
    """A second for every pass, however long, and steps that take what they are expected to."""

    def seconds(self, model: Hashable, work: Work) -> float:
        return 1.0 if work.tokens else 0.0

    def learn_step(self, texts: int, pieces: int, seconds: float, plain: float) -> None:
        self._rates[texts] = texts / plain


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


def written(devices: tuple[str, str], speculate: Speculation | None) -> Generation:
    made = engine_of(("a", "c"))
    for member, device in zip(made.members, devices, strict=True):
        member.backend.facts = replace(member.backend.facts, device=device)
    with Engine(made.members, made.union, draft_length=KnownTimes()) as engine:
        text = engine.add(Prompt(text=STORY[:9]), Limits(40), method=Method(speculate=speculate))
        while engine.active:
            engine.step()
        return text.generation()


def test_a_member_drafts_only_where_that_is_faster_than_to_run_beside_the_others() -> None:
    drafted = Speculation("a")
    plain = written(("cpu", "cpu"), None)
    together, apart = written(("cpu", "cpu"), drafted), written(("cpu", "http://far"), drafted)
    assert together.text == apart.text == plain.text
    assert together.usage.drafted > 5  # two passes a piece, or two for several
    assert apart.usage.drafted == 0  # one pass a piece: both run at the same time


def state(*, lead: object = None, mixture: bool = False, in_turn: bool = False) -> Any:
    draw = SimpleNamespace(mixture=mixture)
    return SimpleNamespace(plan=SimpleNamespace(lead=lead, is_gated=lead is not None, draw=draw, asks_in_turn=in_turn))


class On:
    """A member on a device."""

    def __init__(self, device: str) -> None:
        self.backend: Any = SimpleNamespace(facts=SimpleNamespace(device=device))


def test_passes_take_the_time_of_the_slowest_device_but_for_what_is_first_or_drawn() -> None:
    here, beside, far = On("cpu"), On("cpu"), On("http://far")
    passes: Any = [([here], 1.0), ([beside], 2.0), ([far], 5.0)]
    assert _together(passes, [state()]) == 5
    assert _together(passes, [state(lead=here)]) == 1 + 5
    assert _together(passes, [state(lead=far)]) == 5 + 1 + 2
    assert _together(passes, [state(mixture=True)]) == _together(passes, [state(in_turn=True)]) == 8
    assert _together([], [state()]) == 0
