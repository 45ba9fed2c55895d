"""Reference answers to fit members on: those of tasks, and of files of prompts and answers."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from unisono.chat.messages import Prompt
from unisono.config.ensemble import FittedOn
from unisono.errors import SpecError, shown
from unisono.evals.model_pool import ModelPool
from unisono.evals.records import Question, Task
from unisono.fitting.bounds import LEAST_PRIOR
from unisono.records import Score
from unisono.reference_answers import FORM, Reference, reference_of
from unisono.user_files import read_data, read_json, why_no_json

CONTENT_FREE = ("N/A", "[MASK]", "")
"""What stands in place of a question that says nothing (Zhao et al., arXiv 2102.09690, section 5)."""
ASKED = 8  # questions whose examples stand before it


def references_of(tasks: Sequence[Task]) -> list[Reference]:
    """The right answers to tasks' questions. Raises a `SpecError` where a task has none that can be written."""
    found = []
    for task in tasks:
        its = [each for each in task.questions if each.reference]
        if not its:
            raise SpecError(f"the task {task.name!r} has no answers to fit on", hint="choose a task with right answers")
        found += [Reference(each.id, each.prompt, each.reference, task.name, _others(each)) for each in its]
    return found


def _others(question: Question) -> tuple[str, ...]:
    """The wrong choices, without those that say the same."""
    return tuple(each for each in dict.fromkeys(question.choices) if each and each != question.reference)


def fitted_on(tasks: Sequence[Task]) -> list[FittedOn]:
    return [
        FittedOn(task=task.name, source=task.source, questions=[each.id for each in task.questions]) for task in tasks
    ]


def read_answers(path: Path) -> tuple[list[Reference], FittedOn]:
    """The prompts and answers of JSON lines. Raises a `SpecError` that names the line."""
    try:
        data = read_data(path, named=True)
    except OSError as error:
        hint = FORM if error.errno == errno.EINVAL else "check the path"  # where it is read, and is no text
        raise SpecError(f"cannot read {str(path)!r}: {error.strerror}", hint=hint) from error
    found = []
    for number, words in enumerate(data.split(b"\n"), 1):
        if words.strip():
            found.append(_reference(path, number, words))
    if not found:
        raise SpecError(f"{str(path)!r} has no lines", hint=FORM)
    source = f"{path.name} sha256:{hashlib.sha256(data).hexdigest()}"
    return found, FittedOn(task="", source=source, questions=[each.id for each in found])


def _reference(path: Path, number: int, words: bytes) -> Reference:
    where = f"{str(path)!r}, line {number}"
    try:
        line = read_json(words)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{where}: {why_no_json(error)}", hint=FORM) from error
    return replace(reference_of(where, line), id=f"line {number}")


def priors(pool: ModelPool, tasks: Sequence[Task]) -> dict[str, dict[str, float]]:
    """By member, how likely it finds each lettered answer where the question says nothing, uncalibrated.

    Raises:
        SpecError: no question has answers of one letter, or questions have different ones.
    """
    lettered = [each for task in tasks for each in task.questions if _is_lettered(each)]
    if not lettered:
        raise SpecError(
            "no question is answered by a letter, so there is nothing to calibrate",
            hint="leave --calibrate out, or choose a task such as mmlu",
        )
    letters = lettered[0].choices
    if other := next((each.choices for each in lettered if each.choices != letters), None):
        raise SpecError(
            f"questions have the answers {shown(list(letters))} and {shown(list(other))}",
            hint="one set of answers can be calibrated: fit on tasks with the same",
        )
    prompts = [prompt for question in lettered[:ASKED] for prompt in _content_free(question)]
    asked = [(prompt, letter) for prompt in prompts for letter in letters]
    alone = [replace(pool.member(name), reshaped={name: {"calibrate": {}}}) for name in pool.members]
    found = {}
    for system, scores in zip(alone, pool.score_all(alone, asked), strict=True):
        for score in scores:
            if not isinstance(score, Score):
                raise score
        logp_NL = np.array([score.logp for score in scores if isinstance(score, Score)]).reshape(-1, len(letters))
        p_NL = np.exp(logp_NL - logp_NL.max(axis=1, keepdims=True))
        mean_L = np.maximum((p_NL / p_NL.sum(axis=1, keepdims=True)).mean(axis=0), LEAST_PRIOR)
        found[system.name] = {letter: round(float(p), 6) for letter, p in zip(letters, mean_L, strict=True)}
    return found


def _is_lettered(question: Question) -> bool:
    one_letter = all(len(choice.strip()) == 1 for choice in question.choices)
    return question.is_choice and one_letter and bool(question.words) and question.words in (question.prompt.text or "")


def _content_free(question: Question) -> list[Prompt]:
    before, _, after = (question.prompt.text or "").rpartition(question.words)
    return [Prompt(text=before + nothing + after) for nothing in CONTENT_FREE]
