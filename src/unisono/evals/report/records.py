"""The figures of a run, for pages, tables and other programs. Shares and metrics are from 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from unisono.evals.analysis.statistics import LEVEL, Calibration, Interval
from unisono.evals.records import Answer

MEMBER, ENSEMBLE_KIND, VARIANT, BASELINE = "member", "ensemble", "variant", "baseline"
KINDS = (MEMBER, ENSEMBLE_KIND, VARIANT, BASELINE)
RIGHT = 0.5
"""An answer is right where its main metric is larger."""


@dataclass(frozen=True, slots=True)
class SystemFacts:
    """A system, as the run describes it."""

    name: str
    kind: str
    """One of `KINDS`."""
    members: tuple[str, ...] = ()
    method: Mapping[str, Any] | None = None
    """As `Method.to_json` writes it; a baseline has none."""
    weights: Mapping[str, float] | None = None
    source: str | None = None
    """Who proposed it."""

    @property
    def is_described(self) -> bool:
        """Whether the run says more of it than its name."""
        return bool(self.method or self.members or self.source)

    @property
    def votes(self) -> bool:
        """Whether it writes as several members vote."""
        return self.kind not in (MEMBER, BASELINE)

    @property
    def gate(self) -> Mapping[str, Any]:
        """Its gate; without a kind where the run does not say."""
        return (self.method or {}).get("gate") or {}

    @property
    def lead(self) -> str | None:
        """The member that leads; ``None`` where the run does not say."""
        named = (self.method or {}).get("lead")
        return named or next((name for name in self.members if (self.weights or {}).get(name, 1) > 0), None)

    @property
    def is_gated(self) -> bool:
        """Whether it asks the others at some steps only."""
        return self.kind in (ENSEMBLE_KIND, VARIANT) and self.gate.get("kind", "always") != "always"


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """A task, as the run describes it."""

    name: str
    metrics: tuple[str, ...]
    """The main one first."""
    questions: tuple[str, ...]
    """Their ids, in the order of the run."""
    shots: int | None = None
    version: str | None = None
    source: str | None = None

    @property
    def main(self) -> str:
        """The main metric; ``""`` where there is none."""
        return self.metrics[0] if self.metrics else ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A system against another, on the questions that both answered or failed at."""

    other: str
    questions: int
    mean: float
    """Of the main metric, on these questions."""
    difference: float
    """The mean less the other's."""
    interval: Interval
    """Of the difference: 95 %, from a paired bootstrap."""
    better: int
    """Questions on which its main metric is the larger one."""
    worse: int
    p: float | None
    """McNemar's exact test; ``None`` where the metric is not right or wrong alone."""
    p_holm: float | None = None
    """The same, corrected for all systems that are compared with the best member of the task."""

    @property
    def is_sure(self) -> bool:
        """Whether the interval excludes 0, and McNemar's test, where it applies, rejects equality at its level.

        Where two systems differ on few questions, four to none say, the bootstrap alone is sure too early.
        """
        return self.interval.excludes_zero and (self.p is None or self.p < 1 - LEVEL)


@dataclass(frozen=True, slots=True)
class Cell:
    """A system on a task."""

    task: str
    system: str
    questions: int
    """That it answered or failed at."""
    failed: int
    """Without an answer; each counts as wrong."""
    metrics: Mapping[str, float]
    """The mean of each."""
    accuracy: float | None
    """The mean of the main one; ``None`` where no answer has it."""
    interval: Interval | None
    """Of the accuracy: Wilson's, 95 %; ``None`` where the metric is no share."""
    pieces: int
    """Written, or scored."""
    share: float | None
    """Of the pieces, those at which all members ran; ``None`` without pieces, and for systems of one member."""
    ms_a_piece: float | None
    """Writing time over pieces; ``None`` where none was measured."""
    median_ms_a_piece: float | None
    """The median over questions."""
    ms_a_question: float | None
    at_once: int | None
    """Questions that were answered at the same time, at most."""
    confidence: float | None
    """The mean; ``None`` where answers carry none."""
    calibration: Calibration | None
    comparison: Comparison | None = None
    """With the best member; ``None`` for that member itself, and where there is none."""


@dataclass(frozen=True, slots=True)
class GatePoint:
    """A system of a sweep on a task."""

    system: str
    threshold: float


@dataclass(frozen=True, slots=True)
class Sweep:
    """Systems that differ by the threshold of their gate only."""

    label: str
    """The lead, and what else distinguishes it from the other sweeps of this kind of gate."""
    kind: str
    """Of the gate."""
    points: tuple[GatePoint, ...]
    """By threshold."""


@dataclass(frozen=True, slots=True)
class GateClaim:
    """The gate that asks least often among those at least as good as asking always."""

    task: str | None
    """``None`` for the mean of all tasks."""
    always: str
    """The system that asks always."""
    gates: int
    """Gated systems that were compared with it."""
    system: str | None = None
    """The best gate; ``None`` where each is worse than always."""
    difference: float | None = None
    """Its accuracy less that of always, on the same questions."""
    interval: Interval | None = None
    """Of the difference."""
    share: float | None = None
    ms_a_piece: float | None = None
    ms_always: float | None = None
    """Ms a piece of the system that asks always."""


@dataclass(frozen=True, slots=True)
class Example:
    """A question that the ensemble and the best member do not both get right."""

    task: str
    question: str
    prompt: str | None
    """``None`` where the run did not keep it."""
    target: str | None
    choices: tuple[str, ...]
    """What could be chosen, where the run kept it."""
    best_member: str
    members_right: tuple[str, ...]
    answers: tuple[Answer, ...]
    """Of all systems."""
    values: Mapping[str, float]
    """The main metric by system."""


@dataclass(frozen=True, slots=True)
class TaskFigures:
    """A task: its facts, its best member, its cells and its examples."""

    facts: TaskFacts
    best_member: str | None
    shared: int
    """Questions that all members answered or failed at: those on which the best was chosen."""
    cells: tuple[Cell, ...]
    """In the order of the systems; of those that were asked nothing there is none."""
    front: tuple[str, ...]
    """Systems on the Pareto line of accuracy against ms a piece, the quickest first."""
    against_baselines: tuple[tuple[str, Comparison], ...]
    """Of each baseline: the ensemble compared with it."""
    repaired: tuple[Example, ...]
    spoiled: tuple[Example, ...]
    repaired_in_all: int
    spoiled_in_all: int
    failures: Mapping[str, int]
    """Errors, and how many answers failed by each."""
    apart: Mapping[str, int]
    """By system, how many answers came in a later wave than others to the same question: their times are left out."""

    def cell(self, system: str) -> Cell | None:
        """What a system did; ``None`` where it was asked nothing."""
        return next((cell for cell in self.cells if cell.system == system), None)

    def is_partial(self, cell: Cell) -> bool:
        """Whether a system was asked fewer questions than others."""
        return cell.questions < max(each.questions for each in self.cells)


@dataclass(frozen=True, slots=True)
class Report:
    """All figures of a run."""

    about: Mapping[str, Any]
    """As the run has it, without the words of questions that are not shown."""
    headline: str
    systems: tuple[SystemFacts, ...]
    tasks: tuple[TaskFigures, ...]
    sweeps: tuple[Sweep, ...]
    gate_claims: tuple[GateClaim, ...]
    """Of each task, and of all together where there are several; none where no gate can be compared with always."""

    def of_kind(self, kind: str) -> list[SystemFacts]:
        """The systems of a kind."""
        return [system for system in self.systems if system.kind == kind]

    def kind_of(self, name: str) -> str:
        """The kind of a system."""
        return next(system.kind for system in self.systems if system.name == name)

    def to_json(self) -> dict[str, Any]:
        """The record with plain types only; numbers that JSON lacks are texts."""
        plain: dict[str, Any] = as_plain(self)
        return plain


def as_plain(value: Any) -> Any:
    """Records, mappings and sequences as dictionaries and lists, all the way down; JSON can hold what comes out."""
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
