"""From the answers of a run to all figures of its report. Runs no model and reads no file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from unisono.evals.analysis.statistics import pareto
from unisono.evals.records import ENSEMBLE, Answer, Results
from unisono.evals.report.cells import ResultTable, Values, best_of, cell_of, compare, corrected, read_table
from unisono.evals.report.gates import always_of, claim_of, overall_claim, sweeps_of
from unisono.evals.report.phrases import headline
from unisono.evals.report.records import (
    BASELINE,
    ENSEMBLE_KIND,
    KINDS,
    MEMBER,
    RIGHT,
    VARIANT,
    Cell,
    Comparison,
    Example,
    GateClaim,
    Report,
    SystemFacts,
    TaskFacts,
    TaskFigures,
)

EXAMPLES = "examples"
"""The key of `Results.about` that has the questions' words; reports leave out those that they do not show."""
MOST = 5
"""Examples of a kind and task."""


def figures(results: Results) -> Report:
    """All figures of a run; the same answers give the same figures, in whatever order they came.

    Raises:
        SpecError: a question is answered twice by one system.
    """
    systems, facts = _systems(results), _tasks(results)
    count = _Count(systems, read_table(results, facts))
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


def _systems(results: Results) -> tuple[SystemFacts, ...]:
    """The systems in the run's order; those that only answers name come last."""
    said = {str(each["name"]): each for each in results.about.get("systems") or ()}
    members = set(results.about.get("models") or ())
    names = _in_order(said, (answer.system for answer in results.answers))
    return tuple(_system(name, said.get(name, {}), members) for name in names)


def _system(name: str, said: Mapping[str, Any], members: set[str]) -> SystemFacts:
    voters, kind = tuple(said.get("members") or ()), said.get("kind")
    alone = name in members or len(voters) == 1
    guessed = ENSEMBLE_KIND if name == ENSEMBLE else MEMBER if alone else VARIANT
    kind = kind if kind in KINDS else guessed
    return SystemFacts(name, kind, voters, said.get("method"), said.get("weights"), said.get("source"))


def _tasks(results: Results) -> tuple[TaskFacts, ...]:
    """The tasks in the run's order; those that only answers name come last."""
    said = {str(each["name"]): each for each in results.about.get("tasks") or ()}
    answers: dict[str, list[Answer]] = {}
    for answer in results.answers:
        answers.setdefault(answer.task, []).append(answer)
    return tuple(_task(name, said.get(name, {}), answers.get(name, ())) for name in _in_order(said, answers))


def _task(name: str, said: Mapping[str, Any], answers: Sequence[Answer]) -> TaskFacts:
    met = dict.fromkeys(metric for answer in answers for metric in answer.metrics)
    asked = sorted({answer.question for answer in answers})
    return TaskFacts(
        name,
        tuple(dict.fromkeys([*(said.get("metrics") or ()), *met])),
        tuple(dict.fromkeys([*(said.get("questions") or ()), *asked])),
        said.get("shots"),
        None if said.get("version") is None else str(said["version"]),
        "; ".join(str(said[key]) for key in ("source", "examples") if said.get(key)) or None,
    )


def _in_order(said: Iterable[str], met: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*said, *sorted(set(met))]))


class _Count:
    """Counts the tasks of one run."""

    def __init__(self, systems: Sequence[SystemFacts], table: ResultTable) -> None:
        self._systems, self._table = systems, table
        self._members = [system.name for system in systems if system.kind == MEMBER]
        self._baselines = [system.name for system in systems if system.kind == BASELINE]
        self._ensemble = next((system.name for system in systems if system.kind == ENSEMBLE_KIND), None)

    def task(self, task: TaskFacts, words: Mapping[str, Any]) -> TaskFigures:
        """All figures of one task."""
        values, apart = self._values(task), self._table.apart
        best, shared = best_of({name: values[name] for name in self._members})
        cells = [
            replace(cell, comparison=_against(cell.system, best, values))
            for system in self._systems
            if (cell := cell_of(self._table, task, system.name, votes=system.votes)) is not None
        ]
        repaired, spoiled = self._examples(task, best, values, words)
        names = self._baselines if self._ensemble else []
        beside = [(name, _against(self._ensemble or "", name, values)) for name in names]
        return TaskFigures(
            task,
            best,
            shared,
            corrected(cells),
            _front(cells),
            tuple((name, comparison) for name, comparison in beside if comparison is not None),
            tuple(repaired[:MOST]),
            tuple(spoiled[:MOST]),
            len(repaired),
            len(spoiled),
            self._failures(task),
            {each.name: left for each in self._systems if (left := apart.get((task.name, each.name)))},
        )

    def gate_claims(self, tasks: Sequence[TaskFigures]) -> list[GateClaim]:
        """The best gate on each task, and on all together."""
        always = always_of(self._systems)
        gated = [system.name for system in self._systems if system.is_gated]
        if always is None or not gated:
            return []
        claims = [claim_of(always.name, gated, self._values(task.facts), task) for task in tasks]
        return [claim for claim in (*claims, overall_claim(always.name, gated, tasks)) if claim is not None]

    def _values(self, task: TaskFacts) -> dict[str, Values]:
        return {system.name: self._table.values(task.name, system.name, task.main) for system in self._systems}

    def _examples(
        self, task: TaskFacts, best: str | None, values: Mapping[str, Values], words: Mapping[str, Any]
    ) -> tuple[list[Example], list[Example]]:
        """Questions that the ensemble has right and the best member wrong, and those the other way round.

        All of them, in the order of the task. A question at which either failed is left out.
        """
        repaired: list[Example] = []
        spoiled: list[Example] = []
        ensemble = self._ensemble
        if ensemble is None or best is None:
            return repaired, spoiled
        answers = {system.name: self._table.of(task.name, system.name) for system in self._systems}
        for question in task.questions:
            pair = [answers[system].get(question) for system in (ensemble, best)]
            if any(answer is None or answer.error is not None for answer in pair):
                continue
            right = {system: own[question] > RIGHT for system, own in values.items() if question in own}
            if ensemble not in right or best not in right or right[ensemble] == right[best]:
                continue
            kept = words.get(question) or {}
            example = Example(
                task.name,
                question,
                kept.get("prompt"),
                kept.get("target"),
                tuple(kept.get("choices") or ()),
                best,
                tuple(name for name in self._members if right.get(name)),
                tuple(own[question] for own in answers.values() if question in own),
                {system: own[question] for system, own in values.items() if question in own},
            )
            (repaired if right[ensemble] else spoiled).append(example)
        return repaired, spoiled

    def _failures(self, task: TaskFacts) -> dict[str, int]:
        errors = [
            f"{system.name}: {answer.error}"
            for system in self._systems
            for answer in self._table.of(task.name, system.name).values()
            if answer.error is not None
        ]
        return dict(sorted(Counter(errors).items(), key=lambda each: (-each[1], each[0])))


def _against(system: str, other: str | None, values: Mapping[str, Values]) -> Comparison | None:
    return None if other is None or system == other else compare(other, values[system], values[other])


def _front(cells: Sequence[Cell]) -> tuple[str, ...]:
    """The systems on the Pareto line of accuracy against ms a piece, of those that were asked everything."""
    asked = max((cell.questions for cell in cells), default=0)
    points = [
        (cell.system, (cell.ms_a_piece, cell.accuracy))
        for cell in cells
        if cell.questions == asked and cell.ms_a_piece is not None and cell.accuracy is not None
    ]
    return tuple(points[place][0] for place in pareto([point for _, point in points]))
