"""All answers of a run and their times, by task, system and question."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from unisono.errors import SpecError
from unisono.evals.records import Answer, Results, Times
from unisono.evals.report.records import TaskFacts

Record = TypeVar("Record", Answer, Times)
Key = tuple[str, str]
"""A task and a system."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """Answers and times; questions stand in the order of their task."""

    answers: Mapping[Key, Mapping[str, Answer]]
    times: Mapping[Key, Mapping[str, Times]]
    """Those that were taken side by side."""
    apart: Mapping[Key, int]
    """How many others there were."""

    def of(self, task: str, system: str) -> Mapping[str, Answer]:
        """By question, what a system answered."""
        return self.answers.get((task, system), {})

    def timed(self, task: str, system: str) -> Mapping[str, Times]:
        """By question, how long that took."""
        return self.times.get((task, system), {})

    def values(self, task: str, system: str, metric: str) -> dict[str, float]:
        """By question, what a system's answer is worth: 0 where it failed; left out where the metric was not taken."""
        return {
            question: 0.0 if answer.error is not None else answer.metrics[metric]
            for question, answer in self.of(task, system).items()
            if answer.error is not None or metric in answer.metrics
        }


def read_sheet(results: Results, tasks: Sequence[TaskFacts]) -> Sheet:
    """Lay the answers of a run out.

    Of several times of one answer the last is taken: a run that was killed between the two writes both anew. Times of a
    question that were not taken in one wave with its first are left out: the machine may have been another one then.

    Raises:
        SpecError: a question is answered twice by one system.
    """
    answers: dict[Key, dict[str, Answer]] = {}
    for answer in results.answers:
        own = answers.setdefault((answer.task, answer.system), {})
        if answer.question in own:
            raise SpecError(
                f"{answer.system} answers the question {answer.question!r} of {answer.task} twice",
                hint="one folder holds one run; report on each alone",
            )
        own[answer.question] = answer
    times: dict[Key, dict[str, Times]] = {}
    for each in results.times:
        times.setdefault((each.task, each.system), {})[each.question] = each
    first: dict[Key, int] = {}
    for each in itertools.chain.from_iterable(own.values() for own in times.values()):
        first[each.task, each.question] = min(each.wave, first.get((each.task, each.question), each.wave))
    together = {
        key: {question: each for question, each in own.items() if each.wave == first[each.task, question]}
        for key, own in times.items()
    }
    apart = {key: len(own) - len(together[key]) for key, own in times.items()}
    places = {task.name: {question: place for place, question in enumerate(task.questions)} for task in tasks}

    def in_order(by_question: dict[str, Record], task: str) -> dict[str, Record]:
        place = places.get(task, {})
        return dict(sorted(by_question.items(), key=lambda item: (place.get(item[0], len(place)), item[0])))

    return Sheet(
        {key: in_order(own, key[0]) for key, own in answers.items()},
        {key: in_order(own, key[0]) for key, own in together.items()},
        apart,
    )
