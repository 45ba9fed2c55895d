"""The answers to a task as a table, a system's results on it, and comparisons between systems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from unisono.errors import SpecError
from unisono.evals.analysis.statistics import SEED, Calibration, calibration, holm, mcnemar, wilson
from unisono.evals.records import NATS, Answer, Results, Times
from unisono.evals.report.records import Cell, Comparison, SystemFacts, TaskFacts
from unisono.fusion.resampling import paired_bootstrap

Values = Mapping[str, float]
"""The value of an answer, by question."""


@dataclass(frozen=True, slots=True)
class TaskTable:
    """The answers to one task, by system and by question, in the order of the task."""

    facts: TaskFacts
    answers: Mapping[str, Mapping[str, Answer]]
    times: Mapping[str, Mapping[str, Times]]
    """Only times taken in one wave with the other systems'."""
    apart: Mapping[str, int]
    """By system, the number of times from other waves."""

    def values(self, system: str, metric: str | None = None) -> dict[str, float]:
        """The value of each answer by a metric, usually the main one; absent where it was not taken.

        A failure is worth 0, where more is better; by nats a byte it has no worth.
        """
        metric = self.facts.main if metric is None else metric
        failed = {} if metric == NATS else {metric: 0.0}
        found = (
            (question, (failed if answer.error is not None else answer.metrics).get(metric))
            for question, answer in self.answers.get(system, {}).items()
        )
        return {question: value for question, value in found if value is not None}


def read_table(results: Results, task: TaskFacts) -> TaskTable:
    """Collect the answers to a task. Raises a `SpecError` when a system answers a question twice.

    Of several times for one answer the last counts: a run killed between the two writes records both again. Times from
    another wave than the question's first are left out: the machine may have been a different one.
    """
    places = {question: place for place, question in enumerate(task.questions)}

    def order(each: Answer | Times) -> tuple[int, str]:
        return places.get(each.question, len(places)), each.question

    answers: dict[str, dict[str, Answer]] = {}
    for answer in sorted((each for each in results.answers if each.task == task.name), key=order):
        own = answers.setdefault(answer.system, {})
        if answer.question in own:
            raise SpecError(
                f"{answer.system} answers the question {answer.question!r} of {answer.task} twice",
                hint="one folder holds one run; report on each alone",
            )
        own[answer.question] = answer
    latest = {(each.system, each.question): each for each in results.times if each.task == task.name}
    first: dict[str, int] = {}
    for each in latest.values():
        first[each.question] = min(each.wave, first.get(each.question, each.wave))
    times: dict[str, dict[str, Times]] = {}
    for each in sorted(latest.values(), key=order):
        if each.wave == first[each.question]:
            times.setdefault(each.system, {})[each.question] = each
    counts = Counter(system for system, _ in latest)
    apart = {system: count - len(times.get(system, {})) for system, count in counts.items()}
    return TaskTable(task, answers, times, apart)


def cell_of(table: TaskTable, system: SystemFacts) -> Cell | None:
    """A system on a task, without comparison; ``None`` when it was asked nothing."""
    answers = list(table.answers.get(system.name, {}).values())
    if not answers:
        return None
    task = table.facts
    values = {metric: table.values(system.name, metric).values() for metric in task.metrics}
    means = {metric: fmean(own) for metric, own in values.items() if own}
    accuracy, pieces = means.get(task.main), sum(answer.pieces for answer in answers)
    is_share = accuracy is not None and all(0 <= value <= 1 for value in values[task.main])
    sure = [answer for answer in answers if _has_confidence(answer)]
    is_bounded = any(answer.at_most and answer.sure is None for answer in sure)
    return Cell(
        task.name,
        system.name,
        len(answers),
        sum(answer.error is not None for answer in answers),
        means,
        accuracy,
        wilson(accuracy, len(values[task.main])) if accuracy is not None and is_share else None,
        pieces,
        sum(answer.ensembled for answer in answers) / pieces if pieces and system.votes else None,
        *_speed(list(table.times.get(system.name, {}).values())),
        fmean(answer.confidence for answer in sure) if sure else None,
        _calibration(answers, task.main) if is_share and not is_bounded else None,
        confidence_most=fmean(answer.confidence_most for answer in sure) if is_bounded else None,
    )


def compare(other: str, own: Values, others: Values) -> Comparison | None:
    """Compare two systems on the questions of both; ``None`` when there are none."""
    pairs = [(value, others[question]) for question, value in own.items() if question in others]
    if not pairs:
        return None
    differences = [value - other_value for value, other_value in pairs]
    better, worse = sum(each > 0 for each in differences), sum(each < 0 for each in differences)
    right_or_wrong = all(value in (0, 1) for pair in pairs for value in pair)
    return Comparison(
        other,
        len(pairs),
        fmean(value for value, _ in pairs),
        fmean(differences),
        paired_bootstrap(differences, SEED),
        better,
        worse,
        mcnemar(better, worse) if right_or_wrong else None,
    )


def best_of(members: Mapping[str, Values]) -> tuple[str | None, int]:
    """The member with the highest mean on the questions shared by all, the first of equals, and the number of those."""
    members = {name: values for name, values in members.items() if values}
    if not members:
        return None, 0
    shared = set.intersection(*(set(values) for values in members.values()))
    # Where they have no question in common, each is taken by its own.
    means = {
        name: fmean(values[question] for question in values if not shared or question in shared)
        for name, values in members.items()
    }
    return max(means, key=lambda name: means[name]), len(shared)


def corrected(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    tested = [cell.comparison.p for cell in cells if cell.comparison and cell.comparison.p is not None]
    p_values = iter(holm(tested))
    return tuple(
        replace(cell, comparison=replace(cell.comparison, p_holm=next(p_values)))
        if cell.comparison and cell.comparison.p is not None
        else cell
        for cell in cells
    )


def _speed(times: Sequence[Times]) -> tuple[float | None, float | None, float | None, int | None]:
    """Median ms per piece over questions, ms per question, and the number of concurrent questions."""
    if not times:
        return None, None, None, None
    pieces = sum(each.pieces for each in times)
    return (
        1000 * sum(each.writing for each in times) / pieces if pieces else None,
        median(1000 * each.writing / each.pieces for each in times if each.pieces) if pieces else None,
        1000 * fmean(each.seconds for each in times),
        max(each.at_once for each in times),
    )


def _has_confidence(answer: Answer) -> bool:
    return answer.error is None and (answer.sure is not None or bool(answer.choices or answer.p))


def _calibration(answers: Sequence[Answer], main: str) -> Calibration | None:
    """The calibration of answers that carry a confidence.

    For choices it refers to the likeliest one, which ``acc`` grades; a main metric such as ``acc_norm`` may grade
    another.
    """
    pairs = []
    for answer in answers:
        metric = "acc" if answer.choices and "acc" in answer.metrics else main
        if _has_confidence(answer) and 0 <= answer.metrics.get(metric, -1) <= 1:
            pairs.append((answer.confidence, answer.metrics[metric]))
    return calibration([sure for sure, _ in pairs], [right for _, right in pairs]) if pairs else None
