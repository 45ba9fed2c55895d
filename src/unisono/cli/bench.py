"""``unisono bench``: the ensemble's speed beside its members'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unisono.cli.console import counting, loading_report

if TYPE_CHECKING:
    from unisono.benchmark import Benchmark, Figure


def bench(
    spec: Annotated[Path, typer.Argument(help="The ensemble file.", show_default=False)],
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each member and of the ensemble.")] = 5,
    pieces: Annotated[int, typer.Option(min=2, help="Pieces to write in a turn.")] = 48,
    batch: Annotated[int, typer.Option(min=1, help="Texts written at once.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Time each member alone and the ensemble, in turn, through the same loaded models."""
    from unisono.benchmark import measure
    from unisono.build import prepare
    from unisono.spec import load_spec

    with loading_report(quiet=quiet) as report:
        prepared = prepare(load_spec(spec), batch=batch, report=report)
    turns = (rounds + 1) * (len(prepared.members) + 1)
    with counting(turns, quiet=quiet) as count:
        benchmark = measure(prepared, rounds=rounds, pieces=pieces, batch=batch, count=count)
    if as_json:
        print(json.dumps(benchmark.to_json(), indent=2))
    else:
        _show(benchmark)


def _show(benchmark: Benchmark) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for title in ("ms a piece", "forward", "everything else"):
        table.add_column(title, justify="right")
    for system in benchmark.systems:
        table.add_row(system.name, _words(system.step), _words(system.forward), _words(system.rest))
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print(
        f"\nensemble ÷ sum of its members: {benchmark.ratio:.3f} "
        f"({benchmark.ratio_low:.3f} to {benchmark.ratio_high:.3f} in {benchmark.rounds} rounds); "
        f"÷ sum of their bare forward passes: {benchmark.ratio_to_forward:.3f}"
    )


def _words(figure: Figure) -> str:
    return f"{figure.median:.2f} ({figure.low:.2f} to {figure.high:.2f})"
