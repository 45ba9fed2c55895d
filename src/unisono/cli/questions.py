"""Flags and steps that `unisono eval`, `tune`, `fit` and `match` share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unisono.cli.console import counting, loading_report, say
from unisono.cli.flags import Json, Quiet, optional
from unisono.errors import SpecError

if TYPE_CHECKING:
    from unisono.config.ensemble import EnsembleSpec, FittedOn, TunedOn
    from unisono.evals.baselines import Baseline
    from unisono.evals.model_pool import ModelPool
    from unisono.evals.records import System, Task

NAMED = 3
"""Questions that are named, of several."""


def folder_flag(words: str) -> Any:
    return optional(metavar="DIR", help=words)


@dataclass(kw_only=True)
class QuestionFlags:
    data: Annotated[
        Path | None, folder_flag("Read the questions from JSON lines in this folder. Default: the hub.")
    ] = None
    shots: Annotated[int | None, optional(min=0, help="Examples in each prompt. Default: as usual for the task.")] = (
        None
    )
    as_json: Json = False
    quiet: Quiet = False

    def say(self, words: str) -> None:
        if not self.quiet:
            say(words)

    def load_tasks(
        self,
        names: Sequence[str],
        *,
        limit: int | None,
        fewer: bool = False,
        last: bool = False,
        chat: bool = False,
        tuned_on: Sequence[TunedOn] = (),
        fitted_on: Sequence[FittedOn] = (),
    ) -> list[Task]:
        """Tasks from these flags' data, with as many examples as these flags say."""
        from unisono.evals.tasks import load_tasks

        tasks = load_tasks(
            names,
            data=self.data,
            limit=limit,
            fewer=fewer,
            last=last,
            shots=self.shots,
            chat=chat,
            tuned_on=tuned_on,
            fitted_on=fitted_on,
        )
        _say_own_examples(tasks)
        return tasks

    def say_halves(self, tasks: Sequence[Task], limit: int) -> None:
        """Say which tasks gave fewer questions than were wanted, as another half is left to evaluate on."""
        for each in tasks:
            if len(each.questions) < limit:
                self.say(f"{each.name}: {len(each.questions)} questions, half of those that there are")

    def prepare(self, spec: EnsembleSpec, batch: int = 1) -> ModelPool:
        from unisono.evals.model_pool import ModelPool

        with loading_report(quiet=self.quiet) as loading:
            return ModelPool(spec, batch=batch, report=loading)


@dataclass(kw_only=True)
class ChatFlags(QuestionFlags):
    chat: Annotated[bool, typer.Option("--chat", help="Ask through the members' chat templates.")] = False
    batch: Annotated[
        int,
        typer.Option(min=1, help="Write this many texts at once. Only 1 measures the time of one text at a time."),
    ] = 1


def _say_own_examples(tasks: Sequence[Task]) -> None:
    """Say which questions stand among the examples of their own prompts."""
    for task in tasks:
        if own := [question.id for question in task.questions if question.is_own_example]:
            some = ", ".join(own[:NAMED]) + ", …" * (len(own) > NAMED)
            way = "take them out of the file of examples, or give --shots 0" if task.examples else "give --shots 0"
            say(
                f"{task.name}: {len(own):,} of {len(task.questions):,} questions stand, with their answers, among the "
                f"examples of their own prompts ({some}): {way}"
            )


def split_names(words: str) -> list[str]:
    return [name.strip() for name in words.split(",") if name.strip()]


def task_names(words: str) -> list[str]:
    """The tasks that a flag names. Raises a `SpecError` when it names none."""
    if not (names := split_names(words)):
        raise SpecError("no task is named", hint="write it as in --tasks gsm8k,mmlu")
    return names


def answer_questions(
    folder: Path,
    about: Mapping[str, Any],
    pool: ModelPool,
    tasks: Sequence[Task],
    systems: Sequence[System],
    baselines: Sequence[Baseline] = (),
    *,
    quiet: bool,
) -> None:
    """Let systems answer what a run's folder has no answers to yet. The models are loaded only if that is anything."""
    from unisono.evals.results import RunFolder
    from unisono.evals.runner import evaluate

    names = [*(system.name for system in systems), *(baseline.name for baseline in baselines)]
    total = len(names) * sum(len(task.questions) for task in tasks)
    with RunFolder(folder, about) as opened, pool:
        if opened.lacks(tasks, names):
            with loading_report(quiet=quiet) as loading:
                pool.load_weights(loading)
            with counting_answers(folder, total, quiet=quiet) as count:
                evaluate(pool, tasks, systems, opened, baselines=baselines, count=count)


@contextlib.contextmanager
def counting_answers(folder: Path, total: int | None, *, quiet: bool) -> Iterator[Callable[..., None]]:
    """Count answers while questions are asked. An interruption says where the answers are."""
    try:
        with counting(total, quiet=quiet) as count:
            yield count
    except KeyboardInterrupt:
        say(f"\n{folder} keeps the answers so far: the same command continues from there")
        raise
