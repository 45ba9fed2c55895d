"""Reading reference answers: what members say of their pieces, and how likely systems find them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from unisono.build import Prepared
from unisono.chat.messages import Prompt
from unisono.engine.observation import Observer, Seen
from unisono.engine.reading import Done, Reading, TextReader
from unisono.engine.setting_group import SettingGroup
from unisono.errors import PromptError, UnisonoError
from unisono.fusion.fitting import NODES, NONE, Likely, Observed
from unisono.fusion.objectives import Choices
from unisono.loaded_models import LoadedModels
from unisono.reference_answers import Reference, by_task

AT_ONCE = 128  # references whose answers are read before the next ones are encoded; the more, the evener are passes
ObjectiveName = Literal["likelihood", "choices"]
Scores = Mapping[str, Sequence[Sequence[float]]]
"""By system and reference, the log-likelihood of each answer that is read: of the right one, and then of the others."""


class Asked(NamedTuple):
    """An answer to a reference's prompt, right or wrong."""

    reference: Reference
    answer: str


def answers_of(reference: Reference, objective: ObjectiveName) -> list[Asked]:
    """What is read for a reference: the right answer, which is the first, and the wrong ones where one is chosen."""
    others = reference.others if objective == "choices" else ()
    return [Asked(reference, answer) for answer in (reference.answer, *others)]


def leads_of(prepared: Prepared) -> list[str]:
    """The members that may lead a fitted ensemble: the one that its file names, or which its gate looks at, or all."""
    method = prepared.spec.method
    default = method.lead_among(prepared.weights)
    if method.lead is not None or method.gate.kind != "always":
        return [default]
    return [default, *(name for name in prepared.weights if name != default)]


class Observations:
    """What members say of the pieces of reference answers, by the lead that cuts these; and what each says alone."""

    def __init__(self, prepared: Prepared, models: LoadedModels, rule: str, objective: ObjectiveName) -> None:
        self.leads, self._objective = leads_of(prepared), objective
        self._observers: dict[str, Observer] = {}
        for lead in self.leads:
            led = prepared.ruled(rule).led(lead)
            setting = models.engine(led).setting(led.spec.method.but(gate="always"))
            self._observers[lead] = Observer(setting, keep_likely=rule == "geometric")
        self._alone = {each.spec.name: _alone(prepared, models, each.spec.name) for each in prepared.members}
        self._slots = setting.slots
        self._seen: dict[str, dict[Asked, list[Seen]]] = {lead: {} for lead in self.leads}
        self._logp: dict[str, dict[Asked, float]] = {name: {} for name in self._alone}

    def read(self, references: Sequence[Reference], leads: Sequence[str], count: Callable[[int], None]) -> None:
        """Read answers, as some leads cut them and as each member does by itself."""
        observers = {lead: self._observers[lead] for lead in leads}
        reader = TextReader([*observers.values(), *self._alone.values()], self._slots)
        for some in _chunks(references):
            asked = [each for reference in some for each in answers_of(reference, self._objective)]
            for cutting, seconds in _named(asked, reader, lambda texts, done: list(reader.read(texts, done)), count):
                for lead, observer in observers.items():
                    if cutting.listener is observer:
                        self._seen[lead][asked[cutting.text]] = observer.finish(cutting)
                for name, group in self._alone.items():
                    if cutting.listener is group:
                        self._logp[name][asked[cutting.text]] = _logp(group.finish(cutting, seconds)[0].logp)

    def of(self, lead: str) -> Observed:
        """All that was read as this lead cuts it."""
        its = self._seen[lead]
        references = list(dict.fromkeys(each.reference for each in its))
        asked = [each for reference in references for each in answers_of(reference, self._objective)]
        share_of = _shares(references)
        shares = [
            share_of[each.reference.task] * (each.answer == each.reference.answer) for each in asked for _ in its[each]
        ]
        choices = None
        if self._objective == "choices":
            choices = _choices(references, [len(its[each]) for each in asked])
        return _observed([seen for each in asked for seen in its[each]], shares, choices)

    def best_alone(self) -> str:
        """The member that is best at the answers by itself: right most often, or, where none is chosen, likeliest."""
        references = list(dict.fromkeys(each.reference for each in next(iter(self._logp.values()))))
        scores = {
            name: [[logp[each] for each in answers_of(reference, self._objective)] for reference in references]
            for name, logp in self._logp.items()
        }
        likelihood = {name: -mean_of(nats_of(its, references), references) for name, its in scores.items()}
        if self._objective == "likelihood":
            return max(likelihood, key=lambda name: likelihood[name])
        right = {name: share_right(its, references) for name, its in scores.items()}
        return max(right, key=lambda name: (right[name], likelihood[name]))


def _alone(prepared: Prepared, models: LoadedModels, name: str) -> SettingGroup:
    return SettingGroup({0: models.engine(prepared.alone(name)).setting()})


def _choices(references: Sequence[Reference], pieces: Sequence[int]) -> Choices:
    """How pieces and answers belong together, by how many pieces each answer has."""
    counts = [1 + len(reference.others) for reference in references]
    first_A, first_Q = (np.cumsum([0, *its])[:-1] for its in (pieces, counts))
    return Choices(first_A, first_Q, np.asarray([each / len(references) for each in question_weights(references)]))


def _observed(seen: Sequence[Seen], shares: Sequence[float], choices: Choices | None) -> Observed:
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
    return Observed(logp_NKT, logz_NKT, np.asarray(shares), likely, choices)


def read_scores(
    settings: Mapping[str, Any],
    references: Sequence[Reference],
    objective: ObjectiveName,
    count: Callable[[int], None],
) -> dict[str, list[list[float]]]:
    """How likely each system finds each answer."""
    reading = Reading(list(settings.values()))
    found: dict[str, list[list[float]]] = {name: [] for name in settings}
    for some in _chunks(references):
        asked = [each for reference in some for each in answers_of(reference, objective)]
        for name, scores in zip(settings, _named(asked, reading, reading.score, count), strict=True):
            its = iter(scores)
            found[name] += [[_logp(next(its).logp) for _ in answers_of(each, objective)] for each in some]
    return found


def nats_of(scores: Sequence[Sequence[float]], references: Sequence[Reference]) -> list[float]:
    """The nats a byte of each right answer."""
    return [-logp_A[0] / _bytes(each) for each, logp_A in zip(references, scores, strict=True)]


def is_right(logp_A: Sequence[float]) -> bool:
    """Whether the right answer, the first, is likelier than any other."""
    return all(logp_A[0] > other for other in logp_A[1:])


def share_right(scores: Sequence[Sequence[float]], references: Sequence[Reference]) -> float:
    """How many questions are answered rightly; the mean of the tasks' shares."""
    weights = question_weights(references)
    return float(np.mean([weight * is_right(logp_A) for weight, logp_A in zip(weights, scores, strict=True)]))


def question_weights(references: Sequence[Reference]) -> list[float]:
    """What each question counts, so that their mean is that of the tasks' means."""
    tasks = by_task(references)
    return [len(references) / len(tasks) / len(tasks[each.task]) for each in references]


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


def _counted(asked: Sequence[Asked], count: Callable[[int], None]) -> Done:
    """Counts references of which all answers have been read."""
    left = Counter(each.reference for each in asked)

    def done(texts: Sequence[int]) -> None:
        read = Counter(asked[text].reference for text in texts)
        left.subtract(read)
        count(sum(not left[reference] for reference in read))

    return done


def _named(
    asked: Sequence[Asked],
    reader: Reading | TextReader,
    read: Callable[[Sequence[tuple[Prompt, str]], Done], Any],
    count: Callable[[int], None],
) -> Any:
    """Read answers, and count references; an error says at which of them."""
    try:
        return read([(each.reference.prompt, each.answer) for each in asked], _counted(asked, count))
    except PromptError as error:
        for each in asked:
            try:
                reader.check([(each.reference.prompt, each.answer)])
            except UnisonoError as own:
                raise of_reference(each.reference, own) from error
        raise


def of_reference(reference: Reference, error: UnisonoError) -> UnisonoError:
    """An error that says at which reference it was."""
    return type(error)(f"the reference {reference.name}: {error.message}", hint=error.hint)
