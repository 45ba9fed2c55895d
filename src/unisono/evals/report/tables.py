"""The tables of a report, as plain text; the templates escape it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from string import ascii_uppercase
from typing import Any, NamedTuple

from unisono.evals.records import Answer
from unisono.evals.report.phrases import (
    EQUAL,
    NONE,
    as_measured,
    chance,
    cut,
    mark,
    measure,
    milliseconds,
    percent,
    points,
    span,
)
from unisono.evals.report.records import (
    BASELINE,
    ENSEMBLE_KIND,
    RIGHT,
    Cell,
    Example,
    Report,
    SystemFacts,
    TaskFigures,
    as_plain,
)

MOST_STEPS = 16
"""Steps of disagreement shown of one answer."""
MOST_FAILURES = 20


class Column(NamedTuple):
    """A column; numbers are set flush right."""

    title: str
    numeric: bool = True


class Row(NamedTuple):
    """A row; its first cell is its head, and the strong row is the one to look at."""

    cells: tuple[str, ...]
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table; each row has a cell for each column."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        """Check that rows and columns fit."""
        for row in self.rows:
            assert len(row.cells) == len(self.columns), (self.caption, row)


def _words(*titles: str) -> tuple[Column, ...]:
    return tuple(Column(title, numeric=False) for title in titles)


def _numbers(*titles: str) -> tuple[Column, ...]:
    return tuple(map(Column, titles))


def overview(report: Report) -> Table:
    """The main metric of every system on every task."""
    titles = [f"{task.facts.name} ({task.facts.main or NONE})" for task in report.tasks]
    mean = _numbers("mean") if len(titles) > 1 else ()
    return Table(
        "The main metric of each task in %, and the difference to the best member of the task in points",
        (*_words("system", "kind"), *_numbers(*titles), *mean),
        tuple(_overview_row(report, system, bool(mean)) for system in report.systems),
    )


def _overview_row(report: Report, system: SystemFacts, has_mean: bool) -> Row:
    cells = [(task, task.cell(system.name)) for task in report.tasks]
    means = [
        cell.accuracy
        for task, cell in cells
        if cell is not None and cell.accuracy is not None and cell.interval and not task.is_partial(cell)
    ]
    mean = percent(fmean(means)) if means and len(means) == len(cells) else NONE
    shown = [_main_metric(task, cell) for task, cell in cells]
    return Row((system.name, system.kind, *shown, *([mean] if has_mean else [])), system.kind == ENSEMBLE_KIND)


def _main_metric(task: TaskFigures, cell: Cell | None) -> str:
    if cell is None or cell.accuracy is None:
        return NONE
    value = measure(cell, task.facts.main) + (f" of {cell.questions}" if task.is_partial(cell) else "")
    if compared := cell.comparison:
        return f"{value} {mark(compared)} {points(compared.difference)}" if compared.difference else f"{value} {EQUAL}"
    return f"{value} best" if task.best_member == cell.system else value


def accuracy(report: Report, task: TaskFigures) -> Table:
    """The main metric of a task, with the comparison to its best member."""
    metric = task.facts.main or "main metric"
    titles = ("questions", "failed", "%", "95 %", "difference", "95 %", "+ / −", "McNemar p", "p, Holm")
    rows = []
    for cell in task.cells:
        compared, kind = cell.comparison, report.kind_of(cell.system)
        beside = ("best" if cell.system == task.best_member else NONE, *(NONE,) * 4)
        if compared is not None:
            beside = (
                f"{mark(compared)} {points(compared.difference)}" if compared.difference else mark(compared),
                span(compared.interval, signed=True),
                f"{compared.better} / {compared.worse}",
                chance(compared.p),
                chance(compared.p_holm),
            )
        own = (f"{cell.questions:,}", f"{cell.failed:,}", measure(cell, metric), span(cell.interval))
        rows.append(Row((cell.system, kind, *own, *beside), kind == ENSEMBLE_KIND))
    best = task.best_member or "the best member"
    caption = f"{task.facts.name}: {metric}, and the difference to {best} in points"
    return Table(caption, (*_words("system", "kind"), *_numbers(*titles)), tuple(rows))


def further(report: Report, task: TaskFigures) -> Table:
    """The other metrics of a task."""
    metrics = task.facts.metrics[1:]
    rows = [_row(report, cell, *(measure(cell, metric) for metric in metrics)) for cell in task.cells]
    return Table(f"{task.facts.name}: further metrics", (*_words("system"), *_numbers(*metrics)), tuple(rows))


def cost(report: Report, task: TaskFigures) -> Table:
    """Pieces, times and confidence on a task."""
    titles = ("pieces", "ensembled %", "ms a piece", "median", "ms a question", "confidence %")
    rows = [
        _row(
            report,
            cell,
            f"{cell.pieces:,}",
            percent(cell.share),
            milliseconds(cell.ms_a_piece),
            milliseconds(cell.median_ms_a_piece),
            milliseconds(cell.ms_a_question),
            percent(cell.confidence),
            percent(cell.calibration.ece if cell.calibration else None),
            percent(cell.calibration.adaptive_ece if cell.calibration else None),
        )
        for cell in task.cells
    ]
    columns = (*_words("system"), *_numbers(*titles, "ECE %", "ECE adaptive %"))
    return Table(f"{task.facts.name}: what the answers took, and how sure they were", columns, tuple(rows))


def _row(report: Report, cell: Cell, *cells: str) -> Row:
    return Row((cell.system, *cells), report.kind_of(cell.system) == ENSEMBLE_KIND)


def baselines(report: Report) -> Table:
    """Each baseline on each task, and the ensemble on the same questions."""
    rows = []
    for system in report.of_kind(BASELINE):
        for task in report.tasks:
            cell, compared = task.cell(system.name), dict(task.against_baselines).get(system.name)
            if cell is None:
                continue
            beside = (NONE,) * 4
            if compared is not None:
                beside = (
                    as_measured(cell, compared.mean),
                    f"{mark(compared)} {points(compared.difference)}",
                    span(compared.interval, signed=True),
                    chance(compared.p),
                )
            rows.append(
                Row((system.name, task.facts.name, measure(cell, task.facts.main), span(cell.interval), *beside))
            )
    titles = ("accuracy %", "95 %", "ensemble %", "ensemble less this", "95 %", "McNemar p")
    columns = (*_words("baseline", "task"), *_numbers(*titles))
    return Table("Each baseline, and the ensemble on the same questions", columns, tuple(rows))


def answers(example: Example, ensemble: str) -> Table:
    """What every system answered to one question."""
    rows = []
    for answer in example.answers:
        value = example.values.get(answer.system)
        outcome = NONE if value is None else "right" if value > RIGHT else "wrong"
        said = cut(answer.error or answer.answer, 120, 40) or NONE
        cells = (answer.system, outcome if answer.error is None else "failed", said)
        rows.append(Row(cells, answer.system == ensemble))
    return Table("The answers", _words("system", "", "answer"), tuple(rows))


def choices(example: Example, ensemble: str) -> Table:
    """The probability that every system gives to each choice."""
    scored = [answer for answer in example.answers if answer.choices]
    count = max(len(answer.choices) for answer in scored)
    names = [ascii_uppercase[place] if place < len(ascii_uppercase) else str(place + 1) for place in range(count)]
    for place, choice in enumerate(example.choices[:count]):
        names[place] += f": {cut(choice.strip(), 60, 0)}"
    rows = [Row((each.system, *_probabilities(each.choices, count)), each.system == ensemble) for each in scored]
    return Table("Probability of each choice among them, in %", (*_words("system"), *_numbers(*names)), tuple(rows))


def _probabilities(logps: Sequence[float], count: int) -> list[str]:
    top = max(logps)
    if not math.isfinite(top):
        return [NONE] * count
    odds = [math.exp(logp - top) for logp in logps]
    return [percent(each / sum(odds)) for each in odds] + [NONE] * (count - len(logps))


def disagreements(answer: Answer) -> Table:
    """The first steps of a text at which the voters preferred different pieces."""
    steps = answer.disputes[:MOST_STEPS]
    voters = list(dict.fromkeys(name for step in steps for name in step.members))
    rows = []
    for step in steps:
        votes = (step.members.get(name) for name in voters)
        cells = (NONE if vote is None else f"{_piece(vote[0])} {percent(vote[1])}" for vote in votes)
        rows.append(Row((str(step.position), f"{_piece(step.piece)} {percent(step.p)}", *cells)))
    return Table(
        "Steps at which voters did not agree: what was written, what each found likeliest, and its probability in %",
        (*_numbers("step"), *_words("written", *voters)),
        tuple(rows),
    )


def _piece(piece: str) -> str:
    return f"“{cut(piece, 40, 0)}”" if piece else "END"


def failures(report: Report) -> Table:
    """The most frequent errors, task by task."""
    found = [Row((task.facts.name, error[:400], str(n))) for task in report.tasks for error, n in task.failures.items()]
    columns = (*_words("task", "system and error"), *_numbers("answers"))
    return Table("Questions without an answer, which count as wrong", columns, tuple(found[:MOST_FAILURES]))


def facts(title: str, values: Mapping[str, Any]) -> Table:
    """A mapping, as a table without heads."""
    rows = []
    for name, value in values.items():
        several = isinstance(value, Mapping)
        said = ", ".join(f"{key}: {plain(own)}" for key, own in value.items()) if several else plain(value)
        rows.append(Row((str(name), said)))
    return Table(title, _words("", ""), tuple(rows))


def has_systems(report: Report) -> bool:
    """Whether the run says more of its systems than their names."""
    return any(system.method or system.members or system.source for system in report.systems)


def systems(report: Report) -> Table:
    """All systems with their members, weights and methods."""
    rows = []
    for system in report.systems:
        weights = ", ".join(f"{name}: {weight:g}" for name, weight in (system.weights or {}).items())
        # A method without what is off.
        method = {key: _set(value) for key, value in (system.method or {}).items() if value is not None}
        cells = (", ".join(system.members), weights, plain(method) if system.method else "", system.source)
        rows.append(Row((system.name, system.kind, *(cell or NONE for cell in cells))))
    return Table("The systems", _words("system", "kind", "members", "weights", "method", "source"), tuple(rows))


def _set(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {key: own for key, own in value.items() if own is not None and own is not False and own != {}}


def tasks(report: Report) -> Table:
    """All tasks with their questions, versions and sources."""
    rows = []
    for task in report.tasks:
        own = task.facts
        shots = NONE if own.shots is None else str(own.shots)
        said = (own.version or NONE, own.source or NONE, ", ".join(own.metrics) or NONE)
        rows.append(Row((own.name, f"{len(own.questions):,}", shots, *said)))
    columns = (*_words("task"), *_numbers("questions", "shots"), *_words("version", "source", "metrics"))
    return Table("The tasks", columns, tuple(rows))


def plain(value: Any, indent: int | None = None) -> str:
    """A text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(as_plain(value), ensure_ascii=False, indent=indent)
