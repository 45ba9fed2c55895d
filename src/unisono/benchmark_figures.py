"""What a benchmark finds: its figures, and how they come of what was timed."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from unisono.config.method import Method
from unisono.engine.engine import Engine


@dataclass(frozen=True, slots=True)
class Setting:
    """How an ensemble writes while it is timed."""

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
class System(Setting):
    """A member alone, or the ensemble in a setting."""

    engine: Engine


@dataclass(slots=True)
class Round:
    """What a system did in a round. Times are milliseconds a piece."""

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


def benchmark_of(
    systems: Sequence[System], turns: Sequence[Sequence[Round]], ensemble: int, pieces: int, batch: int
) -> Benchmark:
    """The figures of systems by what they did in each round: first the members, as many as ``ensemble``, then that."""
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


def _asked(system: System, own: Sequence[Round]) -> dict[str, float] | None:
    if not system.method.gate.is_certain or system.method.draw.mixture:
        return None
    choices = sum(turn.written + turn.ends for turn in own)
    unasked = sum((turn.unasked for turn in own), Counter[str]())
    return {member.name: 1 - _share(unasked[member.name], choices) for member in system.engine.members}


def _parts(
    system: System,
    by_round: Sequence[Sequence[Round]],
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
    system: System,
    own: Sequence[Round],
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


def _same_text(systems: Sequence[System], turns: Sequence[Sequence[Round]], index: int) -> float | None:
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
