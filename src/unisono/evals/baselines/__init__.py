"""Ways to combine whole answers of the members, to compare with combining tokens.

A baseline has two parts. `Baseline.gather` runs models on one question; its evidence is stored with the answers, so a
killed run can continue. `Baseline.decide` runs no model: from the evidence of all questions it chooses one member's
answer for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from unisono.config.compact import read_number
from unisono.errors import SpecError, nearest, shown
from unisono.evals.baselines.base import NAMES, Baseline, Case, Choice
from unisono.evals.baselines.confidence import BestMember, Cascade, Majority
from unisono.evals.baselines.cycles_of_thought import CyclesOfThought
from unisono.evals.baselines.ranker import Ranker
from unisono.evals.baselines.self_evaluation import SelfEvaluation
from unisono.evals.baselines.verifiers import GenRM, SkillAggregation

__all__ = ["BASELINES", "Baseline", "Case", "Choice", "make_baseline"]

_KINDS: tuple[type[Baseline], ...] = (
    *(BestMember, Majority, Ranker, SelfEvaluation),
    *(GenRM, SkillAggregation, Cascade, CyclesOfThought),
)
BASELINES: Mapping[str, type[Baseline]] = {kind.kind: kind for kind in _KINDS}


def make_baseline(words: str) -> Baseline:
    """Make ``majority``, ``cascade:0.8``, ``cascade:0.8 share:0.5`` … Raises a `SpecError` for wrong words."""
    head, *rest = words.split() or [""]
    name, colon, value = head.partition(":")
    if name not in BASELINES:
        raise SpecError(
            f"unknown baseline {shown(name)}{nearest(name, BASELINES)}; known: {', '.join(BASELINES)}",
            hint="parameters follow a colon, as in cascade:0.8",
        )
    kind = BASELINES[name]
    known = {key.name: key.default for key in fields(kind)}
    pairs = [word.partition(":") for word in rest]
    if colon:
        if not kind.first:
            raise SpecError(f"{name!r} is given {shown(value)}, but {_ways(kind)}", hint=f"write {name} alone")
        pairs.insert(0, (kind.first, colon, value))
    given: dict[str, object] = {}
    for key, colon, text in pairs:
        if key not in known:
            raise SpecError(f"unknown parameter {shown(key)} of {name!r}{nearest(key, known)}", hint=_ways(kind))
        is_flag = isinstance(known[key], bool)
        if key in given or is_flag == bool(colon) or (colon and not text):
            wrong = "is given twice" if key in given else "is a flag" if is_flag else "lacks its value"
            raise SpecError(f"the parameter {key!r} of {name!r} {wrong}", hint=_ways(kind))
        given[key] = True if is_flag else text if key in NAMES else read_number(text)
    return kind(**given)


def _ways(kind: type[Baseline]) -> str:
    known = fields(kind)
    if not known:
        return f"{kind.kind} has no parameters"
    forms = [
        f"{kind.kind}:{key.name.upper()}"
        if key.name == kind.first
        else key.name
        if isinstance(key.default, bool)
        else f"{key.name}:{'NAME' if key.name in NAMES else 'NUMBER'}"
        for key in known
    ]
    return f"its parameters are written {', '.join(forms)}"
