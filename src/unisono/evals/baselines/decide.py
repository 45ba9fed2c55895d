"""The answers of baselines, computed from their gathered evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from unisono.evals.baselines import Baseline, Case, make_baseline
from unisono.evals.records import Answer, Key, Kind, Results, Times


def decide_all(results: Results) -> Results:
    """Add the answers of the baselines to results. Raises `BackendMissing` when one needs a library.

    A baseline's pieces and seconds are those of the members that had to answer, plus those of its evidence.
    """
    members = [each["name"] for each in results.about.get("systems", ()) if each["kind"] == Kind.MEMBER]
    answers = {each.key: each for each in results.answers}
    times = {each.key: each for each in results.times}
    for baseline in baselines_of(results.about):
        for task in dict.fromkeys(answer.task for answer in results.answers):
            _decide(baseline, task, members, answers, times)
    return replace(results, answers=list(answers.values()), times=list(times.values()))


def baselines_of(about: Mapping[str, Any]) -> list[Baseline]:
    """The baselines of a run. Raises `BackendMissing` when one needs a library that is not installed."""
    found = [make_baseline(each["name"]) for each in about.get("systems", ()) if each["kind"] == Kind.BASELINE]
    for baseline in found:
        baseline.check_libraries()
    return found


def _decide(
    baseline: Baseline, task: str, members: Sequence[str], answers: dict[Key, Answer], times: dict[Key, Times]
) -> None:
    cases = []
    for key, answer in answers.items():
        if (key[0], key[2]) == (task, baseline.name) and answer.error is None:
            found = {name: answers[task, key[1], name] for name in members if (task, key[1], name) in answers}
            candidates = {name: each for name, each in found.items() if each.error is None}
            cases.append(Case(key[1], candidates, answer.evidence or {}))
    cases.sort(key=lambda case: case.question)  # decisions do not depend on the order of the answers
    for case, choice in zip(cases, baseline.decide(cases), strict=True):
        key = (task, case.question, baseline.name)
        chosen = case.candidates[choice.member]
        pieces = sum(case.candidates[name].pieces for name in choice.asked)
        answers[key] = replace(
            chosen,
            system=baseline.name,
            pieces=pieces,
            ensembled=0,
            p=(),
            disputes=(),
            evidence=answers[key].evidence,
            sure=choice.confidence,
        )
        asked = [times[task, case.question, name] for name in choice.asked if (task, case.question, name) in times]
        gathered = times.get(key, Times(*key, 0.0, 0.0, 0))
        seconds = sum(each.seconds for each in asked) + gathered.seconds
        writing = sum(each.writing for each in asked) + gathered.seconds
        times[key] = Times(*key, seconds, writing, sum(each.pieces for each in asked), wave=gathered.wave)
