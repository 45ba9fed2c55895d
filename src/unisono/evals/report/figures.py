"""From the answers of a run to all figures of its report. Runs no model and reads no file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from unisono.evals.records import Results
from unisono.evals.report.cells import Values, best_of, cell_of, compare, corrected
from unisono.evals.report.examples import MOST, examples_of
from unisono.evals.report.facts import systems_of, tasks_of
from unisono.evals.report.gates import always_of, claim_of, overall_claim, sweeps_of
from unisono.evals.report.records import (
    BASELINE,
    ENSEMBLE_KIND,
    MEMBER,
    Cell,
    Comparison,
    Example,
    GateClaim,
    Report,
    SystemFacts,
    TaskFacts,
    TaskFigures,
)
from unisono.evals.report.sheet import Sheet, read_sheet
from unisono.evals.report.words import headline
from unisono.evals.statistics import pareto

EXAMPLES = "examples"
"""The key of `Results.about` that has the questions' words; reports leave out those that they do not show."""


def figures(results: Results) -> Report:
    """All figures of a run; the same answers give the same figures, in whatever order they came.

    Raises:
        SpecError: a question is answered twice by one system.
    """
    systems, facts = systems_of(results), tasks_of(results)
    sheet = read_sheet(results, facts)
    count = _Count(systems, sheet)
    words = results.about.get(EXAMPLES) or {}
    tasks = tuple(count.task(task, words.get(task.name) or {}) for task in facts)
    return Report(
        {key: value for key, value in results.about.items() if key != EXAMPLES},
        headline(systems, tasks),
        systems,
        tasks,
        sweeps_of(systems),
        tuple(count.gate_claims(tasks)),
    )


class _Count:
    """Counts the tasks of one run."""

    def __init__(self, systems: Sequence[SystemFacts], sheet: Sheet) -> None:
        self._systems, self._sheet = systems, sheet
        self._members = [system.name for system in systems if system.kind == MEMBER]
        self._baselines = [system.name for system in systems if system.kind == BASELINE]
        self._ensemble = next((system.name for system in systems if system.kind == ENSEMBLE_KIND), None)

    def task(self, task: TaskFacts, words: Mapping[str, Any]) -> TaskFigures:
        """All figures of one task."""
        values = self._values(task)
        best, shared = best_of({name: values[name] for name in self._members})
        cells = [
            replace(cell, comparison=self._against(cell.system, best, values))
            for system in self._systems
            if (cell := cell_of(self._sheet, task, system.name, votes=system.votes)) is not None
        ]
        repaired, spoiled = self._examples(task, best, values, words)
        return TaskFigures(
            task,
            best,
            shared,
            corrected(cells),
            _front(cells),
            tuple(self._against_baselines(values)),
            tuple(repaired[:MOST]),
            tuple(spoiled[:MOST]),
            len(repaired),
            len(spoiled),
            self._failures(task),
            {
                system.name: left
                for system in self._systems
                if (left := self._sheet.apart.get((task.name, system.name)))
            },
        )

    def gate_claims(self, tasks: Sequence[TaskFigures]) -> list[GateClaim]:
        """The best gate on each task, and on all together."""
        always = always_of(self._systems)
        gated = [system.name for system in self._systems if system.is_gated]
        if always is None or not gated:
            return []
        claims = [
            claim_of(
                task.facts.name,
                always.name,
                gated,
                self._values(task.facts),
                {cell.system: cell for cell in task.cells},
            )
            for task in tasks
        ]
        return [claim for claim in (*claims, overall_claim(always.name, gated, tasks)) if claim is not None]

    def _values(self, task: TaskFacts) -> dict[str, Values]:
        main = task.metrics[0] if task.metrics else ""
        return {system.name: self._sheet.values(task.name, system.name, main) for system in self._systems}

    def _against(self, system: str, other: str | None, values: Mapping[str, Values]) -> Comparison | None:
        if other is None or system == other:
            return None
        return compare(other, values[system], values[other])

    def _against_baselines(self, values: Mapping[str, Values]) -> list[tuple[str, Comparison]]:
        if self._ensemble is None:
            return []
        compared = [(name, self._against(self._ensemble, name, values)) for name in self._baselines]
        return [(name, comparison) for name, comparison in compared if comparison is not None]

    def _examples(
        self, task: TaskFacts, best: str | None, values: Mapping[str, Values], words: Mapping[str, Any]
    ) -> tuple[list[Example], list[Example]]:
        if self._ensemble is None or best is None:
            return [], []
        answers = {system.name: self._sheet.of(task.name, system.name) for system in self._systems}
        return examples_of(task, self._ensemble, best, self._members, values, answers, words)

    def _failures(self, task: TaskFacts) -> dict[str, int]:
        errors = [
            f"{system.name}: {answer.error}"
            for system in self._systems
            for answer in self._sheet.of(task.name, system.name).values()
            if answer.error is not None
        ]
        return dict(sorted(Counter(errors).items(), key=lambda each: (-each[1], each[0])))


def _front(cells: Sequence[Cell]) -> tuple[str, ...]:
    """The systems on the Pareto line of accuracy against ms a piece, of those that were asked everything."""
    asked = max((cell.questions for cell in cells), default=0)
    points = [
        (cell.system, (cell.ms_a_piece, cell.accuracy))
        for cell in cells
        if cell.questions == asked and cell.ms_a_piece is not None and cell.accuracy is not None
    ]
    return tuple(points[place][0] for place in pareto([point for _, point in points]))
