"""``unisono match``: which models belong together."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unisono.cli.console import loading_report, say, table_console
from unisono.cli.eval import asking, task_names
from unisono.errors import SpecError

if TYPE_CHECKING:
    from rich.table import Table

    from unisono.evals.analysis.match import Matching


USUAL = 50
"""Questions of each task, where nobody says how many."""


def match(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Two models or more, as ensemble files name them: a hub id, a folder, a GGUF file or demo:NAME, "
            "each with a name before it if you like: smol=demo:smollm2-135m-instruct.",
            show_default=False,
        ),
    ],
    tasks: Annotated[str, typer.Option(metavar="NAMES", help="What to ask.", show_default=False)],
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Read questions from JSON lines in this folder.", show_default=False),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, help=f"Questions of each task. Default: {USUAL}, or all that there are.", show_default=False
        ),
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(min=0, help="Examples in each prompt. Default: as usual for the task.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The run's folder: the same command goes on with it. Default: match-NAME-NAME….",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Ask each model alone, and tell of each pair how far apart they are and whether they err together."""
    from unisono.config.ensemble import load_spec
    from unisono.evals import systems as make
    from unisono.evals.analysis.match import match as compare
    from unisono.evals.manifest import make_manifest
    from unisono.evals.model_pool import ModelPool
    from unisono.evals.results import RunFolder, read_results
    from unisono.evals.runner import evaluate
    from unisono.evals.tasks import load_tasks

    members = [_member(word, index) for index, word in enumerate(models)]
    if len(members) < 2:
        raise SpecError("one model alone matches nothing", hint="name two models or more")
    spec = load_spec({"members": members})
    loaded = load_tasks(task_names(tasks), data=data, limit=limit or USUAL, fewer=limit is None, shots=shots)
    with loading_report(quiet=quiet) as loading:
        panel = ModelPool.prepare(spec, report=loading)
    systems = make.members(panel)
    about = make_manifest(panel, loaded, systems, [], spec=json.dumps(members), chat=False)
    total = sum(len(task.questions) for task in loaded) * len(systems)
    where = out or Path("-".join(["match", *(member["name"] for member in members)]))
    with RunFolder(where, about) as opened, panel:
        if opened.lacks(loaded, [system.name for system in systems]):
            with loading_report(quiet=quiet) as loading:
                panel.load_weights(loading)
            with asking(where, total, quiet=quiet) as count:
                evaluate(panel, loaded, systems, opened, count=count)
    vocabularies = {member.spec.name: member.vocabulary for member in panel.prepared.members}
    asked = {(task.name, question.id) for task in loaded for question in task.questions}
    found = read_results(where)
    results = replace(found, answers=[each for each in found.answers if (each.task, each.question) in asked])
    matching = compare(results, vocabularies, {task.name: task.metrics[0] for task in loaded})
    if as_json:
        print(json.dumps(matching.to_json(), indent=2, ensure_ascii=False))
    else:
        _show(matching)
    if not quiet:
        say("gap and overlap are hints: `unisono eval --compare` tells whether a pair is better than its best member")


def _member(word: str, index: int) -> dict[str, str]:
    """A member of its own name, or of one that its model suggests."""
    name, equals, model = word.partition("=")
    if not equals:
        base = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(word.removeprefix("demo:")).name.removesuffix(".gguf")).strip(
            "-._"
        )
        name, model = base or f"model{index + 1}", word
    return {"name": name, "model": model}


def _show(matching: Matching) -> None:
    console = table_console()
    for table in _tables(matching):
        console.print(table)
        console.print()


def _tables(matching: Matching) -> list[Table]:
    from rich.table import Table

    alone = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("model", "right", "characters"):
        alone.add_column(title, justify="left" if title == "model" else "right")
    for each in matching.models:
        alone.add_row(each.name, f"{each.accuracy:.1%}", "" if each.characters is None else f"{each.characters:.0f}")
    pairs = Table(box=None, pad_edge=False, header_style="bold")
    titles = ("pair", "gap", "both wrong", "one right", "error kappa", "same mistake", "length ratio", "shared pieces")
    for title in (*titles, "UniTE's advice"):
        pairs.add_column(title, justify="left" if title == "pair" else "right")
    for pair in matching.pairs:
        optional = (pair.error_agreement, pair.same_mistake, pair.length_ratio)
        kappa, same, ratio = ("" if value is None else f"{value:.2f}" for value in optional)
        pairs.add_row(
            f"{pair.first} + {pair.second}",
            f"{pair.gap:.1%}",
            f"{pair.both_wrong:.0%}",
            f"{pair.one_right:.0%}",
            kappa,
            same,
            ratio,
            f"{pair.vocabulary_overlap:.0%}",
            "join" if pair.fits_unite else "keep apart",
        )
    return [alone, pairs]
