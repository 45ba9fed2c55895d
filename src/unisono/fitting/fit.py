"""Fitting: the weights, temperatures and calibrations of members that make reference answers likely.

Answers are read twice. From the part that is fitted on, what members say of each piece is kept, and the likelihood is
maximised over that (`unisono.fusion.fitting`). The lead cuts the answers into the pieces that members are asked for; so
where nothing says who leads, every member is tried as the lead, and the likeliest fit is taken. The part that is held
out is then scored exactly, by the ensemble as it was, as it is fitted, and by each member alone: what is promised is
what that shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from unisono.build import Models, Prepared
from unisono.fitting.bounds import LEAST, AtBound, at_bounds, bounded_temperature
from unisono.fitting.checks import check
from unisono.fitting.readings import Losses, Observations, leads_of, mean_of, read_losses, weights_of
from unisono.fusion.fitting import Shape, fit_geometric, fit_mean, nats
from unisono.fusion.resampling import Interval, paired_bootstrap
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
    """By how much the fitted ensemble is better than another system on held-out answers, in nats per byte."""

    over: str
    """The other system: a member, or the ensemble as it was."""
    mean: float
    """Nats per byte; positive if the fitted ensemble is better."""
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
    """By lead that was tried, nats per byte of the answers on which leads were tried, with its own best weights."""
    nats: Mapping[str, float]
    """By system, nats per byte on held-out answers, lower is better: each member alone, the ensemble as it was, and the
    fitted ensemble."""
    gains: tuple[Gain, ...]
    """Over the ensemble as it was, and over the member that was best on the other answers."""
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
    models: Models,
    references: Sequence[Reference],
    *,
    rule: str | None = None,
    temperatures: bool = True,
    before: Prepared | None = None,
    count: Callable[[int], None] = lambda answers: None,
) -> Fit:
    """Fit members to reference answers by likelihood.

    Args:
        prepared: the ensemble as it is; calibrations that it has are kept, and temperatures multiplied. A lead or a
            gate that it names is kept.
        models: its loaded models.
        references: answers; those of a task in an order that means nothing.
        rule: ``mean`` or ``geometric``; ``None`` for the ensemble's own.
        temperatures: whether to fit the members' temperatures, or the weights alone.
        before: the ensemble as it was before it was calibrated, where it was.
        count: called with numbers of answers that have been read.

    Raises:
        SpecError: there are too few answers or members, or the method is none that can be fitted.
        PromptError: a member cannot read a prompt or spell an answer; the message names it.
        BackendMissing: scipy is not installed.
    """
    rule = check(prepared, references, rule)
    fitted_on, held_out = split(references)
    likeliest = _likeliest(prepared, models, fitted_on, rule, temperatures, count)
    members = _members(prepared, likeliest.shape)
    fitted = apply(prepared, likeliest.lead, members, rule)
    losses = read_losses(_settings(prepared, models, before or prepared, fitted), held_out, count)
    priors = {} if before is None else {each.name: each.calibrate for each in members}
    return Fit(
        rule=rule,
        lead=likeliest.lead,
        members=members,
        parameters=len(members) - 1 + temperatures * len(members) + _free(priors),
        answers=len(fitted_on),
        held_out=len(held_out),
        leads=likeliest.leads,
        nats={name: mean_of(its, held_out) for name, its in losses.items()},
        gains=tuple(_gain(losses, over, held_out) for over in (AS_IT_WAS, likeliest.best_alone)),
        at_bounds=at_bounds(
            [each.name for each in members], likeliest.shape, [each.temperature for each in members], priors
        ),
    )


class _Likeliest(NamedTuple):
    """Under what the answers that are fitted on are likeliest."""

    lead: str
    leads: dict[str, float]
    """By lead that was tried, nats per byte of the answers that it was tried on."""
    shape: Shape
    best_alone: str
    """The member that finds them likeliest by itself."""


def _likeliest(
    prepared: Prepared,
    models: Models,
    references: Sequence[Reference],
    rule: str,
    temperatures: bool,
    count: Callable[[int], None],
) -> _Likeliest:
    """Read all answers by the best of the leads that may be, and maximise their likelihood.

    Of many answers, a part is enough to choose a lead: what leads differ in is how the others like their cuts.
    """
    leads = leads_of(prepared)
    observations = Observations(prepared, models, rule, leads)
    maximise = partial(fit_geometric if rule == "geometric" else fit_mean, temperatures=temperatures)
    tried, rest = (references, []) if len(leads) == 1 else _parted(references)
    observations.read(tried, leads, count)
    observed = {lead: observations.of(lead) for lead in leads}
    found = {lead: nats(its, maximise(its), rule) for lead, its in observed.items()}
    best = min(found, key=lambda name: found[name])  # the first, where several are as good
    observations.read(rest, [best], count)
    return _Likeliest(best, found, maximise(observations.of(best)), observations.best_alone())


def _settings(prepared: Prepared, models: Models, before: Prepared, fitted: Prepared) -> dict[str, Any]:
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


def _gain(losses: Losses, over: str, references: Sequence[Reference]) -> Gain:
    """The interval is that of the mean over answers, each of which counts as its bytes and its task say."""
    weights = weights_of(references)
    differences = [
        weight * (other - fitted) for weight, other, fitted in zip(weights, losses[over], losses[FITTED], strict=True)
    ]
    return Gain(over, float(np.mean(differences)), paired_bootstrap(differences, SEED), len(references))
