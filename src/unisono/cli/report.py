"""``unisono report``: what an evaluation found, from its folder alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unisono.cli.console import print_table, say, table_console
from unisono.cli.flags import Json, verb_app
from unisono.cli.questions import folder_flag

if TYPE_CHECKING:
    from unisono.evals.records import Results
    from unisono.evals.report.records import Cell, Report, TaskFigures

TITLES = ("right", "to the best member", "95 %", "McNemar p", "ensembled", "ms a piece", "failed")
REPORT = folder_flag("Write a report into this folder: HTML, Markdown and JSON.")


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The --out of unisono eval.", show_default=False)],
    out: Annotated[Path | None, REPORT] = None,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not print where the report is.")] = False,
) -> None:
    """Rebuild the report of `unisono eval` from the run's folder, finished or not, without any model."""
    from unisono.evals.baselines.decide import decide_all
    from unisono.evals.report import check_report
    from unisono.evals.results import read_results

    if out is not None:
        check_report(out, option="--out")
    show_results(decide_all(read_results(run)), out, as_json=as_json, quiet=quiet)


app = verb_app(report)


def show_results(results: Results, out: Path | None, *, as_json: bool, quiet: bool) -> None:
    from unisono.evals.report import figures, write_report

    found = figures(results)
    if out is not None:
        write_report(results, out)
        if not quiet:
            say(f"report: {out / 'index.html'}")
    if as_json:
        print(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
    else:
        _show(found)


def _show(report: Report) -> None:
    console = table_console()
    console.print(report.headline)
    for task in report.tasks:
        console.print()
        title = f"{task.facts.name} ({task.facts.main})" if task.facts.metrics else task.facts.name
        print_table(console, (title, *TITLES), [_row(task, cell) for cell in task.cells])


def _row(task: TaskFigures, cell: Cell) -> tuple[str, ...]:
    beside, partial = cell.comparison, f" of {cell.questions}" if task.is_partial(cell) else ""
    return (
        cell.system,
        "" if cell.accuracy is None else f"{cell.accuracy:.1%}{partial}",
        "" if beside is None else f"{100 * beside.difference:+.1f}",
        "" if beside is None else f"{100 * beside.interval.low:+.1f} to {100 * beside.interval.high:+.1f}",
        "" if beside is None or beside.p is None else f"{beside.p:.3f}",
        "" if cell.share is None else f"{cell.share:.0%}",
        "" if cell.ms_a_piece is None else f"{cell.ms_a_piece:.1f}",
        f"{cell.failed}" if cell.failed else "",
    )
