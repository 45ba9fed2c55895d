"""Phrases of a report: numbers and table cells."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from string import ascii_uppercase
from typing import Any, Literal, NamedTuple

from unisono.evals.records import NATS, Answer, Disagreement
from unisono.evals.report.escaping import cut
from unisono.evals.report.records import (
    RIGHT,
    Cell,
    Comparison,
    Example,
    SystemFacts,
    TaskFigures,
    as_plain,
)
from unisono.fusion.resampling import Interval

NONE = "–"
MINUS = "−"  # the sign, which does not break at the end of a line
SURELY_BETTER, SURELY_WORSE, BETTER, WORSE, EQUAL = "▲", "▼", "△", "▽", "="


def percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.1f}"


def points(difference: float) -> str:
    """A difference of shares in points, signed."""
    rounded = f"{abs(100 * difference):.1f}"
    return ("" if rounded == "0.0" else "+" if difference > 0 else MINUS) + rounded


def span(interval: Interval | None, signed: bool = False) -> str:
    """An interval of shares in percent or, for a difference, in points."""
    if interval is None:
        return NONE
    ends = (points(end) if signed else percent(end) for end in (interval.low, interval.high))
    return " to ".join(ends)


def confidence(cell: Cell) -> str:
    """How sure answers were, or from where to where that may be."""
    if cell.confidence is None or cell.confidence_most is None:
        return percent(cell.confidence)
    return span(Interval(cell.confidence, cell.confidence_most))


def chance(p: float | None) -> str:
    return NONE if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def milliseconds(ms: float | None) -> str:
    """A time with about three digits."""
    return NONE if ms is None else f"{ms:,.0f}" if ms >= 100 else f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}"


def measure(cell: Cell, metric: str) -> str:
    """The mean of a metric: in percent when the main one is a share."""
    mean = cell.metrics.get(metric)
    return NONE if mean is None else f"{mean:.4f}" if metric == NATS else as_measured(cell, mean)


def as_measured(cell: Cell, mean: float) -> str:
    return percent(mean) if cell.interval is not None and 0 <= mean <= 1 else f"{mean:.4g}"


def marked(comparison: Comparison) -> str:
    return f"{mark(comparison)} {points(comparison.difference)}" if comparison.difference else EQUAL


def mark(comparison: Comparison) -> str:
    """A sign for the outcome of a comparison, readable without colour."""
    if comparison.difference == 0:
        return EQUAL
    if comparison.difference > 0:
        return SURELY_BETTER if comparison.is_sure else BETTER
    return SURELY_WORSE if comparison.is_sure else WORSE


class Column(NamedTuple):
    title: str
    kind: Literal["words", "number"]
    """Numbers are aligned right."""


def words(*titles: str) -> list[Column]:
    return [Column(title, "words") for title in titles]


def numbers(*titles: str) -> list[Column]:
    return [Column(title, "number") for title in titles]


def task_title(task: TaskFigures) -> str:
    return f"{task.facts.name} ({task.facts.main or NONE})"


def overview(tasks: Sequence[TaskFigures], system: str) -> list[str]:
    """A system's main metric on every task and, with several tasks, the mean."""
    cells = [(task, task.cell(system)) for task in tasks]
    means = [
        cell.accuracy
        for task, cell in cells
        if cell is not None and cell.accuracy is not None and cell.interval and not task.is_partial(cell)
    ]
    mean = percent(fmean(means)) if means and len(means) == len(cells) else NONE
    return [*(_main_metric(task, cell) for task, cell in cells), *([mean] if len(cells) > 1 else [])]


def _main_metric(task: TaskFigures, cell: Cell | None) -> str:
    if cell is None or cell.accuracy is None:
        return NONE
    value = measure(cell, task.facts.main) + (f" of {cell.questions}" if task.is_partial(cell) else "")
    if cell.comparison:
        return f"{value} {marked(cell.comparison)}"
    return f"{value} best" if task.best_member == cell.system else value


def measures(cell: Cell, metrics: Sequence[str]) -> list[str]:
    return [measure(cell, metric) for metric in metrics]


def beside(task: TaskFigures, cell: Cell) -> tuple[str, ...]:
    compared = cell.comparison
    if compared is None:
        return ("best" if cell.system == task.best_member else NONE, *[NONE] * 4)
    counts = f"{compared.better} / {compared.worse}"
    return marked(compared), span(compared.interval, True), counts, chance(compared.p), chance(compared.p_holm)


def ensemble_beside(task: TaskFigures, cell: Cell) -> tuple[str, ...]:
    compared = dict(task.against_baselines).get(cell.system)
    if compared is None:
        return (NONE,) * 4
    difference = f"{mark(compared)} {points(compared.difference)}"
    return as_measured(cell, compared.mean), difference, span(compared.interval, True), chance(compared.p)


def outcome(example: Example, answer: Answer) -> str:
    value = example.values.get(answer.system)
    return "failed" if answer.error is not None else NONE if value is None else "right" if value > RIGHT else "wrong"


def choice_titles(choices: Sequence[str], count: int) -> list[str]:
    names = [ascii_uppercase[place] if place < len(ascii_uppercase) else str(place + 1) for place in range(count)]
    said = [f": {cut(choice.strip(), 60, 0)}" for choice in choices]
    return [name + text for name, text in itertools.zip_longest(names, said[:count], fillvalue="")]


def probabilities(logps: Sequence[float], count: int) -> list[str]:
    top = max(logps)
    if not math.isfinite(top):
        return [NONE] * count
    odds = [math.exp(logp - top) for logp in logps]
    return [percent(each / sum(odds)) for each in odds] + [NONE] * (count - len(logps))


def voters(steps: Sequence[Disagreement]) -> list[str]:
    return list(dict.fromkeys(name for step in steps for name in step.members))


def votes(step: Disagreement, voters: Sequence[str]) -> list[str]:
    return [vote(step.members[name]) if name in step.members else NONE for name in voters]


def vote(preferred: tuple[str, float]) -> str:
    piece, p = preferred
    return f"{f'“{cut(piece, 40, 0)}”' if piece else 'END'} {percent(p)}"


def weights(system: SystemFacts) -> str:
    return ", ".join(f"{name}: {weight:g}" for name, weight in (system.weights or {}).items())


def method(system: SystemFacts) -> str:
    """How a system writes, without disabled options."""
    given = {key: _set(value) for key, value in (system.method or {}).items() if value is not None}
    return plain(given) if system.method else ""


def _set(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {key: own for key, own in value.items() if own is not None and own is not False and own != {}}


def in_line(value: Any) -> str:
    """A mapping as ``key: value, key: value``, anything else as `plain` writes it."""
    return (
        ", ".join(f"{key}: {plain(own)}" for key, own in value.items()) if isinstance(value, Mapping) else plain(value)
    )


def plain(value: Any, indent: int | None = None) -> str:
    """A text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(as_plain(value), ensure_ascii=False, indent=indent)


def comparisons(system: str, tasks: Sequence[TaskFigures]) -> list[tuple[str, Comparison]]:
    """A system's comparisons with the best member, by task."""
    cells = [task.cell(system) for task in tasks]
    return [(cell.task, cell.comparison) for cell in cells if cell is not None and cell.comparison is not None]
