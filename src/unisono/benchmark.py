"""How fast an ensemble is, beside its members: measured interleaved, through the same loaded models."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from unisono.build import Prepared, Report, silent
from unisono.engine.engine import Engine
from unisono.engine.member import Member
from unisono.errors import ModelError
from unisono.types import Limits, Prompt
from unisono.vocab.union import UnionMember, build_union

PROMPTS = (
    "The history of the lighthouse began when",
    "There are three reasons why bread rises. First,",
    "She opened the letter, read it twice, and",
    "In most cities the price of a flat depends on",
)
"""Raw texts to continue: base models can, and none of them ends soon."""

ENSEMBLE = "ensemble"
PATIENCE = 8
"""Texts that may end at their first piece before a system is given up."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A time in milliseconds a piece."""

    median: float
    low: float
    """The 10th percentile."""
    high: float
    """The 90th percentile."""


@dataclass(frozen=True, slots=True)
class SystemFigures:
    """One member alone, or the ensemble."""

    name: str
    step: Figure
    """A whole step: members' forward passes, mapping, combining, choosing, text."""
    forward: Figure
    """The members' forward passes in it."""
    rest: Figure
    """Everything else."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The result of `measure`."""

    systems: tuple[SystemFigures, ...]
    ratio: float
    """Median over the rounds: the ensemble's step ÷ the sum of the members' steps alone."""
    ratio_low: float
    """The smallest ratio of a round."""
    ratio_high: float
    """The largest ratio of a round."""
    ratio_to_forward: float
    """The stricter one: the ensemble's step ÷ the sum of the members' bare forward passes alone."""
    rounds: int
    pieces: int
    """Steps of each system in a round."""
    batch: int
    """Texts written at once."""

    def to_json(self) -> dict[str, object]:
        """The record with plain types only."""
        return asdict(self)


@dataclass(slots=True)
class _Times:
    """The steps of one system: one list a round."""

    step: list[list[float]] = field(default_factory=list)
    forward: list[list[float]] = field(default_factory=list)


def measure(
    prepared: Prepared,
    *,
    rounds: int = 5,
    pieces: int = 48,
    batch: int = 1,
    report: Report = silent,
    count: Callable[[], None] = lambda: None,
) -> Benchmark:
    """Time every member alone and the ensemble, in turn, round by round.

    The models are loaded once. A member alone is an ensemble of one over the same loaded model. Each
    round begins with another system, so that none always comes first. Reading the prompt is not timed.

    Args:
        prepared: for a batch of at least ``batch``.
        rounds: how often each system takes its turn; one more is run before and thrown away.
        pieces: how many steps of each system to time in a round.
        batch: how many texts are written at once.
        report: told about loading.
        count: called after every turn.
    """
    with prepared.load(report) as engine:
        alone = [_alone(prepared, engine, index) for index in range(len(engine.members))]
        systems = [*alone, engine]
        times = [_Times() for _ in systems]
        for turn in range(rounds + 1):
            for index in (*range(turn % len(systems), len(systems)), *range(turn % len(systems))):
                step, forward = _run(systems[index], pieces, batch, first_prompt=turn)
                if turn:
                    times[index].step.append(step)
                    times[index].forward.append(forward)
                count()
    *members, ensemble = times
    whole = [statistics.median(steps) for steps in ensemble.step]
    ratios = [whole[turn] / sum(statistics.median(member.step[turn]) for member in members) for turn in range(rounds)]
    strict = [
        whole[turn] / sum(statistics.median(member.forward[turn]) for member in members) for turn in range(rounds)
    ]
    names = [*(member.spec.name for member in prepared.members), ENSEMBLE]
    return Benchmark(
        systems=tuple(_figures(name, found) for name, found in zip(names, times, strict=True)),
        ratio=statistics.median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        ratio_to_forward=statistics.median(strict),
        rounds=rounds,
        pieces=pieces,
        batch=batch,
    )


def _alone(prepared: Prepared, engine: Engine, index: int) -> Engine:
    """An ensemble of one over a model that ``engine`` has loaded."""
    member, of_ensemble = prepared.members[index], engine.members[index]
    union = build_union([UnionMember(member.spec.name, member.speller, leading_space=member.leading_space)])
    single = Member(member.spec.name, 1.0, of_ensemble.backend, member.reader, member.speller, union.maps[0])
    return Engine([single], union)


def _run(engine: Engine, pieces: int, batch: int, first_prompt: int) -> tuple[list[float], list[float]]:
    """Time ``pieces`` steps of ``batch`` texts: whole steps and the forward passes in them, in ms."""
    step: list[float] = []
    forward: list[float] = []
    prompt = first_prompt
    while len(step) < pieces:
        if prompt > first_prompt + PATIENCE * batch and not step:
            raise ModelError(
                f"{', '.join(member.name for member in engine.members)} ended {PATIENCE} texts at once: "
                "there is nothing to time",
                hint="look at what it writes: unisono run --raw",
            )
        texts = []
        for _ in range(batch):
            texts.append(engine.add(Prompt(text=PROMPTS[prompt % len(PROMPTS)]), Limits(max_new_tokens=pieces + 1)))
            prompt += 1
        engine.step()
        while len(engine.active) == batch and len(step) < pieces:
            before = _forward_seconds(engine.members)
            began = time.perf_counter()
            engine.step()
            step.append((time.perf_counter() - began) * 1e3)
            forward.append((_forward_seconds(engine.members) - before) * 1e3)
        for text in texts:
            engine.drop(text)
    return step, forward


def _forward_seconds(members: Sequence[Member]) -> float:
    return sum(member.seconds for member in members)


def _figures(name: str, times: _Times) -> SystemFigures:
    step = [value for turn in times.step for value in turn]
    forward = [value for turn in times.forward for value in turn]
    rest = [whole - part for whole, part in zip(step, forward, strict=True)]
    return SystemFigures(name, _figure(step), _figure(forward), _figure(rest))


def _figure(values: list[float]) -> Figure:
    tenths = statistics.quantiles(values, n=10, method="inclusive") if len(values) > 1 else values
    return Figure(statistics.median(values), tenths[0], tenths[-1])
