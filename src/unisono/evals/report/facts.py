"""Which systems and tasks a run has: what it says of them, and where it says nothing, what its answers tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from unisono.evals.records import ENSEMBLE, Answer, Results
from unisono.evals.report.records import ENSEMBLE_KIND, KINDS, MEMBER, VARIANT, SystemFacts, TaskFacts


def systems_of(results: Results) -> tuple[SystemFacts, ...]:
    """The systems in the run's order; those that only answers name come last."""
    said = {str(each["name"]): each for each in results.about.get("systems") or ()}
    members = set(results.about.get("models") or ())
    names = _in_order(said, (answer.system for answer in results.answers))
    return tuple(_system(name, said.get(name, {}), members) for name in names)


def tasks_of(results: Results) -> tuple[TaskFacts, ...]:
    """The tasks in the run's order; those that only answers name come last."""
    said = {str(each["name"]): each for each in results.about.get("tasks") or ()}
    answers: dict[str, list[Answer]] = {}
    for answer in results.answers:
        answers.setdefault(answer.task, []).append(answer)
    return tuple(_task(name, said.get(name, {}), answers.get(name, ())) for name in _in_order(said, answers))


def _in_order(said: Iterable[str], met: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*said, *sorted(set(met))]))


def _system(name: str, said: Mapping[str, Any], members: set[str]) -> SystemFacts:
    voters = tuple(said.get("members") or ())
    alone = name in members or len(voters) == 1
    guessed = ENSEMBLE_KIND if name == ENSEMBLE else MEMBER if alone else VARIANT
    kind = said.get("kind")
    return SystemFacts(
        name,
        kind if kind in KINDS else guessed,
        voters,
        said.get("method"),
        said.get("weights"),
        said.get("source"),
    )


def _task(name: str, said: Mapping[str, Any], answers: Sequence[Answer]) -> TaskFacts:
    met = dict.fromkeys(metric for answer in answers for metric in answer.metrics)
    asked = sorted({answer.question for answer in answers})
    return TaskFacts(
        name,
        tuple(dict.fromkeys([*(said.get("metrics") or ()), *met])),
        tuple(dict.fromkeys([*(said.get("questions") or ()), *asked])),
        said.get("shots"),
        None if said.get("version") is None else str(said["version"]),
        "; ".join(str(said[key]) for key in ("source", "examples") if said.get(key)) or None,
    )
