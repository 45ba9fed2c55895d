"""Systems on all tasks together, each of which counts alike, beside each member alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from unisono.evals.analysis.statistics import SEED, holm
from unisono.evals.records import NATS, Kind
from unisono.evals.report.cells import TaskTable, Values, compare
from unisono.evals.report.records import Comparison, MemberComparison, Overall, OverTasks, SystemFacts
from unisono.fusion.resampling import stratified_bootstrap


def overall(systems: Sequence[SystemFacts], tables: Sequence[TaskTable]) -> tuple[Overall, ...]:
    """By the main metrics that are shares and by nats a byte, as far as all members have these on several tasks."""
    found = (_overall(systems, tables, metric) for metric in (None, NATS))
    return tuple(each for each in found if each is not None)


def _overall(systems: Sequence[SystemFacts], tables: Sequence[TaskTable], metric: str | None) -> Overall | None:
    members = [system.name for system in systems if system.kind == Kind.MEMBER]
    tables = [table for table in tables if _counts(table, members, metric)]
    if len(tables) < 2 or not members:
        return None
    values = _values(systems, tables, members, metric)
    if not all(name in values for name in members):
        return None
    means = {name: fmean(fmean(each.values()) for each in its) for name, its in values.items()}
    best = (min if metric == NATS else max)(members, key=lambda name: means[name])
    names = [table.facts.name for table in tables]
    others = {name: [member for member in members if member != name] for name in values}
    return Overall(
        metric,
        tuple(names),
        best,
        tuple(
            OverTasks(name, means[name], tuple(_beside(names, own, each, values[each]) for each in others[name]))
            for name, own in values.items()
        ),
    )


def _counts(table: TaskTable, members: Sequence[str], metric: str | None) -> bool:
    """Whether a task can be averaged with others: its main metric is from 0 to 1, or members have nats a byte of it."""
    values = [table.values(name, metric) for name in members]
    if metric is None:
        return all(its for its in values) and all(0 <= value <= 1 for its in values for value in its.values())
    return bool(set.intersection(*map(set, values))) if values else False


def _values(
    systems: Sequence[SystemFacts], tables: Sequence[TaskTable], members: Sequence[str], metric: str | None
) -> dict[str, list[Values]]:
    """By system and task, the values of systems that were asked what the members were.

    By nats a byte, on the questions that all members answered; a system that failed at one of these has no place.
    """
    asked = [set(table.values(members[0])) for table in tables]
    alike = [each.name for each in systems if [set(table.values(each.name)) for table in tables] == asked]
    found: dict[str, list[Values]] = {}
    shared = [set.intersection(*(set(table.values(name, metric)) for name in members)) for table in tables]
    for name in alike:
        its = [table.values(name, metric) for table in tables]
        if all(questions <= set(own) for questions, own in zip(shared, its, strict=True)):
            found[name] = [
                {question: value for question, value in own.items() if question in questions}
                for questions, own in zip(shared, its, strict=True)
            ]
    return found


def _beside(tasks: Sequence[str], own: Sequence[Values], member: str, others: Sequence[Values]) -> MemberComparison:
    differences = [
        [value - other[question] for question, value in each.items()] for each, other in zip(own, others, strict=True)
    ]
    compared = {
        task: comparison
        for task, each, other in zip(tasks, own, others, strict=True)
        if (comparison := compare(member, each, other)) is not None
    }
    return MemberComparison(
        member,
        fmean(fmean(each) for each in differences),
        stratified_bootstrap(differences, SEED),
        _corrected(compared),
    )


def _corrected(compared: Mapping[str, Comparison]) -> dict[str, Comparison]:
    """With p after Holm's correction for the number of tasks, where all have one."""
    p_values = [each.p for each in compared.values() if each.p is not None]
    if len(p_values) < len(compared):
        return dict(compared)
    pairs = zip(compared.items(), holm(p_values), strict=True)
    return {task: replace(each, p_holm=p) for (task, each), p in pairs}
