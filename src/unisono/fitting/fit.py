"""Fitting: the weights and temperatures of members that make right answers likely, or that tell them from wrong ones.

Answers are read in two parts. From the part that is fitted on, what members say of each piece is kept, and the
objective is maximised over that (`unisono.fusion.fitting`). The lead cuts the answers into the pieces that members are
asked for; so where nothing says who leads, every member is tried as the lead, and the best fit is taken. The part that
is held out is then scored exactly, by the ensemble as it was, as it is fitted, and by each member alone: what is
promised is what that shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from unisono.build import Prepared
from unisono.fitting.bounds import LEAST, AtBound, at_bounds, bounded_temperature
from unisono.fitting.checks import check
from unisono.fitting.readings import (
    ObjectiveName,
    Observations,
    Scores,
    is_right,
    mean_of,
    nats_of,
    question_weights,
    read_scores,
    share_right,
    weights_of,
)
from unisono.fusion.fitting import Shape, fit_geometric, fit_mean, loss_of
from unisono.fusion.resampling import Interval, paired_bootstrap
from unisono.loaded_models import LoadedModels
from unisono.reference_answers import Reference, by_task, split

SHOWN_FROM = 10
"""Held-out answers that can show a gain: that of three lies above zero by chance every ninth time."""
SEED = 0
TRIED = 96
"""Answers on which leads are tried; more of them are read as the best of these cuts them."""
AS_IT_WAS, FITTED = "as it was", "as fitted"  # no member can have such a name


@dataclass(frozen=True, slots=True)
class FittedMember:
    """The fitted keys of one member, as they are written into an ensemble file."""

    name: str
    weight: float
    temperature: float
    calibrate: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Gain:
    """By how much the fitted ensemble is better than another system on held-out answers.

    Nats per byte, or, where choices were fitted, the share of questions answered rightly.
    """

    over: str
    """The other system: a member, or the ensemble as it was."""
    mean: float
    """Positive if the fitted ensemble is better."""
    interval: Interval
    """A bootstrap interval of the mean over answers, 95 %."""
    held_out: int
    """How many answers were held out."""

    @property
    def is_shown(self) -> bool:
        """Whether there are ten held-out answers or more, and the interval is above 0."""
        return self.held_out >= SHOWN_FROM and self.interval.low > 0


@dataclass(frozen=True, slots=True)
class Fit:
    """The result of fitting, and its gain on held-out answers."""

    rule: str
    """``mean`` or ``geometric``."""
    objective: ObjectiveName
    """``likelihood`` of right answers, or ``choices``: telling them from wrong ones."""
    lead: str
    """The member that cuts the answers into pieces."""
    members: tuple[FittedMember, ...]
    """What to write into the ensemble file."""
    parameters: int
    """How many numbers were fitted."""
    answers: int
    """How many answers were fitted on."""
    held_out: int
    """How many answers were held out."""
    leads: Mapping[str, float]
    """By lead that was tried, nats per byte of the answers on which leads were tried, with its own best weights; of
    choices, nats per question."""
    nats: Mapping[str, float]
    """By system, nats per byte on held-out answers, lower is better: each member alone, the ensemble as it was, and the
    fitted ensemble."""
    gains: tuple[Gain, ...]
    """Over the ensemble as it was, and over the member that was best on the other answers."""
    right: Mapping[str, float] = field(default_factory=dict)
    """Where choices were fitted: by system, the share of held-out questions whose right answer is the likeliest."""
    at_bounds: tuple[AtBound, ...] = ()
    """Parameters at the lowest or highest value that is fitted: the answers do not say where they should be."""

    @property
    def is_better(self) -> bool:
        """Whether the held-out answers show a gain over the ensemble as it was."""
        return self.gains[0].is_shown

    def to_json(self) -> dict[str, Any]:
        gains = [{**asdict(gain), "is_shown": gain.is_shown} for gain in self.gains]
        return {**asdict(self), "gains": gains, "is_better": self.is_better}


def fit(
    prepared: Prepared,
    models: LoadedModels,
    references: Sequence[Reference],
    *,
    rule: str | None = None,
    objective: ObjectiveName = "likelihood",
    temperatures: bool | None = None,
    before: Prepared | None = None,
    count: Callable[[int], None] = lambda answers: None,
) -> Fit:
    """Fit members to reference answers.

    Args:
        prepared: the ensemble as it is; calibrations, a lead and a gate that it has are kept, temperatures multiplied.
        models: its loaded models.
        references: answers; those of a task in an order that means nothing.
        rule: ``mean`` or ``geometric``; ``None`` for the ensemble's own.
        objective: ``likelihood`` makes right answers likely, ``choices`` makes them likelier than the wrong ones.
        temperatures: whether to fit the members' temperatures, too, or weights alone; by default not to choices.
        before: the ensemble as it was before it was calibrated, where it was.
        count: called with numbers of answers that have been read.

    Raises:
        SpecError: there are too few answers or members, or the method or the objective is none that can be fitted.
        PromptError: a member cannot read a prompt or spell an answer; the message names it.
        BackendMissing: scipy is not installed.
    """
    rule = check(prepared, references, rule, objective)
    fitted_on, held_out = split(references)
    temperatures = objective == "likelihood" if temperatures is None else temperatures
    best = _best(Observations(prepared, models, rule, objective), fitted_on, rule, temperatures, count)
    members = _members(prepared, best.shape)
    fitted = apply(prepared, best.lead, members, rule)
    scores = read_scores(_settings(prepared, models, before or prepared, fitted), held_out, objective, count)
    priors = {} if before is None else {each.name: each.calibrate for each in members}
    return Fit(
        rule=rule,
        objective=objective,
        lead=best.lead,
        members=members,
        parameters=len(members) - 1 + temperatures * len(members) + _free(priors),
        answers=len(fitted_on),
        held_out=len(held_out),
        leads=best.leads,
        nats={name: mean_of(nats_of(its, held_out), held_out) for name, its in scores.items()},
        right={name: share_right(its, held_out) for name, its in scores.items()} if objective == "choices" else {},
        gains=tuple(_gain(scores, over, held_out, objective) for over in (AS_IT_WAS, best.member)),
        at_bounds=_at_bounds(members, best.shape, priors),
    )


class _Best(NamedTuple):
    """Of the answers that are fitted on, the best fit."""

    lead: str
    leads: dict[str, float]
    """By lead that was tried, the loss of the answers that it was tried on."""
    shape: Shape
    member: str
    """The member that is best at them by itself."""


def _best(
    observations: Observations,
    references: Sequence[Reference],
    rule: str,
    temperatures: bool,
    count: Callable[[int], None],
) -> _Best:
    """Read all answers by the best of the leads that may be, and maximise the objective.

    Of many answers, a part is enough to choose a lead: what leads differ in is how the others like their cuts.
    """
    maximise = partial(fit_geometric if rule == "geometric" else fit_mean, temperatures=temperatures)
    leads = observations.leads
    tried, rest = (references, []) if len(leads) == 1 else _parted(references)
    observations.read(tried, leads, count)
    observed = {lead: observations.of(lead) for lead in leads}
    found = {lead: loss_of(its, maximise(its), rule) for lead, its in observed.items()}
    best = min(found, key=lambda name: found[name])  # the first, where several are as good
    observations.read(rest, [best], count)
    return _Best(best, found, maximise(observations.of(best)), observations.best_alone())


def _settings(prepared: Prepared, models: LoadedModels, before: Prepared, fitted: Prepared) -> dict[str, Any]:
    """What reads the held-out answers: each member alone, the ensemble as it was, and the fitted one."""
    alone = {member.spec.name: prepared.alone(member.spec.name) for member in prepared.members}
    systems = {**alone, AS_IT_WAS: before, FITTED: fitted}
    return {name: models.engine(system).setting() for name, system in systems.items()}


def _parted(references: Sequence[Reference]) -> tuple[list[Reference], list[Reference]]:
    """Answers on which leads are tried, spread over each task, and the others."""
    tried: set[Reference] = set()
    for its in by_task(references).values():
        count = min(len(its), max(1, round(TRIED * len(its) / len(references))))
        tried.update(its[place * len(its) // count] for place in range(count))
    return [each for each in references if each in tried], [each for each in references if each not in tried]


def _at_bounds(
    members: Sequence[FittedMember], shape: Shape, priors: Mapping[str, Mapping[str, float]]
) -> tuple[AtBound, ...]:
    return at_bounds([each.name for each in members], shape, [each.temperature for each in members], priors)


def _free(priors: Mapping[str, Mapping[str, float]]) -> int:
    """How many numbers calibrations have, of which only ratios matter."""
    return sum(max(0, len(prior) - 1) for prior in priors.values())


def apply(prepared: Prepared, lead: str, members: Sequence[FittedMember], rule: str) -> Prepared:
    """An ensemble as it is fitted."""
    keys = {
        each.name: {"weight": each.weight, "temperature": each.temperature, "calibrate": dict(each.calibrate)}
        for each in members
    }
    return prepared.reshaped(keys).ruled(rule).led(lead)


def _members(prepared: Prepared, shape: Shape) -> tuple[FittedMember, ...]:
    """The members as they are fitted; their temperatures multiply those that they had."""
    found = []
    for place, member in enumerate(prepared.members):
        weight = max(LEAST, round(float(shape.weight_K[place]), 4))
        temperature = bounded_temperature(member.spec.temperature, float(shape.temperature_K[place]))
        found.append(FittedMember(member.spec.name, weight, temperature, dict(member.spec.calibrate)))
    return tuple(found)


def _gain(scores: Scores, over: str, references: Sequence[Reference], objective: ObjectiveName) -> Gain:
    """The interval is that of the mean over answers, each of which counts as its bytes and its task say."""
    if objective == "choices":
        weights = question_weights(references)
        loss = {name: [float(not is_right(logp_A)) for logp_A in scores[name]] for name in (over, FITTED)}
    else:
        weights = weights_of(references)
        loss = {name: nats_of(scores[name], references) for name in (over, FITTED)}
    differences = [
        weight * (other - fitted) for weight, other, fitted in zip(weights, loss[over], loss[FITTED], strict=True)
    ]
    return Gain(over, float(np.mean(differences)), paired_bootstrap(differences, SEED), len(references))
