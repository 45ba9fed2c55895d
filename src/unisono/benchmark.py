"""Measure an ensemble's speed against its members and other settings, interleaved, on the same loaded models."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from unisono.build import Prepared
from unisono.chat.messages import Prompt
from unisono.config.method import Method
from unisono.engine.engine import Engine
from unisono.engine.member import Member
from unisono.errors import ModelError
from unisono.members import Report, silent
from unisono.models import Models, load_models
from unisono.records import Limits

TEXTS = (
    "The history of the lighthouse began when",
    "There are three reasons why bread rises. First,",
    "She opened the letter, read it twice, and",
    "In most cities the price of a flat depends on",
)
"""Raw texts to continue; none of them ends soon."""

ENSEMBLE = "ensemble"
PATIENCE = 8
"""Texts that may end at their first piece before a system is given up."""


@dataclass(frozen=True, slots=True)
class Setting:
    name: str
    method: Method
    trace: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class SystemFigures:
    """One member alone, the ensemble, or the ensemble in another setting. Times are milliseconds a piece."""

    name: str
    step: Figure
    forward: Figure
    """The members' forward passes in it."""
    rest: Figure
    one_member: bool
    """Whether a member is drawn for each piece."""
    ensembled: float
    """The share of pieces at which all members ran."""
    asked: Mapping[str, float] | None
    """By member, the share of choices, ends too, that it was asked about; ``None`` but for ``gate: certain``."""
    block: float
    """Drafted pieces in a block, on average; 0 where nothing was drafted."""
    accepted: float
    speedup: Figure
    """By round: the ensemble's time ÷ this system's."""
    to_parts: Figure
    """By round: this system's time ÷ (the lead's alone + ``ensembled`` x the other members'); with one-member,
    ÷ the mean of the members' by weight; with ``gate: certain``, ÷ the sum of the members', each by ``asked``."""
    same_text: float | None
    """The share of rounds in which it wrote what it would have written without drafts; ``None`` where no
    compared system shows that."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The figures of `unisono bench`."""

    systems: tuple[SystemFigures, ...]
    """Each member alone, the ensemble, and its other settings."""
    ratio: float
    """Median over the rounds: the ensemble's time ÷ the sum of the members' times alone."""
    ratio_low: float
    """The smallest ratio of a round."""
    ratio_high: float
    """The largest ratio of a round."""
    ratio_to_forward: float
    """The ensemble's time ÷ the sum of the members' forward passes alone, which is stricter."""
    rounds: int
    """Timed rounds."""
    pieces: int
    """Timed pieces of each text in a round."""
    batch: int
    """Texts at once."""

    def to_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class _System(Setting):
    engine: Engine


@dataclass(slots=True)
class _Turn:
    step: float = 0.0
    forward: float = 0.0
    pieces: int = 0
    written: int = 0
    ensembled: int = 0
    blocks: int = 0
    drafted: int = 0
    accepted: int = 0
    ends: int = 0
    unasked: Counter[str] = field(default_factory=Counter)
    texts: tuple[bytes, ...] = ()


def measure(
    prepared: Prepared,
    *,
    rounds: int = 5,
    pieces: int = 48,
    batch: int = 1,
    compare: Sequence[Setting] = (),
    prompts: Sequence[Prompt] = (),
    report: Report = silent,
    count: Callable[[], None] = lambda: None,
) -> Benchmark:
    """Time every member alone, the ensemble, and the ensemble in other settings, in turn, round by round.

    The models are loaded once; a member alone is an ensemble of one with the same model. Each round begins with another
    system, and all systems continue the same prompts. Reading the prompt and choosing the first piece are not timed. A
    first round warms up and is discarded.

    Args:
        prepared: the ensemble, prepared for ``batch`` texts or more.
        rounds: how many rounds are timed.
        pieces: how many pieces of each text a round times.
        batch: how many texts are written at once.
        compare: other settings of the ensemble to time.
        prompts: used in turn; raw texts by default.
        report: called with (member, fraction done, words) while models load.
        count: called after every turn.

    Raises:
        ModelError: all texts of a system end at their first piece, so that there is nothing to time.
    """
    prompts = prompts or [prepared.prompt(text) for text in TEXTS]
    with load_models([prepared], report) as models:
        systems = _systems(prepared, models, compare)
        turns: list[list[_Turn]] = [[] for _ in systems]
        for number in range(rounds + 1):
            for index in (*range(number % len(systems), len(systems)), *range(number % len(systems))):
                turn = _run(systems[index], pieces, batch, prompts, number)
                if number:
                    turns[index].append(turn)
                count()
        return _benchmark(systems, turns, len(prepared.members), pieces, batch)


def _systems(prepared: Prepared, models: Models, compare: Sequence[Setting]) -> list[_System]:
    names = [member.spec.name for member in prepared.members]
    own = Setting(ENSEMBLE, prepared.spec.method)
    return [
        *(_System(name, Method(), engine=models.engine(prepared.alone(name))) for name in names),
        *(_System(each.name, each.method, each.trace, engine=models.engine(prepared)) for each in (own, *compare)),
    ]


def _run(system: _System, pieces: int, batch: int, prompts: Sequence[Prompt], first: int) -> _Turn:
    engine, turn = system.engine, _Turn()
    spent = forward = 0.0
    used = 0
    while turn.pieces < pieces * batch:
        texts = []
        for _ in range(batch):
            prompt = prompts[(first + used) % len(prompts)]
            used += 1
            limits = Limits(max_new_tokens=pieces - turn.pieces // batch + 1)
            texts.append(engine.add(prompt, limits, method=system.method, trace=system.trace))
            engine.prefill(texts[-1])
        engine.step()
        before = _forward_seconds(engine.members)
        began = time.perf_counter()
        while len(engine.active) == batch:
            engine.step()
        spent += time.perf_counter() - began
        forward += _forward_seconds(engine.members) - before
        for text in texts:
            engine.drop(text)
            turn.pieces += max(0, text.pieces - 1)
            turn.written += text.pieces
            turn.ensembled += text.ensembled
            turn.blocks += text.blocks
            turn.drafted += text.drafted
            turn.accepted += text.accepted
            turn.ends += text.finish == "end"
            turn.unasked += text.unasked
            turn.texts += (text.tail(1 << 20),)
        if not turn.pieces and used >= PATIENCE * batch:
            raise ModelError(
                f"{', '.join(member.name for member in engine.members)} ended {PATIENCE} texts at once: "
                "there is nothing to time",
                hint="look at what it writes: unisono run --raw",
            )
    turn.step, turn.forward = (seconds * 1e3 * batch / turn.pieces for seconds in (spent, forward))
    return turn


def _forward_seconds(members: Sequence[Member]) -> float:
    return sum(member.seconds for member in members)


def _benchmark(
    systems: Sequence[_System], turns: Sequence[Sequence[_Turn]], ensemble: int, pieces: int, batch: int
) -> Benchmark:
    whole = [turn.step for turn in turns[ensemble]]
    by_round = list(zip(*turns[:ensemble], strict=True))
    sums = [sum(turn.step for turn in members) for members in by_round]
    bare = [sum(turn.forward for turn in members) for members in by_round]
    ratios = [step / total for step, total in zip(whole, sums, strict=True)]
    figures = []
    for index, (system, own) in enumerate(zip(systems, turns, strict=True)):
        share, asked = 1.0, None
        if index >= ensemble:
            share = _share(sum(turn.ensembled for turn in own), sum(turn.written for turn in own))
            asked = _asked(system, own)
        parts = [turn.step for turn in own] if index < ensemble else _parts(system, by_round, sums, share, asked)
        figures.append(_figures(system, own, whole, parts, share, asked, _same_text(systems, turns, index)))
    return Benchmark(
        systems=tuple(figures),
        ratio=statistics.median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        ratio_to_forward=statistics.median(step / total for step, total in zip(whole, bare, strict=True)),
        rounds=len(whole),
        pieces=pieces,
        batch=batch,
    )


def _asked(system: _System, own: Sequence[_Turn]) -> dict[str, float] | None:
    if not system.method.gate.is_certain or system.method.draw.mixture:
        return None
    choices = sum(turn.written + turn.ends for turn in own)
    unasked = sum((turn.unasked for turn in own), Counter[str]())
    return {member.name: 1 - _share(unasked[member.name], choices) for member in system.engine.members}


def _parts(
    system: _System,
    by_round: Sequence[Sequence[_Turn]],
    sums: Sequence[float],
    share: float,
    asked: Mapping[str, float] | None,
) -> list[float]:
    weights = {member.name: member.weight for member in system.engine.members}
    if asked is not None or system.method.draw.mixture:
        shares = list((weights if asked is None else asked).values())
        return [sum(share * turn.step for share, turn in zip(shares, members, strict=True)) for members in by_round]
    lead = list(weights).index(system.method.lead_among(weights))
    leads = [members[lead].step for members in by_round]
    return [step + share * (total - step) for step, total in zip(leads, sums, strict=True)]


def _figures(
    system: _System,
    own: Sequence[_Turn],
    whole: Sequence[float],
    parts: Sequence[float],
    share: float,
    asked: Mapping[str, float] | None,
    same_text: float | None,
) -> SystemFigures:
    step = [turn.step for turn in own]
    drafted, blocks = sum(turn.drafted for turn in own), sum(turn.blocks for turn in own)
    return SystemFigures(
        name=system.name,
        one_member=system.method.draw.mixture,
        step=_figure(step),
        forward=_figure([turn.forward for turn in own]),
        rest=_figure([turn.step - turn.forward for turn in own]),
        ensembled=share,
        asked=asked,
        block=_share(drafted, blocks),
        accepted=_share(sum(turn.accepted for turn in own), drafted),
        speedup=_figure([plain / mine for plain, mine in zip(whole, step, strict=True)]),
        to_parts=_figure([mine / part for mine, part in zip(step, parts, strict=True)]),
        same_text=same_text,
    )


def _same_text(systems: Sequence[_System], turns: Sequence[Sequence[_Turn]], index: int) -> float | None:
    system = systems[index]
    if system.method.speculate is None:
        return None
    plain = replace(system.method, speculate=None)
    for other, theirs in zip(systems, turns, strict=True):
        if other.method == plain and other.engine.union is system.engine.union:
            pairs = list(zip(turns[index], theirs, strict=True))
            return _share(sum(mine.texts == other.texts for mine, other in pairs), len(pairs))
    return None


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _figure(values: Sequence[float]) -> Figure:
    tenths = statistics.quantiles(values, n=10, method="inclusive") if len(values) > 1 else values
    return Figure(statistics.median(values), tenths[0], tenths[-1])
