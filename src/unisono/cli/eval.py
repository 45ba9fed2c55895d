"""``unisono eval``: how well an ensemble answers questions, compared with its members and with other settings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unisono.cli.console import loading_report, say
from unisono.cli.questions import (
    Batch,
    Chat,
    Data,
    Json,
    Quiet,
    Shots,
    Spec,
    answer_questions,
    folder_option,
    task_names,
)
from unisono.cli.report import show_results
from unisono.errors import SpecError

if TYPE_CHECKING:
    from unisono.config.ensemble import EnsembleSpec, TunedOn
    from unisono.evals.baselines import Baseline
    from unisono.evals.model_pool import ModelPool
    from unisono.evals.records import System, Task

ALL = "all"


def evaluate(
    spec: Spec,
    tasks: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="The tasks, with commas between: gsm8k, mmlu, bbh, triviaqa, nq_open, arc_easy, arc_challenge, "
            "hellaswag, piqa, math500; without --data any other of lm-evaluation-harness.",
            show_default=False,
        ),
    ],
    data: Data = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Questions of each task, a fair sample. Default: all.", show_default=False),
    ] = None,
    shots: Shots = None,
    chat: Chat = False,
    compare: Annotated[bool, typer.Option("--compare", help="Ask each member alone, too.")] = False,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SETTING",
            help="Ask the ensemble in another setting, too: 'gate=confidence:0.5 lead=smol', 'combine=geometric', "
            "'weights=smol:2,gemma:1', or a file of the same members. May be given several times.",
            show_default=False,
        ),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Choose among the members' whole answers, too: best-member, majority, ranker, self-evaluation, genrm, "
            "skill-aggregation, cascade, cycles-of-thought, or all. May be given several times; implies --compare.",
            show_default=False,
        ),
    ] = None,
    batch: Batch = 1,
    out: Annotated[
        Path | None,
        folder_option(
            "The run's folder. It keeps every answer, and the same command continues the run. Default: eval-NAME."
        ),
    ] = None,
    report: Annotated[Path | None, folder_option("Write a report: HTML, Markdown and JSON.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Ask an ensemble questions, best compared with its members: accuracy, intervals, share ensembled, time."""
    from unisono.config.ensemble import load_spec
    from unisono.evals.baselines.decide import decide_all
    from unisono.evals.manifest import make_manifest
    from unisono.evals.model_pool import ModelPool
    from unisono.evals.report import check_report
    from unisono.evals.results import read_results
    from unisono.evals.tasks import load_tasks

    checked = load_spec(spec)
    if report is not None:
        check_report(report)
    baselines = _baselines(baseline or [])
    names = task_names(tasks)
    if not quiet:
        say("reading the tasks")
    tuned_on = _tuned_on(checked, variant or [])
    loaded = load_tasks(names, data=data, limit=limit, shots=shots, chat=chat, tuned_on=tuned_on)
    _warn_of_other_sources(tuned_on, loaded)
    with loading_report(quiet=quiet) as loading:
        pool = ModelPool.prepare(checked, batch=batch, report=loading)
        systems = _systems(pool, variant or [], baselines, compare=compare)
        about = make_manifest(pool, loaded, systems, baselines, spec=spec.read_text(), chat=chat, tuned_on=tuned_on)
    folder = out or Path(f"eval-{spec.stem}")
    answer_questions(folder, about, pool, loaded, systems, baselines, quiet=quiet)
    results = decide_all(read_results(folder))
    answered = len({(answer.task, answer.question) for answer in results.answers})
    asked = sum(len(task.questions) for task in loaded)
    if answered > asked and not quiet:
        say(f"{folder} has answers to {answered:,} questions, of which {asked:,} were asked for now: all are told")
    show_results(results, report, as_json=as_json, quiet=quiet)


def _baselines(given: Iterable[str]) -> list[Baseline]:
    """The baselines that are asked for, each once; ``all`` is every one that is known."""
    from unisono.evals.baselines import BASELINES, make_baseline

    words = [name for word in given for name in (BASELINES if word == ALL else [word])]
    return list({each.name: each for each in map(make_baseline, words)}.values())


def _tuned_on(spec: EnsembleSpec, variants: Iterable[str]) -> list[TunedOn]:
    """What the ensemble, or the file of a variant, was tuned on."""
    from unisono.config.ensemble import load_spec
    from unisono.evals.systems import is_file

    others = [load_spec(Path(setting)) for setting in variants if is_file(setting)]
    return [each for known in (spec, *others) for each in known.tuned_on]


def _warn_of_other_sources(tuned_on: Iterable[TunedOn], tasks: Iterable[Task]) -> None:
    """Warn where questions that were tuned on cannot be told from others."""
    from unisono.evals.tasks import may_hold

    for task in tasks:
        for each in tuned_on:
            if may_hold(task, each):
                say(f"{task.name}: tuned on {each.task} of {each.source}, this is {task.source}: nothing is left out")


def _systems(pool: ModelPool, variants: Iterable[str], baselines: Sequence[Baseline], *, compare: bool) -> list[System]:
    """Who is asked. Raises a `SpecError` where baselines do not fit the members, or a name stands twice."""
    from unisono.evals import systems as make

    if baselines and len(pool.members) < 2:
        raise SpecError(
            "baselines choose among the answers of members, and the ensemble has one", hint="leave --baseline out"
        )
    for each in baselines:
        each.check(pool.members)
    alone = make.members(pool) if (compare or baselines) and len(pool.members) > 1 else []
    systems = [*alone, make.ensemble(pool), *(make.variant(pool, setting) for setting in variants)]
    make.check_names(systems, [each.name for each in baselines])
    return systems
