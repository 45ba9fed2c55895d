"""What drafts cost where members run side by side: a drafter that has to go first takes time that was free before."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from support.fakes import STORY, engine_of, make_fakes
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.messages import Prompt
from unisono.config.method import Method
from unisono.config.speculation import NGRAM, Speculation
from unisono.engine.draft_length import DraftLengthController, Work
from unisono.engine.engine import Engine
from unisono.engine.runner import Runner
from unisono.engine.speculation import Speculator, _together
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


def written(devices: tuple[str, str], speculate: Speculation | None) -> tuple[Generation, int]:
    """A text, and how many times members ran for it, one of them alone or all side by side."""
    made = engine_of(("a", "c"))
    for member, device in zip(made.members, devices, strict=True):
        member.backend.facts = replace(member.backend.facts, device=device)
    with Engine(made.members, made.union, draft_length=KnownTimes()) as engine:
        text = engine.add(Prompt(text=STORY[:9]), Limits(40), method=Method(speculate=speculate))
        with pytest.MonkeyPatch.context() as patch:
            runs, run = [], Runner.run
            patch.setattr(Runner, "run", lambda self, batches: runs.append(batches) or run(self, batches))
            while engine.active:
                engine.step()
        return text.generation(), len(runs)


def test_a_member_drafts_only_where_that_is_faster_than_to_run_beside_the_others() -> None:
    drafted = Speculation("a")
    plain, runs = written(("cpu", "cpu"), None)
    together, _ = written(("cpu", "cpu"), drafted)
    apart, runs_apart = written(("cpu", "http://far"), drafted)
    assert together.text == apart.text == plain.text
    assert together.usage.drafted > 5  # two passes a piece, or two for several
    assert apart.usage.drafted == 0
    assert runs_apart == runs  # both run at the same time: nobody looks first whether to draft


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


class Slower(DraftLengthController):
    """A pass takes what its model says, and a fifth of it more for each further row."""

    def seconds(self, model: Hashable, work: Work) -> float:
        assert isinstance(model, float)
        return model * (1 + 0.2 * (work.rows - 1)) if work.rows else 0.0


def speculator(devices: Sequence[str]) -> Speculator:
    """Of members ``a``, ``b``, ``c``, whose passes take 1, 2 and 5 seconds."""
    members: Any = []
    for name, model, device in zip("abc", (1.0, 2.0, 5.0), devices, strict=True):
        member: Any = On(device)
        member.name, member.model, member.weight = name, model, 1 / 3
        members.append(member)
    nothing: Any = None
    return Speculator(members, SimpleNamespace(texts=9), nothing, nothing, Slower(), nothing)  # type: ignore[arg-type]


def text(absent: str = "") -> Any:
    plan = SimpleNamespace(
        lead=None, is_gated=False, draw=SimpleNamespace(mixture=False), asks_in_turn=False, max_pieces=1
    )
    return SimpleNamespace(plan=plan, rows_wanted=1, unread=lambda member: 1, absent=frozenset(absent), matched=0)


@pytest.mark.parametrize(
    ("devices", "absent", "plain", "longer"),
    [
        (("cpu", "cpu", "cpu"), "", 1 + 2 + 5, 0.2 * (1 + 2 + 5)),
        (("cpu", "cpu", "far"), "", 5, 0.2 * 5),
        (("cpu", "far", "further"), "", 5, 0.2 * 5),
        (("cpu", "cpu", "far"), "c", 1 + 2, 0.2 * (1 + 2)),  # who is away takes no time
        (("cpu", "far", "further"), "ac", 2, 0.2 * 2),
    ],
)
def test_costs_of_drafts_are_those_of_the_slowest_device_that_is_asked(
    devices: Sequence[str], absent: str, plain: float, longer: float
) -> None:
    its, state = speculator(devices), text(absent)
    assert its._plain_seconds([state]) == pytest.approx(plain)
    assert its._longer_blocks(its._readers([state]), [state], 1) == pytest.approx(longer)
    assert its._block_seconds(NGRAM, 1, state, 1) == pytest.approx(plain + longer)


def test_a_drafter_that_the_others_wait_for_takes_its_own_time_first() -> None:
    its = speculator(("cpu", "cpu", "far"))
    drafts = 2 * 1.0  # two passes of a, then a block of two of b beside c
    assert its._block_seconds("a", 1, text(), 1) == pytest.approx(drafts + 5 * 1.2)
    assert its._reads_apart(its._members["a"], text())
    assert not its._reads_apart(its._members["a"], text("c"))  # b is on the same device, and reads after a anyway
