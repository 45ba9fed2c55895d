"""Computes all figures of a report from a run's answers. Runs no model and reads no file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from unisono.evals.analysis.statistics import pareto
from unisono.evals.records import ENSEMBLE, Answer, Kind, Results
from unisono.evals.report.cells import TaskTable, Values, best_of, cell_of, compare, corrected, read_table
from unisono.evals.report.gates import claims_of, sweeps_of
from unisono.evals.report.overall import overall
from unisono.evals.report.records import RIGHT, Cell, Comparison, Example, Report, SystemFacts, TaskFacts, TaskFigures
from unisono.evals.report.sentences import headline

EXAMPLES = "examples"
"""The key of `Results.about` for the questions' words; reports keep only those that they show."""
MOST = 5


def figures(results: Results) -> Report:
    """All figures of a run, independent of the order of its answers. Raises as `read_table`."""
    systems = _systems(results)
    tables = [read_table(results, task) for task in _tasks(results)]
    words = results.about.get(EXAMPLES) or {}
    tasks = tuple(_figures_of(systems, table, words.get(table.facts.name) or {}) for table in tables)
    return Report(
        {key: value for key, value in results.about.items() if key != EXAMPLES},
        headline(systems, tasks),
        systems,
        tasks,
        sweeps_of(systems),
        tuple(claims_of(systems, tables, tasks)),
        overall(systems, tables),
    )


def _systems(results: Results) -> tuple[SystemFacts, ...]:
    """The systems in the run's order; those known only from answers come last."""
    said = {str(each["name"]): each for each in results.about.get("systems") or ()}
    members = set(results.about.get("models") or ())
    names = _in_order(said, (answer.system for answer in results.answers))
    return tuple(_system(name, said.get(name, {}), members) for name in names)


def _system(name: str, said: Mapping[str, Any], members: set[str]) -> SystemFacts:
    voters, kind = tuple(said.get("members") or ()), said.get("kind")
    alone = name in members or len(voters) == 1
    guessed = Kind.ENSEMBLE if name == ENSEMBLE else Kind.MEMBER if alone else Kind.VARIANT
    kind = Kind(kind) if kind in list(Kind) else guessed
    return SystemFacts(name, kind, voters, said.get("method"), said.get("weights"), said.get("source"))


def _tasks(results: Results) -> tuple[TaskFacts, ...]:
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
        int(said.get("own_examples") or 0),
    )


def _in_order(said: Iterable[str], met: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*said, *sorted(set(met))]))


def _figures_of(systems: Sequence[SystemFacts], table: TaskTable, words: Mapping[str, Any]) -> TaskFigures:
    values = {system.name: table.values(system.name) for system in systems}
    names = {kind: [system.name for system in systems if system.kind == kind] for kind in Kind}
    best, shared = best_of({name: values[name] for name in names[Kind.MEMBER]})
    ensemble = next(iter(names[Kind.ENSEMBLE]), None)
    cells = [
        replace(cell, comparison=_against(cell.system, best, values))
        for system in systems
        if (cell := cell_of(table, system)) is not None
    ]
    examples = _examples(systems, table, best, values, words) if ensemble is not None and best is not None else []
    repaired, spoiled = ([each for is_right, each in examples if is_right is wanted] for wanted in (True, False))
    beside = [(name, _against(ensemble, name, values)) for name in names[Kind.BASELINE] if ensemble is not None]
    return TaskFigures(
        table.facts,
        best,
        shared,
        corrected(cells),
        _front(cells),
        tuple((name, comparison) for name, comparison in beside if comparison is not None),
        tuple(repaired[:MOST]),
        tuple(spoiled[:MOST]),
        len(repaired),
        len(spoiled),
        _failures(systems, table),
        {each.name: left for each in systems if (left := table.apart.get(each.name))},
    )


def _examples(
    systems: Sequence[SystemFacts], table: TaskTable, best: str, values: Mapping[str, Values], words: Mapping[str, Any]
) -> list[tuple[bool, Example]]:
    """Of each example, whether the ensemble is right. Questions at which it or the best member failed are left out."""
    ensemble = next(system.name for system in systems if system.kind == Kind.ENSEMBLE)
    found = []
    for question in table.facts.questions:
        answers = {name: own[question] for name in values if question in (own := table.answers.get(name, {}))}
        worth = {name: own[question] for name, own in values.items() if question in own}
        if any(name not in worth or answers[name].error is not None for name in (ensemble, best)):
            continue
        right = {name: value > RIGHT for name, value in worth.items()}
        if right[ensemble] == right[best]:
            continue
        kept = words.get(question) or {}
        example = Example(
            table.facts.name,
            question,
            kept.get("prompt"),
            kept.get("target"),
            tuple(kept.get("choices") or ()),
            best,
            tuple(system.name for system in systems if system.kind == Kind.MEMBER and right.get(system.name)),
            tuple(answers.values()),
            worth,
        )
        found.append((right[ensemble], example))
    return found


def _failures(systems: Sequence[SystemFacts], table: TaskTable) -> dict[str, int]:
    errors = [
        f"{system.name}: {answer.error}"
        for system in systems
        for answer in table.answers.get(system.name, {}).values()
        if answer.error is not None
    ]
    return dict(Counter(sorted(errors)).most_common())


def _against(system: str, other: str | None, values: Mapping[str, Values]) -> Comparison | None:
    return None if other is None or system == other else compare(other, values[system], values[other])


def _front(cells: Sequence[Cell]) -> tuple[str, ...]:
    asked = max((cell.questions for cell in cells), default=0)
    points = [
        (cell.system, (cell.ms_a_piece, cell.accuracy))
        for cell in cells
        if cell.questions == asked and cell.ms_a_piece is not None and cell.accuracy is not None
    ]
    return tuple(points[place][0] for place in pareto([point for _, point in points]))
