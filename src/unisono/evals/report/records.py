"""The figures of a run, for pages, tables and other programs. Shares and metrics are from 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from unisono.evals.analysis.statistics import Calibration
from unisono.evals.records import Answer, Kind
from unisono.fusion.resampling import LEVEL, Interval

RIGHT = 0.5
"""An answer is right when its main metric exceeds this."""


@dataclass(frozen=True, slots=True)
class SystemFacts:
    """A system, as the run describes it."""

    name: str
    kind: Kind
    members: tuple[str, ...] = ()
    method: Mapping[str, Any] | None = None
    """As `Method.to_json` writes it; a baseline has none."""
    weights: Mapping[str, float] | None = None
    source: str | None = None

    @property
    def is_described(self) -> bool:
        return bool(self.method or self.members or self.source)

    @property
    def votes(self) -> bool:
        """Whether it writes with several voting members."""
        return self.kind not in (Kind.MEMBER, Kind.BASELINE)

    @property
    def gate(self) -> Mapping[str, Any]:
        return (self.method or {}).get("gate") or {}

    @property
    def lead(self) -> str | None:
        named = (self.method or {}).get("lead")
        return named or next((name for name in self.members if (self.weights or {}).get(name, 1) > 0), None)

    @property
    def is_gated(self) -> bool:
        return self.votes and self.gate.get("kind", "always") != "always"


@dataclass(frozen=True, slots=True)
class TaskFacts:
    name: str
    metrics: tuple[str, ...]
    questions: tuple[str, ...]
    """Ids, in the order of the run."""
    shots: int | None = None
    version: str | None = None
    source: str | None = None
    own_examples: int = 0
    """How many questions stand, with their answers, among the examples in their own prompts."""

    @property
    def main(self) -> str:
        return self.metrics[0] if self.metrics else ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A system against another, on the questions that both answered or failed at."""

    other: str
    questions: int
    mean: float
    difference: float
    """The mean minus the other's."""
    interval: Interval
    """Of the difference: 95 %, from a paired bootstrap."""
    better: int
    """Questions with the larger main metric."""
    worse: int
    p: float | None
    """McNemar's exact test; ``None`` when the metric is not binary."""
    p_holm: float | None = None
    """Corrected for all systems compared with the best member of the task."""

    @property
    def is_sure(self) -> bool:
        """Whether interval and, where it applies, McNemar's test exclude equality.

        When two systems differ on about four questions or fewer, the bootstrap alone is sure too early.
        """
        return self.interval.excludes_zero and (self.p is None or self.p < 1 - LEVEL)


@dataclass(frozen=True, slots=True)
class Cell:
    task: str
    system: str
    questions: int
    """Answered or failed."""
    failed: int
    """Without an answer; each counts as wrong."""
    metrics: Mapping[str, float]
    accuracy: float | None
    interval: Interval | None
    """Wilson's interval of the accuracy, 95 %; ``None`` when the metric is no share."""
    pieces: int
    share: float | None
    """Share of pieces at which all members ran; ``None`` without pieces, and for one member alone."""
    ms_a_piece: float | None
    """Writing time over pieces; ``None`` when none was measured."""
    median_ms_a_piece: float | None
    """The median over questions."""
    ms_a_question: float | None
    at_once: int | None
    confidence: float | None
    calibration: Calibration | None
    """``None`` where confidences are known only within bounds, too."""
    comparison: Comparison | None = None
    """With the best member; ``None`` for that member itself, and when there is none."""
    confidence_most: float | None = None
    """The most that the confidence may be, where that is known only within bounds."""


@dataclass(frozen=True, slots=True)
class GatePoint:
    system: str
    threshold: float


@dataclass(frozen=True, slots=True)
class Sweep:
    label: str
    kind: str
    points: tuple[GatePoint, ...]


@dataclass(frozen=True, slots=True)
class GateClaim:
    """The least ensembled gate among those at least as good as always ensembling."""

    task: str | None
    """``None`` for the mean of all tasks."""
    always: str
    gates: int
    system: str | None = None
    """The best gate; ``None`` when each is worse than always ensembling."""
    difference: float | None = None
    """Its accuracy minus that of `always`, on the same questions."""
    interval: Interval | None = None
    share: float | None = None
    ms_a_piece: float | None = None
    ms_always: float | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """A question that only one of ensemble and best member gets right."""

    task: str
    question: str
    prompt: str | None
    target: str | None
    choices: tuple[str, ...]
    best_member: str
    members_right: tuple[str, ...]
    answers: tuple[Answer, ...]
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class TaskFigures:
    facts: TaskFacts
    best_member: str | None
    shared: int
    """Questions that all members answered or failed at; the best member is chosen on these."""
    cells: tuple[Cell, ...]
    """In the order of the systems, without those that were asked nothing."""
    front: tuple[str, ...]
    """Systems on the Pareto line of accuracy against ms per piece, quickest first."""
    against_baselines: tuple[tuple[str, Comparison], ...]
    repaired: tuple[Example, ...]
    spoiled: tuple[Example, ...]
    repaired_in_all: int
    spoiled_in_all: int
    failures: Mapping[str, int]
    apart: Mapping[str, int]
    """By system, how many answers came in a later wave than others to the same question; their times are left out."""

    def cell(self, system: str) -> Cell | None:
        return next((cell for cell in self.cells if cell.system == system), None)

    def is_partial(self, cell: Cell) -> bool:
        return cell.questions < max(each.questions for each in self.cells)


@dataclass(frozen=True, slots=True)
class MemberComparison:
    """A system against a member on all tasks."""

    member: str
    difference: float
    """Of the means of the tasks."""
    interval: Interval
    """95 %, from a paired bootstrap within each task."""
    tasks: Mapping[str, Comparison]
    """By task; p is corrected for the number of tasks."""


@dataclass(frozen=True, slots=True)
class OverTasks:
    """A system on all tasks, all of whose questions it and all members were asked."""

    system: str
    mean: float
    """Of the tasks' means."""
    beside: tuple[MemberComparison, ...]
    """One a member, without itself."""


@dataclass(frozen=True, slots=True)
class Overall:
    """All systems by one metric."""

    metric: str | None
    """``None`` for the main metric of each task."""
    tasks: tuple[str, ...]
    """Those that can be averaged: whose main metric is from 0 to 1, or, by nats a byte, which have choices."""
    best_member: str
    """The one whose mean is best, the first of equals."""
    systems: tuple[OverTasks, ...]


@dataclass(frozen=True, slots=True)
class Report:
    about: Mapping[str, Any]
    """The run's, without the words of questions that are not shown."""
    headline: str
    systems: tuple[SystemFacts, ...]
    tasks: tuple[TaskFigures, ...]
    sweeps: tuple[Sweep, ...]
    gate_claims: tuple[GateClaim, ...]
    """Of each task, and over all when there are several; empty when no gate can be compared."""
    overall: tuple[Overall, ...] = ()
    """By the main metrics, and by nats a byte; empty with one task."""

    def of_kind(self, kind: str) -> list[SystemFacts]:
        return [system for system in self.systems if system.kind == kind]

    def kind_of(self, name: str) -> str:
        return next(system.kind for system in self.systems if system.name == name)

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = as_plain(self)
        return plain


def as_plain(value: Any) -> Any:
    """Records, mappings and sequences as JSON-compatible dictionaries and lists, recursively."""
    if isinstance(value, Answer):
        return as_plain(value.to_json())
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: as_plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [as_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, str | int) else str(value)
