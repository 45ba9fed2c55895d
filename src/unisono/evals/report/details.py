"""The part of the report that goes through the tasks one by one."""

from __future__ import annotations

from collections.abc import Iterator

from unisono.evals.report.document import Block, Column, Heading, Paragraph, Pictures, Row, Table
from unisono.evals.report.records import ENSEMBLE_KIND, Cell, Report, TaskFigures
from unisono.evals.report.words import NONE, chance, mark, measure, milliseconds, percent, points, span

_NAMED = Column("system", numeric=False)
_COMPARED = ("questions", "failed", "%", "95 %", "difference", "95 %", "+ / −", "McNemar p", "p, Holm")
_COST = (
    "pieces",
    "ensembled %",
    "ms a piece",
    "median",
    "ms a question",
    "confidence %",
    "ECE %",
    "ECE adaptive %",
)


def details(report: Report, pictures: Pictures) -> Iterator[Block]:
    """Of each task: its metrics, what they took, and its plots."""
    if not any(task.cells for task in report.tasks):
        return
    yield Heading(2, "Task by task")
    for task in report.tasks:
        yield Heading(3, task.facts.name)
        yield Paragraph(_facts(task))
        if not task.cells:
            continue
        yield _accuracy(report, task)
        if len(task.facts.metrics) > 1:
            yield _further(report, task)
        yield _cost(report, task)
        for kind in ("pareto", "reliability"):
            if picture := pictures.get((kind, task.facts.name)):
                yield picture


def _facts(task: TaskFigures) -> str:
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
    at_once = max((cell.at_once or 1 for cell in task.cells), default=1)
    batched = f" Up to {at_once} questions were answered at once, and share their times." if at_once > 1 else ""
    left = ", ".join(f"{count:,} of {system}" for system, count in task.apart.items())
    apart = f" Answers that were asked for later than the others are left out of the times: {left}." if left else ""
    return f"{', '.join(said)}.{best}{batched}{apart}"


def _accuracy(report: Report, task: TaskFigures) -> Table:
    metric = task.facts.metrics[0] if task.facts.metrics else "main metric"
    return Table(
        f"{task.facts.name}: {metric}, and the difference to {task.best_member or 'the best member'} in points",
        (_NAMED, Column("kind", numeric=False), *map(Column, _COMPARED)),
        tuple(_accuracy_row(report, task, cell, metric) for cell in task.cells),
    )


def _accuracy_row(report: Report, task: TaskFigures, cell: Cell, metric: str) -> Row:
    compared = cell.comparison
    if compared is None:
        beside = ("best" if cell.system == task.best_member else NONE, *(NONE,) * 4)
    else:
        beside = (
            f"{mark(compared)} {points(compared.difference)}" if compared.difference else mark(compared),
            span(compared.interval, signed=True),
            f"{compared.better} / {compared.worse}",
            chance(compared.p),
            chance(compared.p_holm),
        )
    kind = _kind(report, cell)
    own = (f"{cell.questions:,}", f"{cell.failed:,}", measure(cell, metric), span(cell.interval))
    return Row((cell.system, kind, *own, *beside), kind == ENSEMBLE_KIND)


def _further(report: Report, task: TaskFigures) -> Table:
    rows = (
        Row((cell.system, *(measure(cell, metric) for metric in task.facts.metrics[1:])), _is_ensemble(report, cell))
        for cell in task.cells
    )
    heads = (_NAMED, *(Column(metric) for metric in task.facts.metrics[1:]))
    return Table(f"{task.facts.name}: further metrics", heads, tuple(rows))


def _cost(report: Report, task: TaskFigures) -> Table:
    return Table(
        f"{task.facts.name}: what the answers took, and how sure they were",
        (_NAMED, *map(Column, _COST)),
        tuple(_cost_row(report, cell) for cell in task.cells),
    )


def _cost_row(report: Report, cell: Cell) -> Row:
    found = cell.calibration
    return Row(
        (
            cell.system,
            f"{cell.pieces:,}",
            percent(cell.share),
            milliseconds(cell.ms_a_piece),
            milliseconds(cell.median_ms_a_piece),
            milliseconds(cell.ms_a_question),
            percent(cell.confidence),
            percent(found.ece) if found else NONE,
            percent(found.adaptive_ece) if found else NONE,
        ),
        _is_ensemble(report, cell),
    )


def _kind(report: Report, cell: Cell) -> str:
    return next(system.kind for system in report.systems if system.name == cell.system)


def _is_ensemble(report: Report, cell: Cell) -> bool:
    return _kind(report, cell) == ENSEMBLE_KIND
