"""Fitting: the weights, temperatures and calibrations of members that make reference answers likely.

Answers are read twice. From the part that is fitted on, what members say of each piece is kept, and the likelihood is
maximised over that (`unisono.fusion.fitting`). The part that is held out is then scored exactly, by the ensemble as it
was, as it is fitted, and by each member alone: what is promised is what that shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from unisono.build import Models, Prepared
from unisono.chat.messages import Prompt
from unisono.chat.prompt_encoder import PromptEncoder
from unisono.config.combine import Combine
from unisono.config.sampling import MEMBER, SHAPING
from unisono.engine.company import Company
from unisono.engine.given import cut
from unisono.engine.observation import Observer, Seen
from unisono.engine.reading import Reading, TextReader
from unisono.errors import BackendMissing, PromptError, SpecError, UnisonoError, shown
from unisono.fusion.fitting import NODES, NONE, Likely, Observed, Shape, fit_geometric, fit_mean
from unisono.fusion.resampling import Interval, paired_bootstrap
from unisono.reference_answers import Reference, by_task, split
from unisono.vocab.spelling import Speller
from unisono.vocab.union import MemberMap

RULES = ("mean", "geometric")
FEWEST = 8
"""Answers, of which two are held out."""
SHOWN_FROM = 10
"""Held-out answers that can show a gain: that of three lies above zero by chance every ninth time."""
AT_ONCE = 16  # answers that are read before the next ones are encoded
SEED = 0
COOLEST, HOTTEST = 0.01, 100.0
"""What a member's temperature may be."""
LEAST = 0.001
"""The least weight that is written: a member of less would be no member, and could not lead."""
AS_IT_WAS, FITTED = "as it was", "as fitted"  # no member can have such a name


@dataclass(frozen=True, slots=True)
class FittedMember:
    name: str
    weight: float
    temperature: float
    calibrate: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Gain:
    """By how much the fitted ensemble is better than another system on what was held out, in nats a byte."""

    over: str
    mean: float
    interval: Interval
    held_out: int
    """How many answers show it."""

    @property
    def is_shown(self) -> bool:
        return self.held_out >= SHOWN_FROM and self.interval.low > 0


@dataclass(frozen=True, slots=True)
class Fit:
    """What was found, and what it is worth."""

    rule: str
    members: tuple[FittedMember, ...]
    parameters: int
    """How many numbers were fitted."""
    answers: int
    held_out: int
    nats: Mapping[str, float]
    """By system, nats a byte on what was held out, the less the better: each member alone, the ensemble as it was, and
    as it is fitted."""
    gains: tuple[Gain, ...]
    """Over the ensemble as it was, and over the member that was best on the part that was fitted on."""

    @property
    def is_better(self) -> bool:
        """Whether what was held out shows that fitting the ensemble has made it better."""
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
        prepared: the ensemble as it is; calibrations that it has are kept, and temperatures multiplied.
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
    observed, best = _observe(prepared, models, fitted_on, rule, count)
    shape = (fit_geometric if rule == "geometric" else fit_mean)(observed, temperatures=temperatures)
    members = _members(prepared, shape)
    fitted = apply(prepared, members, rule)
    settings = {
        **{member.spec.name: models.engine(prepared.alone(member.spec.name)).setting() for member in prepared.members},
        AS_IT_WAS: models.engine(before or prepared).setting(),
        FITTED: models.engine(fitted).setting(),
    }
    losses = _losses(dict(settings), held_out, count)
    gains = tuple(_gain(losses, over, held_out) for over in (AS_IT_WAS, best))
    return Fit(
        rule=rule,
        members=members,
        parameters=len(members) - 1 + temperatures * len(members) + _priors(prepared, before),
        answers=len(fitted_on),
        held_out=len(held_out),
        nats={name: _mean(its, held_out) for name, its in losses.items()},
        gains=gains,
    )


def _priors(prepared: Prepared, before: Prepared | None) -> int:
    """How many numbers calibrations have, of which only ratios matter."""
    added = [] if before is None else [len(member.spec.calibrate) for member in prepared.members]
    return sum(max(0, count - 1) for count in added)


def apply(prepared: Prepared, members: Sequence[FittedMember], rule: str) -> Prepared:
    """An ensemble as it is fitted."""
    keys = {
        each.name: {"weight": each.weight, "temperature": each.temperature, "calibrate": dict(each.calibrate)}
        for each in members
    }
    return prepared.reshaped(keys).ruled(rule)


def check(prepared: Prepared, references: Sequence[Reference], rule: str | None = None) -> str:
    """The rule that is fitted. Raises a `SpecError`, or a `BackendMissing`, where `fit` would before reading."""
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
    if own := [MEMBER + name for name in SHAPING if name != "logit_bias" and method.sampling.changes(MEMBER + name)]:
        raise SpecError(
            f"sampling has {', '.join(own)}, which is no part of what is fitted: the weights would be those of other "
            "votes",
            hint=f"leave {'it' if len(own) == 1 else 'them'} out; fitting finds members' temperatures",
        )
    if told := [member.spec.name for member in prepared.members if member.facts.truncated]:
        raise SpecError(
            f"member {told[0]!r} tells its likeliest ids only: other pieces of an answer have no probability",
            hint="load it by a backend that tells whole distributions",
        )
    if len(references) < FEWEST:
        answers = "answer" if len(references) == 1 else "answers"
        raise SpecError(
            f"there {'is' if len(references) == 1 else 'are'} {len(references)} reference {answers}: too few to fit, "
            "and to see what it is worth",
            hint=f"give {FEWEST} or more; a few hundred are good",
        )
    split(references)
    check_installed()
    return found


class _Cutter(NamedTuple):
    encoder: PromptEncoder
    speller: Speller
    map: MemberMap


def check_answers(prepared: Prepared, references: Sequence[Reference]) -> None:
    """Cut all answers as they will be read, without any weights. Raises a `PromptError` that names an answer."""
    ensembles = [prepared, *(prepared.alone(member.spec.name) for member in prepared.members)]
    for each in ensembles:
        weights = {member.spec.name: member.weight for member in each.members}
        place = list(weights).index(each.spec.method.lead_among(weights))
        lead = each.members[place]
        cutter = _Cutter(lead.encoder, lead.speller, each.union.maps[place])
        for reference in references:
            try:
                cut(cutter, reference.prompt, reference.answer)
            except PromptError as error:
                raise _of(reference, error) from error


def check_installed() -> None:
    """Raise a `BackendMissing` where scipy is not installed."""
    import importlib.util

    if importlib.util.find_spec("scipy") is None:
        raise BackendMissing("fitting needs scipy, which is not installed", hint="pip install 'unisono[evals]'")


def _observe(
    prepared: Prepared, models: Models, references: Sequence[Reference], rule: str, count: Callable[[int], None]
) -> tuple[Observed, str]:
    """What members say of the pieces that are fitted on, and the member that finds them likeliest alone."""
    setting = models.engine(prepared.ruled(rule)).setting(prepared.ruled(rule).spec.method.but(gate="always"))
    observer = Observer(setting, keep_likely=rule == "geometric")
    alone = {each.spec.name: _alone(prepared, models, each.spec.name) for each in prepared.members}
    reader = TextReader([observer, *alone.values()], setting.slots)
    seen: list[Seen] = []
    shares: list[float] = []
    totals = dict.fromkeys(alone, 0.0)
    share_of = _shares(references)
    for some in _chunks(references):
        for cutting, seconds in _named(some, lambda asked: list(reader.read(asked))):
            share = share_of[some[cutting.text].task]
            if cutting.listener is observer:
                its = observer.finish(cutting)
                seen += its
                shares += [share] * len(its)
            for name, company in alone.items():
                if cutting.listener is company:
                    totals[name] -= share * _logp(company.finish(cutting, seconds)[0].logp)
        count(len(some))
    return _observed(seen, shares), min(totals, key=lambda name: totals[name])


def _alone(prepared: Prepared, models: Models, name: str) -> Company:
    return Company({0: models.engine(prepared.alone(name)).setting()})


def _observed(seen: Sequence[Seen], shares: Sequence[float]) -> Observed:
    likely = None
    if kept := [each.likely for each in seen if each.likely is not None]:
        widest = max(len(logw_C) for _, logw_C, _ in kept)
        logp_NKC = np.full((len(kept), len(kept[0][0]), widest), NONE, np.float32)
        logw_NC = np.full((len(kept), widest), -np.inf, np.float32)
        logprior_NKC = None if all(each is None for _, _, each in kept) else np.zeros_like(logp_NKC)
        for row, (logp_KC, logw_C, logprior_KC) in enumerate(kept):
            logp_NKC[row, :, : len(logw_C)], logw_NC[row, : len(logw_C)] = logp_KC, logw_C
            if logprior_NKC is not None and logprior_KC is not None:
                logprior_NKC[row, :, : len(logw_C)] = logprior_KC
        likely = Likely(logp_NKC, logw_NC, logprior_NKC)
    logp_NKT, logz_NKT = (np.stack([getattr(each, name) for each in seen]) for name in ("logp_KT", "logz_KT"))
    assert logp_NKT.shape[2] == len(NODES)
    return Observed(logp_NKT, logz_NKT, np.asarray(shares), likely)


def _members(prepared: Prepared, shape: Shape) -> tuple[FittedMember, ...]:
    """The members as they are fitted; their temperatures multiply those that they had."""
    found = []
    for place, member in enumerate(prepared.members):
        weight = max(LEAST, round(float(shape.weight_K[place]), 4))
        temperature = round(member.spec.temperature * float(shape.temperature_K[place]), 4)
        temperature = min(HOTTEST, max(COOLEST, temperature))
        found.append(FittedMember(member.spec.name, weight, temperature, dict(member.spec.calibrate)))
    return tuple(found)


def _losses(
    settings: Mapping[str, Any], references: Sequence[Reference], count: Callable[[int], None]
) -> dict[str, list[float]]:
    """By system, the nats a byte of each answer."""
    reading = Reading(list(settings.values()))
    losses: dict[str, list[float]] = {name: [] for name in settings}
    for some in _chunks(references):
        for name, scores in zip(settings, _named(some, reading.score), strict=True):
            losses[name] += [-_logp(score.logp) / _bytes(each) for each, score in zip(some, scores, strict=True)]
        count(len(some))
    return losses


def _gain(losses: Mapping[str, Sequence[float]], over: str, references: Sequence[Reference]) -> Gain:
    """The interval is that of the mean over answers, each of which counts as its bytes and its task say."""
    weights = _weights(references)
    differences = [
        weight * (other - fitted) for weight, other, fitted in zip(weights, losses[over], losses[FITTED], strict=True)
    ]
    return Gain(over, float(np.mean(differences)), paired_bootstrap(differences, SEED), len(references))


def _mean(losses: Sequence[float], references: Sequence[Reference]) -> float:
    return float(np.mean([weight * loss for weight, loss in zip(_weights(references), losses, strict=True)]))


def _weights(references: Sequence[Reference]) -> list[float]:
    """What the nats a byte of each answer count, so that their mean is that of the tasks' nats a byte."""
    shares = _shares(references)
    return [len(references) * shares[each.task] * _bytes(each) for each in references]


def _shares(references: Sequence[Reference]) -> dict[str, float]:
    """By task, what a nat counts, so that a sum is the mean of the tasks' nats a byte."""
    tasks = by_task(references)
    return {task: 1 / len(tasks) / sum(map(_bytes, its)) for task, its in tasks.items()}


def _bytes(reference: Reference) -> int:
    return len(reference.answer.encode())


def _logp(logp: float) -> float:
    """A log-likelihood that is finite: an answer that a member finds impossible counts much, and not all."""
    return logp if math.isfinite(logp) else NONE


def _chunks(references: Sequence[Reference]) -> Iterable[Sequence[Reference]]:
    return (references[start : start + AT_ONCE] for start in range(0, len(references), AT_ONCE))


def _named(references: Sequence[Reference], read: Callable[[Sequence[tuple[Prompt, str]]], Any]) -> Any:
    """Read answers; an error says at which of them."""
    try:
        return read([(each.prompt, each.answer) for each in references])
    except PromptError as error:
        for each in references:
            try:
                read([(each.prompt, each.answer)])
            except UnisonoError as own:
                raise _of(each, own) from error
        raise


def _of(reference: Reference, error: UnisonoError) -> UnisonoError:
    where = f"{reference.task} {reference.id}".strip()
    return type(error)(f"the reference {where}: {error.message}", hint=error.hint)
