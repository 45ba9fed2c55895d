"""``unisono match``: which models belong together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unisono.cli.console import print_table, table_console
from unisono.cli.flags import optional, takes_flags, verb_app
from unisono.cli.questions import QuestionFlags, answer_questions, folder_flag, task_names
from unisono.cli.spec_flags import MemberWords
from unisono.errors import SpecError

if TYPE_CHECKING:
    from unisono.evals.analysis.match import Ceiling, Matching, Pair

USUAL = 50
PAIRS = (
    *("pair", "gap", "both wrong", "one right", "error kappa", "same mistake", "length ratio", "shared pieces"),
    "UniTE's advice",
)


@dataclass(kw_only=True)
class MatchFlags(QuestionFlags):
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            help="Two models or more, as ensemble files name them: a hub id, a folder, a GGUF file or demo:NAME. A "
            "name may stand before each: smol=demo:smollm2-135m-instruct.",
            show_default=False,
        ),
    ] = None
    members: MemberWords = None
    tasks: Annotated[str, optional(metavar="NAMES", help="The tasks, with commas between.")]
    limit: Annotated[
        int | None,
        optional(min=1, help=f"Ask this many questions of each task. Default: {USUAL}, or all where there are fewer."),
    ] = None
    out: Annotated[
        Path | None,
        folder_flag("Keep the run in this folder; the same command continues it. Default: match-NAME-NAME…."),
    ] = None


@takes_flags
def match(flags: MatchFlags) -> None:
    """Ask each model alone and compare each pair: how far apart they are, and whether they fail together."""
    from unisono.config.member_line import members_of

    words = [*(flags.models or []), *(flags.members or [])]
    members = members_of(words) if words else []
    if weighted := next((member["name"] for member in members if "weight" in member), None):
        raise SpecError(f"the member {weighted!r} has a weight, but each is asked alone here", hint="leave it out")
    if len(members) < 2:
        raise SpecError("one model alone matches nothing", hint="name two models or more")
    matching = _ask_and_compare(members, flags)
    if flags.as_json:
        print(json.dumps(matching.to_json(), indent=2, ensure_ascii=False))
    else:
        _show(matching)
    flags.say("gap and overlap are hints: `unisono eval --compare` shows whether a pair is better than its best member")


app = verb_app(match)


def _ask_and_compare(members: Sequence[dict[str, Any]], flags: MatchFlags) -> Matching:
    from unisono.config.ensemble import load_spec
    from unisono.evals import systems as make
    from unisono.evals.analysis.match import match as compare
    from unisono.evals.manifest import make_manifest
    from unisono.evals.results import read_results

    spec, limit = load_spec({"members": list(members)}), flags.limit
    names = task_names(flags.tasks)
    tasks = flags.load_tasks(names, limit=limit or USUAL, fewer=limit is None)
    pool = flags.prepare(spec)
    systems = make.members(pool)
    about = make_manifest(pool, tasks, systems, [], spec=json.dumps(members), chat=False)
    folder = flags.out or Path("-".join(["match", *pool.members]))
    answer_questions(folder, about, pool, tasks, systems, quiet=flags.quiet)
    vocabularies = {member.spec.name: member.vocabulary for member in pool.prepared.members}
    asked = {(task.name, question.id) for task in tasks for question in task.questions}
    found = read_results(folder)
    results = replace(found, answers=[each for each in found.answers if (each.task, each.question) in asked])
    return compare(results, vocabularies, {task.name: task.metrics[0] for task in tasks})


def _show(matching: Matching) -> None:
    console = table_console()
    alone = [
        (each.name, f"{each.accuracy:.1%}", "" if each.characters is None else f"{each.characters:.0f}")
        for each in matching.models
    ]
    for titles, rows in ((("model", "right", "characters"), alone), (PAIRS, list(map(_row, matching.pairs)))):
        print_table(console, titles, rows)
        console.print()
    if open_ones := [pair for pair in matching.pairs if not pair.is_sure]:
        console.print(_unsure(open_ones), soft_wrap=True)
    if matching.ceiling is not None:
        console.print(_ceiling(matching.ceiling), soft_wrap=True)


def _unsure(pairs: Sequence[Pair]) -> str:
    from unisono.evals.analysis.match import LARGEST_GAP

    fewest = min(pair.questions for pair in pairs)
    questions = "1 question leaves" if fewest == 1 else f"{fewest:,} questions leave"
    return f'"?": {questions} open whether the gap is above {LARGEST_GAP:.0%}; ask more (--limit)'


def _ceiling(ceiling: Ceiling) -> str:
    interval = f"95 % interval {ceiling.interval.low:.1%} to {ceiling.interval.high:.1%}"
    return (
        f"all are wrong on {ceiling.co_failure:.1%} of {ceiling.questions:,} questions ({interval}): "
        f"no ensemble of these can exceed {ceiling.oracle:.1%} by choosing among their answers; the best alone has "
        f"{ceiling.best:.1%}. One that combines pieces may write what none of them answers."
    )


def _row(pair: Pair) -> tuple[str, ...]:
    optional = (pair.error_agreement, pair.same_mistake, pair.length_ratio)
    return (
        f"{pair.first} + {pair.second}",
        f"{pair.gap:.1%} ± {pair.gap_error:.1%}",
        f"{pair.both_wrong:.0%}",
        f"{pair.one_right:.0%}",
        *("" if value is None else f"{value:.2f}" for value in optional),
        f"{pair.vocabulary_overlap:.0%}",
        ("join" if pair.fits_unite else "keep apart") + ("" if pair.is_sure else "?"),
    )
