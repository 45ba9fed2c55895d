"""Searches the best setting of an ensemble (weights, temperatures, combine rule, gate, lead) on development questions.

Each stage starts from the best setting of the previous one: weights and temperatures that make right answers likely
(`unisono.fitting`), then rule, then other weights, then gate and lead. Settings compare by the mean of tasks' accuracy.
Ties go to the first, simpler one, but to the fit where answers that it was not fitted on show a gain. Among gates that
lose nothing, the one that runs all members least often wins.

The questions come from the end of each task's order; `unisono eval` takes the first. The tuned file names them
(``tuned_on``), so that an evaluation of that file leaves them out.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from unisono.config.ensemble import Fitted, TunedOn
from unisono.config.method import Method
from unisono.errors import SpecError
from unisono.evals import systems as make
from unisono.evals.analysis.references import references_of
from unisono.evals.model_pool import ModelPool
from unisono.evals.records import System, Task
from unisono.evals.results import RunFolder
from unisono.evals.runner import evaluate
from unisono.fitting.checks import check, check_answers
from unisono.fitting.fit import Fit, fit
from unisono.identity import marks_of
from unisono.reference_answers import Reference

RULES = ("mean", "geometric", "mean,weights:entropy", "mean,weights:consistency")
SHARES = (0.2, 0.35, 0.65, 0.8)
"""Weight shares tried for each member; the others divide the rest in their previous proportions."""
GATES = ("confidence:0.3", "confidence:0.5", "confidence:0.7", "confidence:0.9")
"""Each is tried with every member as the lead."""
FIT = "fit"
STAGES = (FIT, "rule", "weights", "gate")


@dataclass(frozen=True, slots=True)
class Trial:
    stage: str
    setting: str
    """As `systems.variant` reads it; empty for the ensemble as its file describes it."""
    accuracy: float
    error: float
    ensembled: float
    """Share of pieces at which all members ran."""
    by_task: Mapping[str, float]
    questions: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Tuned:
    setting: str
    trials: tuple[Trial, ...]
    tuned_on: tuple[TunedOn, ...]
    fit: Fit | None = None
    """Where weights and temperatures were fitted: what was found, and what answers that were held out show of it."""
    at_ends: tuple[str, ...] = ()
    """In words, what was taken at an end of what was tried, so that more of it may be better yet."""

    @property
    def best(self) -> Trial:
        return next(trial for trial in self.trials if trial.setting == self.setting)

    @property
    def seconds(self) -> float:
        return sum(trial.seconds for trial in self.trials)

    def to_json(self) -> dict[str, Any]:
        return {
            "setting": self.setting,
            "seconds": round(self.seconds, 3),
            "trials": [asdict(trial) for trial in self.trials],
            "tuned_on": [each.model_dump() for each in self.tuned_on],
            "fit": self.fit and self.fit.to_json(),
            "at_ends": list(self.at_ends),
        }


def answers_to_fit(pool: ModelPool, tasks: Sequence[Task]) -> list[Reference]:
    """The right answers to the questions. Raises a `UnisonoError` where the members cannot be fitted to them."""
    references = references_of(tasks)
    check(pool.prepared, references)
    check_answers(pool.prepared, references)
    return references


def tune(
    pool: ModelPool,
    tasks: Sequence[Task],
    folder: RunFolder,
    *,
    stages: Sequence[str] = STAGES,
    gates: Sequence[str] = GATES,
    references: Sequence[Reference] = (),
    count: Callable[[int], None] = lambda answers: None,
) -> Tuned:
    """Search the best setting, reusing answers in the folder.

    ``references`` are what the stage `fit` is fitted to, as `answers_to_fit` gives them; without any it is left out.
    Raises a `SpecError` for a negative weight.
    """
    if any(member.weight < 0 for member in pool.prepared.members):
        raise SpecError("a member has a negative weight: weights cannot be tuned", hint="tune without an amateur")
    search = _Search(pool, tasks, folder, count)
    best, fitted, ends = "", None, dict[str, str]()
    if FIT in stages and references:
        fitted = fit(pool.prepared, pool.models, references, count=count)
        best = _best(search.run(FIT, _by_gain(fitted))).setting
    for stage in (each for each in STAGES if each in stages and each != FIT):
        before = best
        trials = search.run(stage, [best, *_settings(stage, best, pool, gates)])
        best = (_best_gate(trials) if stage == "gate" else _best(trials)).setting
        ends[stage] = _end(stage, before, best, pool, trials)
    asked = tuple(TunedOn(task=task.name, source=task.source, last=len(task.questions)) for task in tasks)
    return Tuned(best, tuple(search.trials.values()), asked, fitted, tuple(filter(None, ends.values())))


def _by_gain(fitted: Fit) -> list[str]:
    """The ensemble as it was and as it is fitted; the first of them is taken if they are right equally often."""
    weights, temperatures = (
        ",".join(f"{each.name}:{getattr(each, key):g}" for each in fitted.members) for key in ("weight", "temperature")
    )
    both = ["", f"lead={fitted.lead} {make.WEIGHTS}={weights} {make.TEMPERATURES}={temperatures}"]
    return both[::-1] if fitted.is_better else both


def tuned_spec(spec: Mapping[str, Any], pool: ModelPool, tuned: Tuned) -> dict[str, Any]:
    """The content of an ensemble file with the best setting filled in."""
    system = _system(pool, tuned.setting)
    weights, reshaped = _weights(pool, system), system.reshaped or {}
    members = []
    for member in spec["members"]:
        given = {key: value for key, value in member.items() if key != "weight"}
        weight = weights.get(member["name"], member.get("weight", 1.0))
        members.append({**given, "weight": weight, **reshaped.get(member["name"], {})})
    method = system.method
    before = [TunedOn.model_validate(each) for each in spec.get("tuned_on", ())]
    kept = {key: value for key, value in spec.items() if key not in ("members", "lead", "combine", "gate", "tuned_on")}
    return {
        "members": members,
        "lead": method.lead_among(weights),
        "combine": str(method.combine),
        "gate": str(method.gate),
        **kept,
        **({"fitted": _fitted_now(kept.get("fitted"), pool)} if reshaped else {}),
        "tuned_on": [each.model_dump() for each in _all_of(before, tuned.tuned_on)],
    }


def _fitted_now(before: Mapping[str, Any] | None, pool: ModelPool) -> dict[str, Any]:
    """To which models the temperatures are fitted; on which questions, `tuned_on` says."""
    models = {member.spec.name: marks_of(member) for member in pool.prepared.members}
    return Fitted.model_validate({**(before or {}), "models": models}).model_dump()


def _all_of(*searches: Sequence[TunedOn]) -> list[TunedOn]:
    """Merge the questions of several searches: the largest number per task and source."""
    most: dict[tuple[str, str], TunedOn] = {}
    for each in itertools.chain(*searches):
        key = each.task, each.source
        most[key] = max(most.get(key, each), each, key=lambda seen: seen.last)
    return list(most.values())


@dataclass
class _Search:
    pool: ModelPool
    tasks: Sequence[Task]
    folder: RunFolder
    count: Callable[[int], None]
    trials: dict[str, Trial] = field(default_factory=dict)
    """One per distinct method."""

    def run(self, stage: str, settings: Sequence[str]) -> list[Trial]:
        """Try settings on the same questions; equivalent settings run once."""
        systems: dict[str, tuple[str, System]] = {}
        for setting in settings:
            system = _system(self.pool, setting)
            systems.setdefault(
                json.dumps([system.method.to_json(), system.weights, system.reshaped]), (setting, system)
            )
        new = {way: found for way, found in systems.items() if way not in self.trials}
        if new:
            evaluate(self.pool, self.tasks, [system for _, system in new.values()], self.folder, count=self.count)
        for way, (setting, system) in new.items():
            self.trials[way] = self._trial(stage, setting, system)
        return [self.trials[way] for way in systems]

    def _trial(self, stage: str, setting: str, system: System) -> Trial:
        keys = [(task.name, question.id, system.name) for task in self.tasks for question in task.questions]
        answers = [self.folder.known[key] for key in keys]
        main = {task.name: task.metrics[0] for task in self.tasks}
        right: dict[str, list[float]] = {}
        for answer in answers:
            right.setdefault(answer.task, []).append(answer.metrics.get(main[answer.task], 0.0))
        pieces = sum(answer.pieces for answer in answers)
        by_task = {name: sum(values) / len(values) for name, values in right.items()}
        variances = [by_task[name] * (1 - by_task[name]) / len(values) for name, values in right.items()]
        return Trial(
            stage,
            setting,
            sum(by_task.values()) / len(by_task),
            math.sqrt(sum(variances)) / len(variances),
            sum(answer.ensembled for answer in answers) / pieces if pieces else 0.0,
            by_task,
            len(keys),
            sum(self.folder.times[key].seconds for key in keys if key in self.folder.times),
        )


def _system(pool: ModelPool, setting: str) -> System:
    return make.variant(pool, setting) if setting else make.ensemble(pool)


def _weights(pool: ModelPool, system: System) -> Mapping[str, float]:
    return system.weights or pool.prepared.weights


def _settings(stage: str, best: str, pool: ModelPool, gates: Sequence[str]) -> list[str]:
    if stage == "rule":
        return [_but(best, combine=rule) for rule in RULES]
    if stage == "weights":
        return list(_by_share(best, pool))
    method: Method = pool.prepared.spec.method
    if method.draw.mixture:
        return []
    return [_but(best, gate=gate, lead=lead) for lead in pool.members for gate in gates]


def _by_share(best: str, pool: ModelPool) -> dict[str, tuple[str, float]]:
    """Settings of other weights, by which member's share is how much in them."""
    shares = _weights(pool, _system(pool, best))
    varied = list(shares)[:1] if len(shares) == 2 else list(shares)  # of two members, one is enough
    return {_but(best, weights=_with_share(shares, name, share)): (name, share) for name in varied for share in SHARES}


def _end(stage: str, before: str, taken: str, pool: ModelPool, trials: Sequence[Trial]) -> str:
    """In words, that a stage took what is at an end of what it tried; empty where it did not."""
    if taken == before:
        return ""
    if stage == "weights" and (found := _by_share(before, pool).get(taken)):
        return _end_of_shares(*found)
    if stage == "gate" and ":" in (gate := _words(taken).get("gate", "")):
        return _end_of_gates(gate, taken, [each for each in trials if each.setting != before])
    return ""


def _end_of_shares(name: str, share: float) -> str:
    if share not in (SHARES[0], SHARES[-1]):
        return ""
    which = "smallest" if share == SHARES[0] else "largest"
    others = f"`unisono eval --variant {make.WEIGHTS}=...` tries others"
    return f"{name}'s share of the weights, {share:g}, is the {which} that was tried; {others}"


def _end_of_gates(gate: str, taken: str, trials: Sequence[Trial]) -> str:
    def looks(setting: str) -> tuple[str, str]:
        words = _words(setting)
        return words.get("lead", ""), words.get("gate", "").partition(":")[0]

    asked = {each.setting: each.ensembled for each in trials if looks(each.setting) == looks(taken)}
    if asked.get(taken, 1.0) > min(asked.values(), default=0.0):
        return ""
    return (
        f"the gate {gate} asks least of those of its kind that were tried; --gates tries others, which may ask less "
        "and lose nothing"
    )


def _with_share(shares: Mapping[str, float], name: str, share: float) -> str:
    rest = sum(weight for other, weight in shares.items() if other != name)
    given = {other: share if other == name else (1 - share) * weight / rest for other, weight in shares.items()}
    return ",".join(f"{other}:{weight:.4g}" for other, weight in given.items())


def _but(setting: str, **keys: str) -> str:
    return " ".join(f"{key}={value}" for key, value in {**_words(setting), **keys}.items())


def _words(setting: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in setting.split())


def _best(trials: Sequence[Trial]) -> Trial:
    return max(trials, key=lambda trial: trial.accuracy)  # the first of the largest


def _best_gate(trials: Sequence[Trial]) -> Trial:
    """The trial with the fewest ensembled pieces among those as good as the first, which has the previous gate."""
    sound = [trial for trial in trials if trial.accuracy >= trials[0].accuracy]
    return min(sound, key=lambda trial: trial.ensembled)
