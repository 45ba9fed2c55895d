"""``unisono tune``: the weights, rule, gate and threshold by which an ensemble answers best."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unisono.cli.console import loading_report, say, table_console
from unisono.cli.eval import asking, task_names
from unisono.errors import SpecError

if TYPE_CHECKING:
    from rich.table import Table

    from unisono.evals.analysis.tune import Tuned

SEARCH = "search.json"
"""In the search's folder: what was tried, what it found and took, as ``--json`` prints it."""


def tune(
    spec: Annotated[Path, typer.Argument(help="The ensemble file.", show_default=False)],
    task: Annotated[
        str, typer.Option("--task", "--tasks", metavar="NAMES", help="What to tune for.", show_default=False)
    ],
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Read questions from JSON lines in this folder.", show_default=False),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=2, help="Questions of each task, the last of its order; half of it at most.")
    ] = 100,
    shots: Annotated[
        int | None,
        typer.Option(min=0, help="Examples in each prompt. Default: as usual for the task.", show_default=False),
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask through the members' chat templates.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Texts written at once.")] = 1,
    stages: Annotated[
        str, typer.Option(metavar="NAMES", help="What to search, with commas between.")
    ] = "rule,weights,gate",
    gates: Annotated[
        str | None,
        typer.Option(
            metavar="GATES",
            help="Gates to try, each with every lead. Default: confidence at 0.3, 0.5, 0.7 and 0.9.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where to write the tuned ensemble. Default: NAME-tuned.yaml.", show_default=False
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The search's folder: the same command goes on with it. Default: tune-NAME.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the search as one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Find the best setting, on questions that `unisono eval` then leaves out, and write it as an ensemble file."""
    import yaml

    from unisono.config.ensemble import load_spec
    from unisono.evals.analysis.tune import GATES, STAGES, tuned_spec
    from unisono.evals.analysis.tune import tune as search
    from unisono.evals.manifest import make_manifest
    from unisono.evals.model_pool import ModelPool
    from unisono.evals.results import RunFolder
    from unisono.evals.tasks import load_tasks

    checked = load_spec(spec)
    wanted = [name.strip() for name in stages.split(",") if name.strip()]
    tried = GATES if gates is None else [_gate(word.strip()) for word in gates.split(",")]
    if not wanted or not set(wanted) <= set(STAGES):
        raise SpecError(f"--stages is {stages!r}", hint=f"name some of {', '.join(STAGES)}")
    written = out or spec.with_name(f"{spec.stem}-tuned.yaml")
    if written.exists() and written.samefile(spec):
        raise SpecError(f"--out is {str(written)!r}, the ensemble file itself", hint="give another file")
    if not quiet:
        say("reading the tasks")
    tasks = load_tasks(task_names(task), data=data, limit=limit, last=True, shots=shots, chat=chat)
    for each in tasks:
        if len(each.questions) < limit and not quiet:
            say(f"{each.name}: {len(each.questions)} questions, half of those that there are")
    with loading_report(quiet=quiet) as loading:
        panel = ModelPool.prepare(checked, batch=batch, report=loading)
    where = folder or Path(f"tune-{spec.stem}")
    about = make_manifest(panel, tasks, [], [], spec=spec.read_text(), chat=chat)
    with RunFolder(where, about) as opened, panel:
        with loading_report(quiet=quiet) as loading:
            panel.load_weights(loading)
        with asking(where, None, quiet=quiet) as count:
            tuned = search(panel, tasks, opened, stages=wanted, gates=tried, count=count)
    content = tuned_spec(yaml.safe_load(spec.read_text()), panel, tuned)
    _write(written, spec, content, tuned)
    (where / SEARCH).write_text(json.dumps(tuned.to_json(), indent=2, ensure_ascii=False) + "\n")
    if as_json:
        print(json.dumps(tuned.to_json(), indent=2, ensure_ascii=False))
    else:
        _show(tuned)
    if not quiet:
        asked = ["--tasks", task, *([] if data is None else ["--data", str(data)]), *(["--chat"] if chat else [])]
        asked += [*([] if shots is None else ["--shots", str(shots)]), *(["--batch", str(batch)] if batch > 1 else [])]
        words = ["unisono", "eval", str(written), *asked, "--compare", "--variant", str(spec)]
        say(f"{written} is the ensemble so tuned; compare it: {shlex.join(words)}")


def _gate(word: str) -> str:
    """A gate as `unisono.evals.analysis.tune.tune` takes it. Raises a `SpecError`."""
    from unisono.config.gate import Gate

    gate = Gate.parse(word)
    if gate.boundary:
        raise SpecError(f"--gates has {word!r}", hint="the file says whether gates respect boundaries (boundary: true)")
    return str(gate)


def _write(path: Path, spec: Path, content: dict[str, Any], tuned: Tuned) -> None:
    """Write the ensemble file, its relative models seen from where it is."""
    import yaml

    for member in content["members"]:
        beside = spec.parent / member.get("model", "")
        if "model" in member and beside.exists() and not Path(member["model"]).is_absolute():
            member["model"] = os.path.relpath(beside, path.parent)
    best = tuned.best
    mean = ", on the mean of the tasks" if len(best.by_task) > 1 else ""
    head = (
        f"# {spec.name}, tuned: {best.setting or 'as it was'}\n"
        f"# {best.accuracy:.1%} of {best.questions} questions right{mean} (± {best.error:.1%}, the best of "
        f"{len(tuned.trials)} settings on the same questions: expect less elsewhere), found in {tuned.seconds:.0f} s.\n"
    )
    body = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)
    try:
        path.write_text(head + body)
    except OSError as error:
        raise SpecError(f"cannot write {str(path)!r}: {error.strerror}", hint="choose another --out") from error


def _show(tuned: Tuned) -> None:
    console = table_console()
    console.print(_table(tuned))
    console.print(f"taken: {tuned.setting or 'the ensemble as it is'}", markup=False)


def _table(tuned: Tuned) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("stage")
    table.add_column("setting")
    tasks = list(tuned.trials[0].by_task)
    for title in ("right", *(tasks if len(tasks) > 1 else ()), "ensembled", "seconds"):
        table.add_column(title, justify="right")
    for trial in tuned.trials:
        cells = [f"{trial.accuracy:.1%} ± {trial.error:.1%}"]
        cells += [f"{trial.by_task[name]:.1%}" for name in tasks] if len(tasks) > 1 else []
        name = escape(trial.setting or "as it is")
        table.add_row(trial.stage, name, *cells, f"{trial.ensembled:.0%}", f"{trial.seconds:.0f}")
    return table
