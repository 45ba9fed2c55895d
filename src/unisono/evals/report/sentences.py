"""Sentences of a report, which state its findings."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from unisono.evals.records import Kind
from unisono.evals.report.phrases import comparisons, milliseconds, percent, points, span
from unisono.evals.report.records import Comparison, GateClaim, SystemFacts, TaskFigures


def headline(systems: Sequence[SystemFacts], tasks: Sequence[TaskFigures]) -> str:
    """Whether the ensemble beats its best member, in one or two sentences."""
    ensemble = next((system.name for system in systems if system.kind == Kind.ENSEMBLE), None)
    if ensemble is None:
        return "No ensemble was asked in this run."
    if not any(system.kind == Kind.MEMBER for system in systems):
        return "No member was asked alone in this run, so the ensemble cannot be compared."
    compared = [comparison for _, comparison in comparisons(ensemble, tasks)]
    if not compared:
        return "The ensemble and its members have no question in common in this run."
    better = [each for each in compared if each.difference > 0]
    worse = [each for each in compared if each.difference < 0]
    equal = len(compared) - len(better) - len(worse)
    if len(compared) == 1:
        which = "its one task" if len(tasks) == 1 else "the one task that both were asked"
        return f"On {which} the ensemble {_outcome(compared[0])}."
    said = [
        f"On {len(better) or 'none'} of {len(compared)} tasks the ensemble is better than its best member"
        f"{_sure(better)}",
        f"on {len(worse) or 'none'} it is worse{_sure(worse)}",
        *([f"on {equal} it is equal"] if equal else []),
    ]
    mean = fmean(each.difference for each in compared)
    return f"{'; '.join(said)}. Over all tasks the difference is {points(mean)} points on average."


def by_task(system: str, tasks: Sequence[TaskFigures]) -> list[str]:
    return [f"{task}: {system} {_outcome(each, each.other)}." for task, each in comparisons(system, tasks)]


def task_facts(task: TaskFigures) -> str:
    facts, asked = task.facts, max((cell.questions for cell in task.cells), default=0)
    said = [f"{asked:,} of {len(facts.questions):,} questions answered"]
    if facts.shots is not None:
        said.append(f"{facts.shots} examples in each prompt")
    if facts.version is not None:
        said.append(f"version {facts.version} of the task in lm-evaluation-harness")
    if facts.source is not None:
        said.append(f"from {facts.source}")
    best = (
        f" Best member: {task.best_member}, by {task.shared:,} questions that all members share."
        if task.best_member
        else ""
    )
    own = (
        f" {facts.own_examples:,} of the questions stand, with their answers, among the examples of their own prompts."
        if facts.own_examples
        else ""
    )
    at_once = max((cell.at_once or 1 for cell in task.cells), default=1)
    batched = f" Up to {at_once} questions were answered at once, and share their times." if at_once > 1 else ""
    left = ", ".join(f"{count:,} of {system}" for system, count in task.apart.items())
    apart = f" Answers that were asked for later than the others are left out of the times: {left}." if left else ""
    return f"{', '.join(said)}.{own}{best}{batched}{apart}"


def claim(found: GateClaim) -> str:
    where = "Over all tasks" if found.task is None else f"On {found.task}"
    if found.system is None:
        tried = "the one gate" if found.gates == 1 else f"each of the {found.gates} gates"
        return f"{where}, {tried} is less accurate than {found.always}, which asks always."
    times = (
        f", and {milliseconds(found.ms_a_piece)} ms per piece instead of {milliseconds(found.ms_always)} ms"
        if found.ms_a_piece is not None and found.ms_always is not None
        else ""
    )
    interval = f", 95 % {span(found.interval, signed=True)}" if found.interval else ""
    return (
        f"{where}, {found.system} is at least as accurate as {found.always}, which asks always "
        f"({points(found.difference or 0)} points{interval}), with all members asked at {percent(found.share)} % of "
        f"the pieces{times}. Gates compared: {found.gates}; of those as accurate, it asks least often."
    )


def _outcome(comparison: Comparison, other: str | None = None) -> str:
    other = "its best member" + (f", {other}" if other else "")
    how = f"{points(comparison.difference)} points, 95 % {span(comparison.interval, signed=True)}"
    if comparison.difference == 0:
        return f"is as good as {other} ({how})"
    relation = "better" if comparison.difference > 0 else "worse"
    if comparison.is_sure:
        return f"is surely {relation} than {other} ({how})"
    return f"is {relation} than {other}, but not surely ({how})"


def _sure(comparisons: Sequence[Comparison]) -> str:
    if not comparisons:
        return ""
    sure = sum(each.is_sure for each in comparisons)
    number = "none" if sure == 0 else "all" if sure == len(comparisons) > 1 else str(sure)
    if len(comparisons) == 1:
        return ", surely" if sure else ", but not surely"
    return f", surely on {number} of them"
