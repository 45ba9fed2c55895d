"""The answers of a run as a table, what a system did on a task, and how it compares with another there."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import TypeVar

from unisono.errors import SpecError
from unisono.evals.analysis.statistics import SEED, Calibration, calibration, holm, mcnemar, paired_bootstrap, wilson
from unisono.evals.records import Answer, Results, Times
from unisono.evals.report.records import Cell, Comparison, TaskFacts

Values = Mapping[str, float]
"""By question, what an answer is worth."""
Record = TypeVar("Record", Answer, Times)
Key = tuple[str, str]
"""A task and a system."""


@dataclass(frozen=True, slots=True)
class ResultTable:
    """Answers and times; questions stand in the order of their task."""

    answers: Mapping[Key, Mapping[str, Answer]]
    times: Mapping[Key, Mapping[str, Times]]
    """Those that were taken side by side."""
    apart: Mapping[Key, int]
    """How many others there were."""

    def of(self, task: str, system: str) -> Mapping[str, Answer]:
        """By question, what a system answered."""
        return self.answers.get((task, system), {})

    def timed(self, task: str, system: str) -> Mapping[str, Times]:
        """By question, how long that took."""
        return self.times.get((task, system), {})

    def values(self, task: str, system: str, metric: str) -> dict[str, float]:
        """By question, what a system's answer is worth: 0 where it failed; left out where the metric was not taken."""
        return {
            question: 0.0 if answer.error is not None else answer.metrics[metric]
            for question, answer in self.of(task, system).items()
            if answer.error is not None or metric in answer.metrics
        }


def read_table(results: Results, tasks: Sequence[TaskFacts]) -> ResultTable:
    """Lay the answers of a run out.

    Of several times of one answer the last is taken: a run that was killed between the two writes both anew. Times of a
    question that were not taken in one wave with its first are left out: the machine may have been another one then.

    Raises:
        SpecError: a question is answered twice by one system.
    """
    answers: dict[Key, dict[str, Answer]] = {}
    for answer in results.answers:
        own = answers.setdefault((answer.task, answer.system), {})
        if answer.question in own:
            raise SpecError(
                f"{answer.system} answers the question {answer.question!r} of {answer.task} twice",
                hint="one folder holds one run; report on each alone",
            )
        own[answer.question] = answer
    times: dict[Key, dict[str, Times]] = {}
    for each in results.times:
        times.setdefault((each.task, each.system), {})[each.question] = each
    first: dict[Key, int] = {}
    for each in itertools.chain.from_iterable(own.values() for own in times.values()):
        first[each.task, each.question] = min(each.wave, first.get((each.task, each.question), each.wave))
    together = {
        key: {question: each for question, each in own.items() if each.wave == first[each.task, question]}
        for key, own in times.items()
    }
    apart = {key: len(own) - len(together[key]) for key, own in times.items()}
    places = {task.name: {question: place for place, question in enumerate(task.questions)} for task in tasks}

    def in_order(by_question: dict[str, Record], task: str) -> dict[str, Record]:
        place = places.get(task, {})
        return dict(sorted(by_question.items(), key=lambda item: (place.get(item[0], len(place)), item[0])))

    return ResultTable(
        {key: in_order(own, key[0]) for key, own in answers.items()},
        {key: in_order(own, key[0]) for key, own in together.items()},
        apart,
    )


def cell_of(table: ResultTable, task: TaskFacts, system: str, *, votes: bool) -> Cell | None:
    """A system on a task, without comparison; ``None`` where it was asked nothing.

    Args:
        table: all answers.
        task: the task.
        system: its name.
        votes: whether it writes as several members vote.
    """
    answers = list(table.of(task.name, system).values())
    if not answers:
        return None
    values = {metric: table.values(task.name, system, metric).values() for metric in task.metrics}
    means = {metric: fmean(own) for metric, own in values.items() if own}
    main = task.metrics[0] if task.metrics else ""
    accuracy, pieces = means.get(main), sum(answer.pieces for answer in answers)
    is_share = accuracy is not None and all(0 <= value <= 1 for value in values[main])
    sure = [answer.confidence for answer in answers if _has_confidence(answer)]
    return Cell(
        task.name,
        system,
        len(answers),
        sum(answer.error is not None for answer in answers),
        means,
        accuracy,
        wilson(accuracy, len(values[main])) if accuracy is not None and is_share else None,
        pieces,
        sum(answer.ensembled for answer in answers) / pieces if pieces and votes else None,
        *_speed(list(table.timed(task.name, system).values())),
        fmean(sure) if sure else None,
        _calibration(answers, main) if is_share else None,
    )


def compare(other: str, own: Values, others: Values) -> Comparison | None:
    """Compare a system's values with another's on the questions of both; ``None`` where there are none."""
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
    """The member of the highest mean on the questions that all have, the first of equals, and how many those are."""
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
    """Cells of one task with Holm's correction over their comparisons."""
    tested = [cell.comparison.p for cell in cells if cell.comparison and cell.comparison.p is not None]
    p_values = iter(holm(tested))
    return tuple(
        replace(cell, comparison=replace(cell.comparison, p_holm=next(p_values)))
        if cell.comparison and cell.comparison.p is not None
        else cell
        for cell in cells
    )


def _speed(times: Sequence[Times]) -> tuple[float | None, float | None, float | None, int | None]:
    """Tell ms a piece, its median over questions, ms a question, and how many were answered at once."""
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

    That of choices is of the likeliest one, which is what ``acc`` grades; a main metric such as ``acc_norm`` may grade
    another.
    """
    pairs = []
    for answer in answers:
        metric = "acc" if answer.choices and "acc" in answer.metrics else main
        if _has_confidence(answer) and 0 <= answer.metrics.get(metric, -1) <= 1:
            pairs.append((answer.confidence, answer.metrics[metric]))
    return calibration([sure for sure, _ in pairs], [right for _, right in pairs]) if pairs else None
