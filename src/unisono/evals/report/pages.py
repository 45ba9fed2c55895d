"""The report as a document: what is said, in which order. The parts about tasks, examples and the run are beside it."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from unisono.evals.report.again import run_again
from unisono.evals.report.details import details
from unisono.evals.report.document import Block, Bullets, Column, Document, Heading, Paragraph, Pictures, Row, Table
from unisono.evals.report.records import BASELINE, ENSEMBLE_KIND, Report, SystemFacts
from unisono.evals.report.shown import shown_examples
from unisono.evals.report.words import (
    BETTER,
    EQUAL,
    NONE,
    SURELY_BETTER,
    SURELY_WORSE,
    WORSE,
    as_measured,
    by_task,
    chance,
    claim,
    mark,
    measure,
    percent,
    points,
    span,
)

TITLE = "Does the ensemble beat its best member?"
MOST_FAILURES = 20

_READING = (
    f"{SURELY_BETTER} surely better than the best member, {SURELY_WORSE} surely worse: the 95 % interval of "
    f"the difference excludes 0, and McNemar’s p is below 0.05. {BETTER} and {WORSE}: better or worse, but not so. "
    f"{EQUAL}: no difference. “Of 60”: asked 60 questions only; the difference is on those."
)
_COUNTED = (
    "Every system is asked the same questions in the same order. Where one failed, its answer counts as wrong and is "
    "in the column “failed”.",
    "The best member of a task is the one that did best on the questions that all members were asked there, the first "
    "of equals. It is chosen by the very answers it is compared with, which favours it a little over the ensemble.",
    "Intervals of a share are Wilson’s (1927), 95 %. Intervals of a difference are from a paired percentile bootstrap "
    "over the questions that both systems were asked, 10,000 resamples, 95 %.",
    "McNemar’s test is exact and two-sided, on the questions that only one of two systems has right: “+ / −” counts "
    "those of the system and those of the best member. Beside it stands p after Holm’s correction for all systems that "
    "are compared on the task.",
    "At 95 %, one difference in twenty looks sure where there is none. The more tasks and systems are compared, the "
    "more such there will be.",
    "The time of a piece is that of writing or scoring, without the prompt, over the pieces; beside it stands the "
    "median over questions. Pieces are those written, or those of all choices that were scored. The share ensembled is "
    "that of the pieces at which all members were asked. The time of a question has the reading of its prompt in it "
    "where nobody had read that before, so it falls on whoever is asked first.",
    "Confidence is, of choices, the softmax of their log-probabilities at the likeliest; of a text, the geometric mean "
    "of its pieces’ probabilities. ECE is the expected calibration error over 15 bins of equal width (Guo et al., "
    "2017), ECE adaptive over 15 bins of equally many answers (Nixon et al., 2019). Where choices were scored, both "
    "hold confidence against acc, which grades the likeliest choice.",
)


def as_document(report: Report, pictures: Pictures) -> Document:
    """The whole report."""
    blocks = [
        *_overview(report, pictures),
        *details(report, pictures),
        *_gates(report, pictures),
        *_whole_answers(report),
        *shown_examples(report),
        *_failures(report),
        Heading(2, "How it was counted"),
        Bullets(_COUNTED),
        *run_again(report),
    ]
    return Document(TITLE, report.headline, blocks)


def _overview(report: Report, pictures: Pictures) -> Iterator[Block]:
    yield Heading(2, "Overview")
    said = [line for system in report.of_kind(ENSEMBLE_KIND) for line in by_task(system.name, report.tasks)]
    if said:
        yield Bullets(tuple(said))
    if picture := pictures.get(("differences", None)):
        yield picture
    if not report.tasks:
        yield Paragraph("No question was asked.")
        return
    columns = [
        Column(f"{task.facts.name} ({task.facts.metrics[0] if task.facts.metrics else NONE})") for task in report.tasks
    ]
    several = len(columns) > 1
    rows = tuple(_overview_row(report, system, several) for system in report.systems)
    yield Table(
        "The main metric of each task in %, and the difference to the best member of the task in points",
        (
            Column("system", numeric=False),
            Column("kind", numeric=False),
            *columns,
            *([Column("mean")] if several else []),
        ),
        rows,
    )
    yield Paragraph(_READING)


def _overview_row(report: Report, system: SystemFacts, several: bool) -> Row:
    cells = [task.cell(system.name) for task in report.tasks]
    shown = []
    for task, cell in zip(report.tasks, cells, strict=True):
        if cell is None or cell.accuracy is None:
            shown.append(NONE)
            continue
        value = measure(cell, task.facts.metrics[0]) + (f" of {cell.questions}" if task.is_partial(cell) else "")
        if compared := cell.comparison:
            shown.append(
                f"{value} {mark(compared)} {points(compared.difference)}" if compared.difference else f"{value} {EQUAL}"
            )
        else:
            shown.append(f"{value} best" if task.best_member == system.name else value)
    means = [
        cell.accuracy
        for task, cell in zip(report.tasks, cells, strict=True)
        if cell is not None and cell.accuracy is not None and cell.interval and not task.is_partial(cell)
    ]
    mean = percent(fmean(means)) if means and len(means) == len(cells) else NONE
    strong = system.kind == ENSEMBLE_KIND
    return Row((system.name, system.kind, *shown, *([mean] if several else [])), strong)


def _gates(report: Report, pictures: Pictures) -> Iterator[Block]:
    swept = [picture for (kind, _), picture in pictures.items() if kind.startswith("gate:")]
    if not any(system.is_gated for system in report.systems):
        return
    yield Heading(2, "Gates: asking the others only where it matters")
    overall_first = sorted(report.gate_claims, key=lambda found: found.task is not None)
    if overall_first:
        yield Bullets(tuple(claim(found) for found in overall_first))
    else:
        yield Paragraph(
            "No system that asks always was asked the same questions, so there is nothing to hold gates against."
        )
    yield from swept


def _whole_answers(report: Report) -> Iterator[Block]:
    baselines = {system.name: system for system in report.of_kind(BASELINE)}
    if not baselines:
        return
    yield Heading(2, "Ensembles at whole answers")
    yield Paragraph(
        "These choose among the members’ finished answers. What the ensemble is worth beyond them is the worth of "
        "voting on every piece."
    )
    columns = ("accuracy %", "95 %", "ensemble %", "ensemble less this", "95 %", "McNemar p")
    heads = (Column("baseline", numeric=False), Column("task", numeric=False), *map(Column, columns))
    rows = []
    for name in baselines:
        for task in report.tasks:
            cell, compared = task.cell(name), dict(task.against_baselines).get(name)
            if cell is None:
                continue
            main = task.facts.metrics[0] if task.facts.metrics else ""
            beside = (
                (
                    as_measured(cell, compared.mean),
                    f"{mark(compared)} {points(compared.difference)}",
                    span(compared.interval, signed=True),
                    chance(compared.p),
                )
                if compared
                else (NONE,) * 4
            )
            rows.append(Row((name, task.facts.name, measure(cell, main), span(cell.interval), *beside)))
    yield Table("Each baseline, and the ensemble on the same questions", heads, tuple(rows))
    sources = tuple(f"{name}: {system.source}" for name, system in baselines.items() if system.source)
    if sources:
        yield Bullets(sources)


def _failures(report: Report) -> Iterator[Block]:
    failures = [(task.facts.name, error, count) for task in report.tasks for error, count in task.failures.items()]
    if not failures:
        return
    yield Heading(2, "What failed")
    rows = [Row((task, error[:400], str(count))) for task, error, count in failures[:MOST_FAILURES]]
    heads = (Column("task", numeric=False), Column("system and error", numeric=False), Column("answers"))
    yield Table("Questions without an answer, which count as wrong", heads, tuple(rows))
    if len(failures) > MOST_FAILURES:
        yield Paragraph(f"{len(failures) - MOST_FAILURES} more are in report.json.")
