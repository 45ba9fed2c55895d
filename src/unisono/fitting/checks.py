"""Whether an ensemble can be fitted to answers: asked before any weights are loaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import NamedTuple, get_args

from unisono.build import Prepared
from unisono.chat.prompt_encoder import PromptEncoder
from unisono.config.combine import Combine
from unisono.config.sampling import MEMBER, SHAPING
from unisono.engine.given_text import cut
from unisono.errors import BackendMissing, PromptError, SpecError, shown
from unisono.fitting.readings import ObjectiveName, answers_of, leads_of, of_reference
from unisono.reference_answers import Reference, split
from unisono.vocab.spelling import Speller
from unisono.vocab.union import MemberMap

RULES = ("mean", "geometric")
FEWEST = 8
"""Answers, of which two are held out."""


def check(
    prepared: Prepared,
    references: Sequence[Reference],
    rule: str | None = None,
    objective: ObjectiveName = "likelihood",
) -> str:
    """The rule that is fitted. Raises a `SpecError`, or a `BackendMissing`, where `fit.fit` would before reading."""
    method = prepared.spec.method
    found = rule or method.combine.rule
    if len(prepared.members) < 2:
        raise SpecError("the ensemble has one member: there is nothing to weigh", hint="add a member")
    if found not in RULES:
        raise SpecError(f"the rule {shown(found)} cannot be fitted", hint=f"choose {' or '.join(RULES)}")
    if any(member.weight < 0 for member in prepared.members):
        raise SpecError("a member has a negative weight: weights cannot be fitted", hint="fit without an amateur")
    if method.combine not in (Combine(method.combine.rule), Combine()):
        raise SpecError(
            f"combine is {str(method.combine)!r}, of which only the rule can be fitted",
            hint=f"leave its other keys out, or choose --rule {RULES[0]} for a file that says combine: {RULES[0]}",
        )
    if method.vocabulary.is_bytes:
        raise SpecError(
            "vocabulary is bytes, and weights are fitted to pieces of a union",
            hint="fit with vocabulary: union; the weights serve both",
        )
    if own := [MEMBER + name for name in SHAPING if name != "logit_bias" and method.sampling.changes(MEMBER + name)]:
        raise SpecError(
            f"sampling has {', '.join(own)}, which is no part of what is fitted: the weights would be those of other "
            "votes",
            hint=f"leave {'it' if len(own) == 1 else 'them'} out; fitting finds members' temperatures",
        )
    if told := [member.spec.name for member in prepared.members if member.facts.truncated]:
        raise SpecError(
            f"member {told[0]!r} reports only its most likely ids: other pieces of an answer have no probability",
            hint="load it with a backend that reports whole distributions",
        )
    _check_references(references, objective)
    check_installed()
    return found


def _check_references(references: Sequence[Reference], objective: ObjectiveName) -> None:
    """Whether there are enough answers, and such as the objective asks for."""
    if len(references) < FEWEST:
        answers = "answer" if len(references) == 1 else "answers"
        raise SpecError(
            f"there {'is' if len(references) == 1 else 'are'} {len(references)} reference {answers}: too few to fit, "
            "and to see what it is worth",
            hint=f"give {FEWEST} or more; a few hundred are good",
        )
    split(references)
    if objective not in get_args(ObjectiveName):
        raise SpecError(
            f"the objective {shown(objective)} cannot be fitted", hint=f"choose {' or '.join(get_args(ObjectiveName))}"
        )
    if objective == "choices" and (alone := next((each for each in references if not each.others), None)):
        raise SpecError(
            f"the reference {alone.name} has no wrong answers that the right one could be told from",
            hint='give "choices", or questions that ask for one of several, or fit by likelihood',
        )


class _Cutter(NamedTuple):
    encoder: PromptEncoder
    speller: Speller
    map: MemberMap


def check_answers(prepared: Prepared, references: Sequence[Reference], objective: ObjectiveName = "likelihood") -> None:
    """Cut all answers as they will be read, without any weights. Raises a `PromptError` that names an answer."""
    ensembles = [
        *(prepared.led(lead) for lead in leads_of(prepared)),
        *(prepared.alone(member.spec.name) for member in prepared.members),
    ]
    for each in ensembles:
        place = list(each.weights).index(each.spec.method.lead_among(each.weights))
        lead = each.members[place]
        cutter = _Cutter(lead.encoder, lead.speller, each.union.maps[place])
        for reference in references:
            try:
                for asked in answers_of(reference, objective):
                    cut(cutter, reference.prompt, asked.answer)
            except PromptError as error:
                raise of_reference(reference, error) from error


def check_installed() -> None:
    """Raise a `BackendMissing` where scipy is not installed."""
    if importlib.util.find_spec("scipy") is None:
        raise BackendMissing("fitting needs scipy, which is not installed", hint="pip install 'unisono[evals]'")
