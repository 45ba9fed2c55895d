"""What a system did on a task, and how it compares with another there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, median

from unisono.evals.records import Answer, Times
from unisono.evals.report.records import Cell, Comparison, TaskFacts
from unisono.evals.report.sheet import Sheet
from unisono.evals.statistics import SEED, Calibration, calibration, holm, mcnemar, paired_bootstrap, wilson

Values = Mapping[str, float]
"""By question, what an answer is worth."""


def cell_of(sheet: Sheet, task: TaskFacts, system: str, *, votes: bool) -> Cell | None:
    """A system on a task, without comparison; ``None`` where it was asked nothing.

    Args:
        sheet: all answers.
        task: the task.
        system: its name.
        votes: whether it writes as several members vote.
    """
    answers = list(sheet.of(task.name, system).values())
    if not answers:
        return None
    values = {metric: sheet.values(task.name, system, metric).values() for metric in task.metrics}
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
        *_speed(list(sheet.timed(task.name, system).values())),
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
