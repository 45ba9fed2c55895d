"""``unisono tune``: the weights, temperatures, rule, gate and lead with which an ensemble answers best."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unisono.cli.console import loading_report, print_table, table_console
from unisono.cli.ensemble_file import check_out, write_ensemble
from unisono.cli.flags import optional, takes_flags, verb_app
from unisono.cli.questions import ChatFlags, counting_answers, folder_flag, split_names, task_names
from unisono.cli.spec_flags import Given, SpecFlags
from unisono.errors import SpecError, UnisonoError

if TYPE_CHECKING:
    from unisono.evals.analysis.tune import Trial, Tuned
    from unisono.evals.model_pool import ModelPool
    from unisono.evals.records import Task
    from unisono.reference_answers import Reference

SEARCH = "search.json"
"""In the search's folder: what was tried, what was found and how long it took, as ``--json`` prints it."""


@dataclass(kw_only=True)
class TuneFlags(SpecFlags, ChatFlags):
    task: Annotated[
        str, optional("--task", "--tasks", metavar="NAMES", help="The tasks to tune for, with commas between.")
    ]
    limit: Annotated[
        int, typer.Option(min=2, help="Ask this many questions of each task, its last ones, at most half of it.")
    ] = 100
    stages: Annotated[
        str | None,
        optional(
            metavar="NAMES",
            help="What to search, with commas between. Default: fit (where that is possible), rule, weights, gate.",
        ),
    ] = None
    gates: Annotated[
        str | None,
        optional(
            metavar="GATES",
            help="Try these gates, each with every lead. Default: confidence at 0.3, 0.5, 0.7 and 0.9.",
        ),
    ] = None
    out: Annotated[
        Path | None, optional(metavar="FILE", help="Write the tuned ensemble to this file. Default: NAME-tuned.yaml.")
    ] = None
    folder: Annotated[
        Path | None,
        folder_flag("Keep the search in this folder; the same command continues it. Default: tune-NAME."),
    ] = None


@takes_flags
def tune(flags: TuneFlags) -> None:
    """Find the best setting and write it as an ensemble file. `unisono eval` then leaves out its questions."""
    from unisono.evals.analysis.tune import GATES

    given, stages = flags.given(again=True), None if flags.stages is None else _stages(flags.stages)
    gates = GATES if flags.gates is None else [_gate(word.strip()) for word in flags.gates.split(",")]
    out = flags.out or given.beside("tuned")
    check_out(out, given.file)
    tasks = _load_tasks(flags)
    pool = flags.prepare(given.spec, flags.batch)
    references = _to_fit(pool, tasks, stages, flags)
    folder = flags.folder or Path(f"tune-{given.name}")
    tuned = _search(folder, pool, tasks, stages, gates, references, flags, given)
    found = json.dumps(tuned.to_json(), indent=2, ensure_ascii=False)
    (folder / SEARCH).write_text(found + "\n")
    if flags.as_json:
        print(found)
    else:
        _show(tuned)
    _write(out, given, pool, tuned)
    flags.say(f"{out} is the tuned ensemble; compare it with the old one: {_comparing_command(out, given, flags)}")


app = verb_app(tune)


def _load_tasks(flags: TuneFlags) -> list[Task]:
    flags.say("reading the tasks")
    names = task_names(flags.task)
    tasks = flags.load_tasks(names, limit=flags.limit, last=True, chat=flags.chat)
    flags.say_halves(tasks, flags.limit)
    return tasks


def _search(
    folder: Path,
    pool: ModelPool,
    tasks: Sequence[Task],
    stages: Sequence[str] | None,
    gates: Sequence[str],
    references: Sequence[Reference],
    flags: TuneFlags,
    given: Given,
) -> Tuned:
    from unisono.evals.analysis.tune import STAGES
    from unisono.evals.analysis.tune import tune as search
    from unisono.evals.manifest import make_manifest
    from unisono.evals.results import RunFolder

    about = make_manifest(pool, tasks, [], [], spec=given.text, chat=flags.chat)
    with RunFolder(folder, about) as opened, pool:
        with loading_report(quiet=flags.quiet) as loading:
            pool.load_weights(loading)
        with counting_answers(folder, None, quiet=flags.quiet) as count:
            stages = STAGES if stages is None else stages
            return search(pool, tasks, opened, stages=stages, gates=gates, references=references, count=count)


def _to_fit(
    pool: ModelPool, tasks: Sequence[Task], stages: Sequence[str] | None, flags: TuneFlags
) -> Sequence[Reference]:
    """The answers to fit to. Where that is impossible it is said, or raised if the stage was asked for by name."""
    from unisono.evals.analysis.tune import FIT, answers_to_fit

    if stages is not None and FIT not in stages:
        return ()
    try:
        return answers_to_fit(pool, tasks)
    except UnisonoError as error:
        if stages is not None:
            raise
        flags.say(f"nothing is fitted: {error.message}")
        return ()


def _comparing_command(tuned: Path, given: Given, flags: TuneFlags) -> str:
    """What asks the tuned ensemble beside its members and, where that is a file, the one that it was made of."""
    asked = {
        "--tasks": flags.task,
        "--data": flags.data,
        "--shots": flags.shots,
        "--batch": flags.batch if flags.batch > 1 else None,
    }
    words = [str(word) for flag, value in asked.items() if value is not None for word in (flag, value)]
    chat = ["--chat"] if flags.chat else []
    old = [] if given.file is None else ["--variant", str(given.file)]
    return shlex.join(["unisono", "eval", str(tuned), *words, *chat, "--compare", *old])


def _stages(words: str) -> list[str]:
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


def _write(path: Path, given: Given, pool: ModelPool, tuned: Tuned) -> None:
    import yaml

    from unisono.evals.analysis.tune import tuned_spec

    best = tuned.best
    mean = ", on the mean of the tasks" if len(best.by_task) > 1 else ""
    head = (
        f"# {given.title}, tuned: {best.setting or 'as it was'}\n"
        f"# {best.accuracy:.1%} of {best.questions} questions right{mean} (± {best.error:.1%}, the best of "
        f"{len(tuned.trials)} settings on the same questions: expect less elsewhere), found in {tuned.seconds:.0f} s.\n"
    ) + "".join(f"# {line}\n" for line in (*_of_fit(tuned), *tuned.at_ends))
    write_ensemble(path, given.folder, tuned_spec(yaml.safe_load(given.text), pool, tuned), head)


def _show(tuned: Tuned) -> None:
    console = table_console()
    names = list(tuned.trials[0].by_task)
    tasks = names if len(names) > 1 else []
    titles = ("stage", "setting", "right", *tasks, "ensembled", "seconds")
    print_table(console, titles, [_row(trial, tasks) for trial in tuned.trials], left=2)
    for words in (*_of_fit(tuned), f"taken: {tuned.setting or 'the ensemble as it is'}", *tuned.at_ends):
        console.print(words)


def _of_fit(tuned: Tuned) -> list[str]:
    """What was fitted, and what answers that were held out show of it."""
    from unisono.cli.fit import words_of_fit

    if tuned.fit is None:
        return []
    found = f"fit: {tuned.fit.parameters} numbers on {tuned.fit.answers} answers"
    return [found, *(f"fit: {words}" for words in words_of_fit(tuned.fit))]


def _row(trial: Trial, tasks: Iterable[str]) -> tuple[str, ...]:
    return (
        trial.stage,
        trial.setting or "as it is",
        f"{trial.accuracy:.1%} ± {trial.error:.1%}",
        *(f"{trial.by_task[name]:.1%}" for name in tasks),
        f"{trial.ensembled:.0%}",
        f"{trial.seconds:.0f}",
    )
