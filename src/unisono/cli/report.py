"""``unisono report``: what an evaluation found, from its folder alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unisono.cli.console import say, table_console

if TYPE_CHECKING:
    from rich.table import Table

    from unisono.evals.records import Results
    from unisono.evals.report.records import Report, TaskFigures


def report(
    run: Annotated[Path, typer.Argument(help="The folder of a run: --out of unisono eval.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write a report: HTML, Markdown and JSON.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not say where the report is.")] = False,
) -> None:
    """Tell again what `unisono eval` found, finished or not: no model is loaded, and no data set is read."""
    from unisono.evals.baselines.decide import decide_all
    from unisono.evals.report import check_report
    from unisono.evals.results import read_results

    if out is not None:
        check_report(out, option="--out")
    tell(decide_all(read_results(run)), out, as_json=as_json, quiet=quiet)


def tell(results: Results, out: Path | None, *, as_json: bool, quiet: bool) -> None:
    """Show what was found, and write a report of it where one is wanted."""
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
    console.print(report.headline, markup=False)
    for task in report.tasks:
        console.print()
        console.print(_table(task))


def _table(task: TaskFigures) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    title = f"{task.facts.name} ({task.facts.metrics[0]})" if task.facts.metrics else task.facts.name
    table.add_column(title)
    for name in ("right", "to the best member", "95 %", "McNemar p", "ensembled", "ms a piece", "failed"):
        table.add_column(name, justify="right")
    for cell in task.cells:
        beside, partial = cell.comparison, task.is_partial(cell)
        table.add_row(
            escape(cell.system),
            "" if cell.accuracy is None else f"{cell.accuracy:.1%}" + (f" of {cell.questions}" if partial else ""),
            "" if beside is None else f"{100 * beside.difference:+.1f}",
            "" if beside is None else f"{100 * beside.interval.low:+.1f} to {100 * beside.interval.high:+.1f}",
            "" if beside is None or beside.p is None else f"{beside.p:.3f}",
            "" if cell.share is None else f"{cell.share:.0%}",
            "" if cell.ms_a_piece is None else f"{cell.ms_a_piece:.1f}",
            f"{cell.failed}" if cell.failed else "",
        )
    return table
