"""Reading reference answers: what members say of their pieces, and nats a byte by system."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from unisono.build import Models, Prepared
from unisono.chat.messages import Prompt
from unisono.engine.company import Company
from unisono.engine.observation import Observer, Seen
from unisono.engine.reading import Reading, TextReader
from unisono.errors import PromptError, UnisonoError
from unisono.fusion.fitting import NODES, NONE, Likely, Observed
from unisono.reference_answers import Reference, by_task

AT_ONCE = 16  # answers that are read before the next ones are encoded
Losses = Mapping[str, Sequence[float]]
"""By system, the nats a byte of each answer."""


def leads_of(prepared: Prepared) -> list[str]:
    """The members that may lead a fitted ensemble: the one that its file names, or which its gate looks at, or all."""
    method = prepared.spec.method
    default = method.lead_among(prepared.weights)
    if method.lead is not None or method.gate.kind != "always":
        return [default]
    return [default, *(name for name in prepared.weights if name != default)]


class Observations:
    """What members say of the pieces of reference answers, by the lead that cuts these; and what each says alone."""

    def __init__(self, prepared: Prepared, models: Models, rule: str, leads: Sequence[str]) -> None:
        self._observers: dict[str, Observer] = {}
        for lead in leads:
            led = prepared.ruled(rule).led(lead)
            setting = models.engine(led).setting(led.spec.method.but(gate="always"))
            self._observers[lead] = Observer(setting, keep_likely=rule == "geometric")
        self._alone = {each.spec.name: _alone(prepared, models, each.spec.name) for each in prepared.members}
        self._slots = setting.slots
        self._seen: dict[str, dict[Reference, list[Seen]]] = {lead: {} for lead in leads}
        self._logp: dict[str, dict[Reference, float]] = {name: {} for name in self._alone}

    def read(self, references: Sequence[Reference], leads: Sequence[str], count: Callable[[int], None]) -> None:
        """Read answers, as some leads cut them and as each member does by itself."""
        observers = {lead: self._observers[lead] for lead in leads}
        reader = TextReader([*observers.values(), *self._alone.values()], self._slots)
        for some in _chunks(references):
            for cutting, seconds in _named(some, lambda asked: list(reader.read(asked))):
                reference = some[cutting.text]
                for lead, observer in observers.items():
                    if cutting.listener is observer:
                        self._seen[lead][reference] = observer.finish(cutting)
                for name, company in self._alone.items():
                    if cutting.listener is company:
                        self._logp[name][reference] = _logp(company.finish(cutting, seconds)[0].logp)
            count(len(some))

    def of(self, lead: str) -> Observed:
        """All that was read as this lead cuts it."""
        its = self._seen[lead]
        share_of = _shares(list(its))
        shares = [share_of[reference.task] for reference, seen in its.items() for _ in seen]
        return _observed([each for seen in its.values() for each in seen], shares)

    def best_alone(self) -> str:
        """The member that finds the answers likeliest by itself."""
        share_of = _shares(list(next(iter(self._logp.values()))))
        return max(
            self._logp,
            key=lambda name: sum(share_of[reference.task] * logp for reference, logp in self._logp[name].items()),
        )


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


def read_losses(
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


def mean_of(losses: Sequence[float], references: Sequence[Reference]) -> float:
    return float(np.mean([weight * loss for weight, loss in zip(weights_of(references), losses, strict=True)]))


def weights_of(references: Sequence[Reference]) -> list[float]:
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
                raise of_reference(each, own) from error
        raise


def of_reference(reference: Reference, error: UnisonoError) -> UnisonoError:
    """An error that says at which reference it was."""
    where = f"{reference.task} {reference.id}".strip()
    return type(error)(f"the reference {where}: {error.message}", hint=error.hint)
