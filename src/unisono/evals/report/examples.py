"""Questions worth looking at: those that the ensemble repaired, and those that it spoiled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unisono.evals.records import Answer
from unisono.evals.report.cells import Values
from unisono.evals.report.records import Example, TaskFacts

MOST = 5
"""Examples of a kind and task."""
RIGHT = 0.5
"""An answer is right where its main metric is larger."""


def examples_of(
    task: TaskFacts,
    ensemble: str,
    best: str,
    members: Sequence[str],
    values: Mapping[str, Values],
    answers: Mapping[str, Mapping[str, Answer]],
    words: Mapping[str, Any],
) -> tuple[list[Example], list[Example]]:
    """Questions that the ensemble alone has right of it and the best member, and those that only the best member has.

    Those at which either failed are left out: there is nothing to look at.

    Args:
        task: its facts.
        ensemble: the system that is the ensemble.
        best: the best member.
        members: the systems that are members.
        values: by system, what its answers are worth.
        answers: by system and question.
        words: by question, its ``prompt``, ``target`` and ``choices``, as far as the run kept them.

    Returns:
        All that were repaired, and all that were spoiled, in the order of the task: questions that are not shown are
        dropped by whoever shows them.
    """
    repaired: list[Example] = []
    spoiled: list[Example] = []
    for question in task.questions:
        pair = [answers[system].get(question) for system in (ensemble, best)]
        if any(answer is None or answer.error is not None for answer in pair):
            continue
        right = {system: own[question] > RIGHT for system, own in values.items() if question in own}
        if ensemble not in right or best not in right or right[ensemble] == right[best]:
            continue
        kept = words.get(question) or {}
        (repaired if right[ensemble] else spoiled).append(
            Example(
                task.name,
                question,
                kept.get("prompt"),
                kept.get("target"),
                tuple(kept.get("choices") or ()),
                best,
                tuple(name for name in members if right.get(name)),
                tuple(own[question] for own in answers.values() if question in own),
                {system: own[question] for system, own in values.items() if question in own},
            )
        )
    return repaired, spoiled
