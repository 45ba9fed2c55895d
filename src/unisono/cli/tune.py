"""``unisono tune``: the weights, rule, gate and threshold with which an ensemble answers best."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unisono.cli.console import loading_report, print_table, say, table_console
from unisono.cli.questions import (
    Batch,
    Chat,
    Data,
    Json,
    Quiet,
    Shots,
    Spec,
    counting_answers,
    folder_option,
    split_names,
    task_names,
)
from unisono.errors import SpecError

if TYPE_CHECKING:
    from unisono.evals.analysis.tune import Trial, Tuned
    from unisono.evals.model_pool import ModelPool

SEARCH = "search.json"
"""In the search's folder: what was tried, what was found and how long it took, as ``--json`` prints it."""


def tune(
    spec: Spec,
    task: Annotated[
        str,
        typer.Option(
            "--task", "--tasks", metavar="NAMES", help="The tasks to tune for, with commas between.", show_default=False
        ),
    ],
    data: Data = None,
    limit: Annotated[
        int, typer.Option(min=2, help="Questions of each task, the last of its order; half of it at most.")
    ] = 100,
    shots: Shots = None,
    chat: Chat = False,
    batch: Batch = 1,
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
        Path | None, folder_option("The search's folder: the same command continues it. Default: tune-NAME.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the best setting, on questions that `unisono eval` then leaves out, and write it as an ensemble file."""
    from unisono.config.ensemble import load_spec
    from unisono.evals.analysis.tune import GATES
    from unisono.evals.analysis.tune import tune as search
    from unisono.evals.manifest import make_manifest
    from unisono.evals.model_pool import ModelPool
    from unisono.evals.results import RunFolder
    from unisono.evals.tasks import load_tasks

    checked, wanted = load_spec(spec), _stages(stages)
    tried = GATES if gates is None else [_gate(word.strip()) for word in gates.split(",")]
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
        pool = ModelPool.prepare(checked, batch=batch, report=loading)
    where = folder or Path(f"tune-{spec.stem}")
    about = make_manifest(pool, tasks, [], [], spec=spec.read_text(), chat=chat)
    with RunFolder(where, about) as opened, pool:
        with loading_report(quiet=quiet) as loading:
            pool.load_weights(loading)
        with counting_answers(where, None, quiet=quiet) as count:
            tuned = search(pool, tasks, opened, stages=wanted, gates=tried, count=count)
    _write(written, spec, pool, tuned)
    found = json.dumps(tuned.to_json(), indent=2, ensure_ascii=False)
    (where / SEARCH).write_text(found + "\n")
    if as_json:
        print(found)
    else:
        _show(tuned)
    if not quiet:
        flags = {"--tasks": task, "--data": data, "--shots": shots, "--batch": batch if batch > 1 else None}
        asked = [str(word) for flag, value in flags.items() if value is not None for word in (flag, value)]
        words = ["unisono", "eval", str(written), *asked, *(["--chat"] if chat else [])]
        compare = shlex.join([*words, "--compare", "--variant", str(spec)])
        say(f"{written} is the tuned ensemble; compare it with the old one: {compare}")


def _stages(words: str) -> list[str]:
    """The stages that ``--stages`` names. Raises a `SpecError`."""
    from unisono.evals.analysis.tune import STAGES

    wanted = split_names(words)
    if not wanted or not set(wanted) <= set(STAGES):
        raise SpecError(f"--stages is {words!r}", hint=f"name some of {', '.join(STAGES)}")
    return wanted


def _gate(word: str) -> str:
    """A gate as `unisono.evals.analysis.tune.tune` takes it. Raises a `SpecError`."""
    from unisono.config.gate import Gate

    gate = Gate.parse(word)
    if gate.boundary:
        raise SpecError(f"--gates has {word!r}", hint="the file says whether gates respect boundaries (boundary: true)")
    return str(gate)


def _write(path: Path, spec: Path, pool: ModelPool, tuned: Tuned) -> None:
    """Write the ensemble file, with relative paths of models that hold from where it is."""
    import yaml

    from unisono.evals.analysis.tune import tuned_spec

    content = tuned_spec(yaml.safe_load(spec.read_text()), pool, tuned)
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
    names = list(tuned.trials[0].by_task)
    tasks = names if len(names) > 1 else []
    titles = ("stage", "setting", "right", *tasks, "ensembled", "seconds")
    print_table(console, titles, [_row(trial, tasks) for trial in tuned.trials], left=2)
    console.print(f"taken: {tuned.setting or 'the ensemble as it is'}", markup=False)


def _row(trial: Trial, tasks: Iterable[str]) -> tuple[str, ...]:
    return (
        trial.stage,
        trial.setting or "as it is",
        f"{trial.accuracy:.1%} ± {trial.error:.1%}",
        *(f"{trial.by_task[name]:.1%}" for name in tasks),
        f"{trial.ensembled:.0%}",
        f"{trial.seconds:.0f}",
    )
