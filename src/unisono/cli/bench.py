"""``unisono bench``: the ensemble's speed beside its members'."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from unisono.cli.console import counting, loading_report, print_table, table_console
from unisono.cli.flags import Json, Quiet, optional, renamed_flag, takes_flags, verb_app
from unisono.cli.method import method_words
from unisono.cli.spec_flags import EnsembleOrMembers
from unisono.config.setting import parse_setting
from unisono.errors import SpecError

if TYPE_CHECKING:
    from unisono.benchmark_figures import Benchmark, Figure, SystemFigures

COLUMNS = ("ms a piece", "forward", "everything else")
COMPARED = ("speed", "ensembled", "a draft", "accepted", "same text")


@dataclass(kw_only=True)
class BenchFlags(EnsembleOrMembers):
    rounds: Annotated[int, typer.Option(min=1, help="Give each member and the ensemble this many turns.")] = 5
    pieces: Annotated[int, typer.Option(min=2, help="Write this many pieces in a turn.")] = 48
    batch: Annotated[int, typer.Option(min=1, help="Texts to write at once.")] = 1
    variant: Annotated[
        list[str] | None,
        optional(
            metavar="SETTING",
            help="Time another setting beside the file's: 'gate=confidence:0.5 sampling=0.7,top_p:0.9'. Keys: lead, "
            "combine, gate, boundary, speculate, max_pieces, sampling, vocabulary. May be given several times.",
        ),
    ] = None
    compare: Annotated[list[str] | None, typer.Option("--compare", hidden=True)] = None
    as_json: Json = False
    quiet: Quiet = False


@takes_flags
def bench(flags: BenchFlags) -> None:
    """Time the ensemble, each member alone and other settings, in turns, with the same loaded models."""
    from unisono.benchmark import measure
    from unisono.benchmark_figures import Setting
    from unisono.build import prepare

    checked = flags.given().spec
    variants = renamed_flag(flags.variant, flags.compare, "--variant", "--compare") or ()
    if not all(text.strip() for text in variants):
        raise SpecError(
            "a --variant is empty", hint="the file's own setting is timed anyway; name what differs from it"
        )
    settings = [Setting(text, checked.but(**parse_setting(text)).method) for text in variants]
    with loading_report(quiet=flags.quiet) as report:
        widest = max(method.slots for method in (checked.method, *(each.method for each in settings)))
        room = -(-flags.batch * widest // checked.method.slots)  # preparing counts what the file's own texts take
        prepared = prepare(checked.measured(), batch=room, report=report)
    turns = (flags.rounds + 1) * (len(prepared.members) + 1 + len(settings))
    with counting(turns, quiet=flags.quiet) as count:
        benchmark = measure(
            prepared, rounds=flags.rounds, pieces=flags.pieces, batch=flags.batch, compare=settings, count=count
        )
    if flags.as_json:
        print(json.dumps({**benchmark.to_json(), "method": checked.method.to_json()}, indent=2))
    else:
        _show(benchmark, method_words(checked.method, {member.name: weight for member, weight in checked.voters()}))


app = verb_app(bench)


def _show(benchmark: Benchmark, method: str) -> None:
    console = table_console()
    compared = benchmark.systems[-1].name != "ensemble" or any(
        system.ensembled < 1 or system.block for system in benchmark.systems
    )
    titles = COLUMNS + COMPARED if compared else COLUMNS
    print_table(console, ("", *titles), [_row(system, benchmark, compared) for system in benchmark.systems])
    if method:
        console.print(f"ensemble: {method}")
    for system in benchmark.systems:
        if system.ensembled < 1:
            console.print(f"{system.name} ÷ {_parts(system)}: {_words(system.to_parts, benchmark)}")
    spread = "in 1 round"
    if benchmark.rounds > 1:
        spread = f"{benchmark.ratio_low:.3f} to {benchmark.ratio_high:.3f} in {benchmark.rounds} rounds"
    console.print(
        f"ensemble ÷ sum of its members: {benchmark.ratio:.3f} ({spread}); "
        f"÷ sum of their bare forward passes: {benchmark.ratio_to_forward:.3f}"
    )


def _parts(system: SystemFigures) -> str:
    if system.one_member:
        return "(what its members take, each as often as it is drawn)"
    if system.asked is not None:
        shares = ", ".join(f"{share:.0%} of {name}'s" for name, share in system.asked.items())
        return f"(its members' time, each as often as it was asked: {shares})"
    return f"(its lead + {system.ensembled:.0%} of the others' time)"


def _row(system: SystemFigures, benchmark: Benchmark, compared: bool) -> list[str]:
    cells = [system.name, _words(system.step, benchmark), f"{system.forward.median:.2f}", f"{system.rest.median:.2f}"]
    if compared:
        cells += [f"{system.speedup.median:.2f}x", f"{system.ensembled:.0%}"]
        cells += [f"{system.block:.1f}", f"{system.accepted:.0%}"] if system.block else ["", ""]
        cells.append("" if system.same_text is None else f"{system.same_text:.0%}")
    return cells


def _words(figure: Figure, benchmark: Benchmark) -> str:
    if benchmark.rounds == 1:
        return f"{figure.median:.2f}"
    return f"{figure.median:.2f} ({figure.low:.2f} to {figure.high:.2f})"
