"""``unisono eval``: how well an ensemble answers, beside its members and other settings."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unisono.cli.console import say
from unisono.cli.flags import optional, takes_flags, verb_app
from unisono.cli.questions import ChatFlags, answer_questions, folder_flag, task_names
from unisono.cli.report import REPORT, show_results
from unisono.cli.spec_flags import EnsembleOrMembers
from unisono.errors import SpecError

if TYPE_CHECKING:
    from unisono.config.ensemble import EnsembleSpec, FittedOn, TunedOn
    from unisono.evals.baselines import Baseline
    from unisono.evals.model_pool import ModelPool
    from unisono.evals.records import Results, System, Task

ALL = "all"


@dataclass(kw_only=True)
class EvalFlags(EnsembleOrMembers, ChatFlags):
    tasks: Annotated[
        str,
        optional(
            metavar="NAMES",
            help="The tasks, with commas between: gsm8k, mmlu, bbh, triviaqa, nq_open, arc_easy, arc_challenge, "
            "hellaswag, piqa, math500; without --data any other of lm-evaluation-harness.",
        ),
    ]
    limit: Annotated[
        int | None, optional(min=1, help="Ask this many questions of each task, a fair sample. Default: all.")
    ] = None
    compare: Annotated[bool, typer.Option("--compare", help="Ask each member alone, too.")] = False
    variant: Annotated[
        list[str] | None,
        optional(
            metavar="SETTING",
            help="Ask the ensemble in another setting, too: 'gate=confidence:0.5 lead=smol', 'combine=geometric', "
            "'weights=smol:2,gemma:1', or a file of the same members. May be given several times.",
        ),
    ] = None
    baseline: Annotated[
        list[str] | None,
        optional(
            metavar="NAME",
            help="Choose among the members' whole answers, too: best-member, majority, ranker, self-evaluation, genrm, "
            "skill-aggregation, cascade, cycles-of-thought, or all. May be given several times; implies --compare.",
        ),
    ] = None
    out: Annotated[
        Path | None,
        folder_flag("Keep every answer in this folder; the same command continues the run. Default: eval-NAME."),
    ] = None
    report: Annotated[Path | None, REPORT] = None


@takes_flags
def evaluate(flags: EvalFlags) -> None:
    """Ask an ensemble questions and compare it with its members: accuracy, intervals, share ensembled, time."""
    from unisono.evals.manifest import make_manifest
    from unisono.evals.report import check_report
    from unisono.identity import check_fitted

    given, variants = flags.given(again=True), flags.variant or []
    if flags.report is not None:
        check_report(flags.report)
    baselines = _baselines(flags.baseline or [])
    names = task_names(flags.tasks)
    flags.say("reading the tasks")
    specs = _specs(given.spec, variants)
    tuned_on = [each for known in specs for each in known.tuned_on]
    fitted = [known.fitted for known in specs if known.fitted is not None]
    tasks = _load_tasks(names, flags, tuned_on, [each for its in fitted for each in its.answers])
    pool = flags.prepare(given.spec, flags.batch)
    for each in fitted:
        check_fitted(pool.prepared.members, each.models, whole=True)
    systems = _systems(pool, variants, baselines, compare=flags.compare)
    about = make_manifest(pool, tasks, systems, baselines, spec=given.text, chat=flags.chat, tuned_on=tuned_on)
    folder = flags.out or Path(f"eval-{given.name}")
    answer_questions(folder, about, pool, tasks, systems, baselines, quiet=flags.quiet)
    asked = {*(each.name for each in systems), *(each.name for each in baselines)}
    show_results(_read_results(folder, tasks, asked), flags.report, as_json=flags.as_json, quiet=flags.quiet)


app = verb_app(evaluate)


def _load_tasks(
    names: Sequence[str], flags: EvalFlags, tuned_on: Sequence[TunedOn], fitted_on: Sequence[FittedOn]
) -> list[Task]:
    """The tasks, with warnings of questions that were seen before."""
    from unisono.evals.tasks import may_hold

    tasks = flags.load_tasks(names, limit=flags.limit, chat=flags.chat, tuned_on=tuned_on, fitted_on=fitted_on)
    for task in tasks:
        seen: list[TunedOn | FittedOn] = [*tuned_on, *fitted_on]
        for each in seen:
            if may_hold(task, each):
                how = "tuned" if each in tuned_on else "fitted"
                say(f"{task.name}: {how} on {each.task} of {each.source}, this is {task.source}: nothing is left out")
    return tasks


def _read_results(folder: Path, tasks: Iterable[Task], systems: Collection[str]) -> Results:
    """All results of the folder; says, even if quiet, what in them was not asked for now."""
    from unisono.evals.baselines.decide import decide_all
    from unisono.evals.results import read_results

    results = decide_all(read_results(folder))
    answered = len({(answer.task, answer.question) for answer in results.answers})
    asked = sum(len(task.questions) for task in tasks)
    if answered > asked:
        say(
            f"{folder} has answers to {answered:,} questions, of which {asked:,} were asked for now: "
            "the results cover all of them"
        )
    others = [name for name in dict.fromkeys(answer.system for answer in results.answers) if name not in systems]
    if others:
        *first, last = others
        names, were, are = (f"{', '.join(first)} and {last}", "were", "are") if first else (last, "was", "is")
        say(f"{names}, which {were} not asked for now, {are} shown too; another --out keeps runs apart")
    return results


def _baselines(given: Iterable[str]) -> list[Baseline]:
    """The baselines that are asked for, each once; ``all`` is every one that is known."""
    from unisono.evals.baselines import BASELINES, make_baseline

    words = [name for word in given for name in (BASELINES if word == ALL else [word])]
    return list({each.name: each for each in map(make_baseline, words)}.values())


def _specs(spec: EnsembleSpec, variants: Iterable[str]) -> list[EnsembleSpec]:
    """The ensemble, and the files among its variants."""
    from unisono.config.ensemble import load_spec
    from unisono.evals.systems import is_file

    return [spec, *(load_spec(Path(setting), again=True) for setting in variants if is_file(setting))]


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
