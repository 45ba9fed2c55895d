"""Ways to combine whole answers of the members, to see what combining tokens is worth beside them.

A baseline works in two parts. `Baseline.gather` runs models about one question, and what it finds (its evidence) is
kept with the answers, so that a run can go on after it was killed. `Baseline.decide` runs none: from all questions'
evidence it chooses, for each, one of the members' answers. ::

    baseline = make_baseline("genrm")
    baseline.check(pool.members)
    evidence = baseline.gather(question, candidates, pool)
    (choice,) = baseline.decide([Case(question.id, candidates, evidence)])
"""

from __future__ import annotations

from collections.abc import Mapping

from unisono.evals.baselines.base import Baseline, Case, Choice
from unisono.evals.baselines.best_member import BestMember
from unisono.evals.baselines.cascade import Cascade
from unisono.evals.baselines.cycles_of_thought import CyclesOfThought
from unisono.evals.baselines.genrm import GenRM
from unisono.evals.baselines.majority import Majority
from unisono.evals.baselines.ranker import Ranker
from unisono.evals.baselines.self_evaluation import SelfEvaluation
from unisono.evals.baselines.skill_aggregation import SkillAggregation
from unisono.evals.baselines.words import Parametric, read

__all__ = [
    "BASELINES",
    "Baseline",
    "BestMember",
    "Cascade",
    "Case",
    "Choice",
    "CyclesOfThought",
    "GenRM",
    "Majority",
    "Ranker",
    "SelfEvaluation",
    "SkillAggregation",
    "make_baseline",
]

_KINDS: tuple[type[Parametric], ...] = (
    BestMember,
    Majority,
    Ranker,
    SelfEvaluation,
    GenRM,
    SkillAggregation,
    Cascade,
    CyclesOfThought,
)
BASELINES: Mapping[str, type[Parametric]] = {kind.kind: kind for kind in _KINDS}
"""By the name on the command line."""


def make_baseline(words: str) -> Baseline:
    """Make the baseline that is written so: ``majority``, ``cascade:0.8``, ``cascade:0.8 share:0.5`` …

    Raises:
        SpecError: there is none of that name, or a parameter is wrong.
    """
    return read(BASELINES, words)
