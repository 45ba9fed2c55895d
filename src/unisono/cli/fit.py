"""``unisono fit``: the weights, temperatures and calibrations of members that suit reference answers best."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from unisono.cli.console import counting, loading_report, print_table, table_console
from unisono.cli.ensemble_file import check_out, write_ensemble
from unisono.cli.flags import optional, takes_flags, verb_app
from unisono.cli.questions import QuestionFlags, task_names
from unisono.cli.spec_flags import Given, SpecFlags
from unisono.errors import SpecError

if TYPE_CHECKING:
    from unisono.config.ensemble import EnsembleSpec, FittedOn
    from unisono.evals.model_pool import ModelPool
    from unisono.evals.records import Task
    from unisono.fitting.bounds import AtBound
    from unisono.fitting.fit import Fit, Gain
    from unisono.fitting.readings import ObjectiveName
    from unisono.reference_answers import Reference


LIMIT = 300
"""Questions of each task."""
MOST = 5_000
"""Questions that the fitted file names, so that evaluations leave them out."""


@dataclass(kw_only=True)
class FitFlags(SpecFlags, QuestionFlags):
    tasks: Annotated[
        str | None, optional(metavar="NAMES", help="Fit on the right answers of these tasks, with commas between.")
    ] = None
    prompts: Annotated[
        Path | None,
        optional(
            metavar="FILE",
            help='Fit on a file of JSON lines {"prompt" or "messages": …, "answer": …} and perhaps "choices".',
        ),
    ] = None
    objective: Annotated[
        str,
        typer.Option(
            metavar="OBJECTIVE",
            help="Make right answers likely (likelihood), or likelier than the wrong ones (choices).",
        ),
    ] = "likelihood"
    limit: Annotated[
        int | None,
        optional(min=2, help="Read this many questions of each task, its last ones, at most half. Default: 300."),
    ] = None
    rule: Annotated[
        str | None, optional(metavar="RULE", help="Fit mean or geometric. Default: the file's own rule.")
    ] = None
    temperatures: Annotated[
        bool | None,
        typer.Option(
            "--temperatures/--no-temperatures",
            help="Whether to fit temperatures, or weights alone. Default: temperatures, too, but not to choices.",
        ),
    ] = None
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate", help="Also correct for the letter that each member prefers among lettered answers."
        ),
    ] = False
    chat: Annotated[bool, typer.Option("--chat", help="Ask through the members' chat templates.")] = False
    out: Annotated[
        Path | None, optional(metavar="FILE", help="Write the fitted ensemble to this file. Default: NAME-fitted.yaml.")
    ] = None


@takes_flags
def fit(flags: FitFlags) -> None:
    """Fit members' weights and temperatures on reference answers, and measure the gain on a held-out part."""
    from unisono.fitting.checks import check_installed

    given = flags.given(again=True)
    out = flags.out or given.beside("fitted")
    check_out(out, given.file, flags.prompts)
    check_installed()
    began = time.perf_counter()
    tasks, references, sources = _references(flags)
    sources = _recorded(flags, given.spec, sources)
    pool = flags.prepare(given.spec.model_copy(update={"fitted": None}))  # another model is fitted again
    found = _fit(pool, tasks, references, flags)
    told = {**found.to_json(), "seconds": round(time.perf_counter() - began, 1), "out": str(out)}
    if flags.as_json:
        print(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        _show(found)
    _write(out, given, pool, found, sources)
    if flags.prompts is None:
        flags.say(f"{out} is the fitted ensemble; `unisono eval` leaves out what it was fitted on")
    else:
        flags.say(f"{out} is the fitted ensemble; evaluate it on questions that are not in {flags.prompts}")


app = verb_app(fit)


def _recorded(flags: FitFlags, spec: EnsembleSpec, sources: Sequence[FittedOn]) -> list[FittedOn]:
    """What the fitted file says that it was fitted on: what it was before, too. Raises a `SpecError` for too much."""
    before = [] if spec.fitted is None else [each for each in spec.fitted.answers if each not in sources]
    earlier, now = (sum(len(each.questions) for each in its) for its in (before, sources))
    if earlier + now > MOST:
        beside = f" beside the {earlier:,} that the file was fitted on before" if earlier else ""
        fewer = "give a smaller --limit" if flags.prompts is None else "give a file of fewer lines"
        raise SpecError(f"there are {now:,} answers{beside}, and an ensemble file records {MOST:,} at most", hint=fewer)
    return [*before, *sources]


def _references(flags: FitFlags) -> tuple[list[Task], list[Reference], list[FittedOn]]:
    if (flags.tasks is None) == (flags.prompts is None):
        how = "both --tasks and --prompts are" if flags.tasks is not None else "neither --tasks nor --prompts is"
        raise SpecError(f"{how} given", hint="give one of them: where the answers are")
    from unisono.evals.analysis.references import fitted_on, read_answers, references_of

    if flags.prompts is not None:
        _check_prompts_alone(flags)
        references, source = read_answers(flags.prompts)
        return [], references, [source]
    flags.say("reading the tasks")
    names = task_names(flags.tasks or "")
    limit = LIMIT if flags.limit is None else flags.limit
    tasks = flags.load_tasks(names, limit=limit, last=True, chat=flags.chat)
    flags.say_halves(tasks, limit)
    return tasks, references_of(tasks), fitted_on(tasks)


def _check_prompts_alone(flags: FitFlags) -> None:
    """Raise a `SpecError` for a flag that says how tasks are read."""
    of_tasks = {
        "--limit": flags.limit is not None,
        "--data": flags.data is not None,
        "--shots": flags.shots is not None,
        "--chat": flags.chat,
        "--calibrate": flags.calibrate,
    }
    if given := [name for name, is_given in of_tasks.items() if is_given]:
        raise SpecError(
            f"{', '.join(given)} given with --prompts, whose answers are read as they are, and all of them",
            hint=f"{given[0]} is for --tasks: leave it out",
        )


def _fit(pool: ModelPool, tasks: Sequence[Task], references: Sequence[Reference], flags: FitFlags) -> Fit:
    from unisono.evals.analysis.references import priors
    from unisono.fitting.checks import check, check_answers
    from unisono.fitting.fit import fit

    objective = cast("ObjectiveName", flags.objective)
    check(pool.prepared, references, flags.rule, objective)
    check_answers(pool.prepared, references, objective)
    with pool:
        with loading_report(quiet=flags.quiet) as loading:
            pool.load_weights(loading)
        prepared, before = pool.prepared, None
        if flags.calibrate:
            keys = {name: {"calibrate": prior} for name, prior in priors(pool, tasks).items()}
            prepared, before = prepared.reshaped(keys), prepared
        with counting(len(references), quiet=flags.quiet) as count:
            return fit(
                prepared,
                pool.models,
                references,
                rule=flags.rule,
                objective=objective,
                temperatures=flags.temperatures,
                before=before,
                count=count,
            )


def _write(out: Path, given: Given, pool: ModelPool, found: Fit, sources: Sequence[FittedOn]) -> None:
    import yaml

    from unisono.config.method import Method
    from unisono.identity import marks_of

    content: dict[str, Any] = yaml.safe_load(given.text)
    fitted = {member.name: member for member in found.members}
    for member in content["members"]:
        if (its := fitted.get(member["name"])) is None:
            continue
        member |= {"weight": its.weight, "temperature": its.temperature}
        if its.calibrate:
            member["calibrate"] = dict(its.calibrate)
    if found.lead != given.spec.method.lead_among({member.name: member.weight for member in given.spec.members}):
        content["lead"] = found.lead
    if found.rule != given.spec.combine.rule or found.rule != Method().combine.rule:
        content["combine"] = found.rule
    content["fitted"] = {
        "answers": [each.model_dump() for each in sources],
        "models": {member.spec.name: marks_of(member) for member in pool.prepared.members},
    }
    how = f"fitted on {found.answers} answers, {found.held_out} held out: {found.parameters} numbers"
    head = f"# {given.title}, {how}.\n"
    write_ensemble(out, given.folder, content, head + "".join(f"# {words}\n" for words in words_of_fit(found)))


def words_of_fit(found: Fit) -> list[str]:
    """What the held-out part shows, and which parameters are at a bound."""
    return [
        *(words_of(each, found.objective) for each in found.gains),
        *(words_of_bound(each, found.answers) for each in found.at_bounds),
    ]


def words_of(gain: Gain, objective: ObjectiveName) -> str:
    """What the held-out part shows, and nothing more."""
    from unisono.fitting.fit import SHOWN_FROM

    by_choices = objective == "choices"
    scale, digits, unit = (100, 1, "points of right answers") if by_choices else (1, 4, "nats a byte")
    sign = "better" if gain.mean > 0 else "worse"
    low, high = (scale * bound for bound in (gain.interval.low, gain.interval.high))
    interval = f"95 % interval {low:+.{digits}f} to {high:+.{digits}f}"
    over = f"than {gain.over}" if gain.over != "as it was" else "than it was"
    shown = "" if gain.is_shown else ": no gain is shown, and it may be no better"
    if gain.held_out < SHOWN_FROM:
        shown = f": no gain is shown, as {gain.held_out} held-out answers are too few ({SHOWN_FROM} can show one)"
    return f"held out, {scale * abs(gain.mean):.{digits}f} {unit} {sign} {over} ({interval}){shown}"


def words_of_bound(at: AtBound, answers: int) -> str:
    """Which parameter is at which bound, and what to do."""
    number = "1 answer does" if answers == 1 else f"{answers:,} answers do"
    where = f"at a bound: {at.member}'s {at.parameter} is {at.value:g}, the {at.bound} that is fitted"
    do = {
        "weight": f"or leave {at.member} out",
        "temperature": "or fit weights alone (unisono fit --no-temperatures)",
    }.get(at.parameter, "or fit without --calibrate")
    return f"{where}: {number} not say where it should be; give more answers, {do}"


def _show(found: Fit) -> None:
    console = table_console()
    rows = [
        (each.name, f"{each.weight:.4g}", f"{each.temperature:.4g}", " ".join(map(repr, each.calibrate)))
        for each in found.members
    ]
    print_table(console, ("member", "weight", "temperature", "calibrated for"), rows)
    console.print()
    right = {name: (f"{100 * share:.1f}",) for name, share in found.right.items()}
    heads = ("held out", "nats a byte", *(("% right",) if right else ()))
    print_table(console, heads, [(name, f"{nats:.4f}", *right.get(name, ())) for name, nats in found.nats.items()])
    console.print()
    if len(found.leads) > 1:
        print_table(console, ("lead", "fitted on"), [(name, f"{nats:.4f}") for name, nats in found.leads.items()])
        console.print()
    numbers = f"{found.parameters} numbers fitted on {found.answers} answers, {found.held_out} held out"
    aim = "" if found.objective == "likelihood" else " to choose right answers"
    fitted = f"{found.rule}, led by {found.lead}: {numbers}{aim}"
    for words in (fitted, *words_of_fit(found)):
        console.print(words)
