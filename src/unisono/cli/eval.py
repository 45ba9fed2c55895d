"""``unisono eval``: how well an ensemble answers questions, beside its members and in other settings."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unisono.cli.console import counting, loading_report, say
from unisono.cli.report import tell
from unisono.errors import SpecError

if TYPE_CHECKING:
    from unisono.config.ensemble import TunedOn
    from unisono.evals.model_pool import ModelPool
    from unisono.evals.records import System, Task

ALL = "all"


def evaluate(
    spec: Annotated[Path, typer.Argument(help="The ensemble file.", show_default=False)],
    tasks: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="What to ask, with commas between: gsm8k, mmlu, bbh, triviaqa, nq_open, arc_easy, arc_challenge, "
            "hellaswag, piqa, math500; without --data others of lm-evaluation-harness, too.",
            show_default=False,
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Read questions from JSON lines in this folder, not from the hub.", show_default=False
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Questions of each task, a fair sample. Default: all.", show_default=False),
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(min=0, help="Examples in each prompt. Default: as usual for the task.", show_default=False),
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask through the members' chat templates.")] = False,
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
    batch: Annotated[
        int, typer.Option(min=1, help="Texts written at once. Times are those of one text at a time only with 1.")
    ] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The run's folder: answers are in it as soon as they are there, and the same command goes on with it. "
            "Default: eval-NAME.",
            show_default=False,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write a report: HTML, Markdown and JSON.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Ask an ensemble questions, best beside its members: accuracy, intervals, share ensembled, time."""
    from unisono.config.ensemble import load_spec
    from unisono.evals.baselines import BASELINES, make_baseline
    from unisono.evals.baselines.decide import decide_all
    from unisono.evals.manifest import make_manifest
    from unisono.evals.model_pool import ModelPool
    from unisono.evals.report import check_report
    from unisono.evals.results import RunFolder, read_results
    from unisono.evals.runner import evaluate as ask
    from unisono.evals.systems import check_names
    from unisono.evals.tasks import load_tasks

    checked = load_spec(spec)
    if report is not None:
        check_report(report)
    made = [make_baseline(word) for word in _words(baseline or [], BASELINES)]
    baselines = list({each.name: each for each in made}.values())
    names = task_names(tasks)
    if not quiet:
        say("reading the tasks")
    tuned_on = [*checked.tuned_on, *(each for path in _files(variant or []) for each in load_spec(path).tuned_on)]
    loaded = load_tasks(names, data=data, limit=limit, shots=shots, chat=chat, tuned_on=tuned_on)
    _tell_other_sources(tuned_on, loaded)
    folder = out or Path(f"eval-{spec.stem}")
    with loading_report(quiet=quiet) as loading:
        panel = ModelPool.prepare(checked, batch=batch, report=loading)
        if baselines and len(panel.members) < 2:
            raise SpecError(
                "baselines choose among the answers of members, and the ensemble has one", hint="leave --baseline out"
            )
        for each in baselines:
            each.check(panel.members)
        systems = _systems(panel, variant or [], compare=compare or bool(baselines))
        check_names(systems, [each.name for each in baselines])
        about = make_manifest(panel, loaded, systems, baselines, spec=spec.read_text(), chat=chat, tuned_on=tuned_on)
    asked = sum(len(task.questions) for task in loaded)
    everybody = [*(system.name for system in systems), *(baseline.name for baseline in baselines)]
    with RunFolder(folder, about) as opened, panel:
        if opened.lacks(loaded, everybody):
            with loading_report(quiet=quiet) as loading:
                panel.load_weights(loading)
            with asking(folder, asked * len(everybody), quiet=quiet) as count:
                ask(panel, loaded, systems, opened, baselines=baselines, count=count)
    results = decide_all(read_results(folder))
    told = {(answer.task, answer.question) for answer in results.answers}
    if len(told) > asked and not quiet:
        say(f"{folder} has answers to {len(told):,} questions, of which {asked:,} were asked for now: all are told")
    tell(results, report, as_json=as_json, quiet=quiet)


def _files(variants: Iterable[str]) -> list[Path]:
    from unisono.evals.systems import is_file

    return [Path(setting) for setting in variants if is_file(setting)]


def _tell_other_sources(tuned_on: Iterable[TunedOn], tasks: Iterable[Task]) -> None:
    """Warn where questions that were tuned on cannot be told from others."""
    from unisono.evals.tasks import may_hold

    for task in tasks:
        for each in tuned_on:
            if may_hold(task, each):
                say(f"{task.name}: tuned on {each.task} of {each.source}, this is {task.source}: nothing is left out")


def _words(given: Iterable[str], known: Iterable[str]) -> list[str]:
    """What baselines are asked for, each once; ``all`` is every one that is known."""
    return list(dict.fromkeys(itertools.chain.from_iterable(known if word == ALL else [word] for word in given)))


def task_names(words: str) -> list[str]:
    """The tasks that a flag names. Raises a `SpecError` when it names none."""
    names = [name.strip() for name in words.split(",") if name.strip()]
    if not names:
        raise SpecError("no task is named", hint="write it as in --tasks gsm8k,mmlu")
    return names


@contextlib.contextmanager
def asking(folder: Path, total: int | None, *, quiet: bool) -> Iterator[Callable[..., None]]:
    """Count answers while questions are asked, and say where they are when somebody interrupts."""
    try:
        with counting(total, quiet=quiet) as count:
            yield count
    except KeyboardInterrupt:
        say(f"\n{folder} holds what is answered: the same command goes on from there")
        raise


def _systems(panel: ModelPool, variants: list[str], *, compare: bool) -> list[System]:
    from unisono.evals import systems as make

    members = make.members(panel) if compare and len(panel.members) > 1 else []
    return [*members, make.ensemble(panel), *(make.variant(panel, setting) for setting in variants)]
