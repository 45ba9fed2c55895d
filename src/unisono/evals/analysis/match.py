"""Estimates from a small sample of questions which models ensemble well.

An ensemble can only repair what one member knows and the other does not, and a much weaker member holds it back. Each
pair is compared by accuracy gap, shared errors, answer length and vocabulary overlap.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

from unisono.evals.analysis.statistics import wilson
from unisono.evals.records import Results
from unisono.fusion.resampling import LEVEL, Interval
from unisono.vocab.pieces import Vocabulary

LARGEST_GAP = 0.10
"""UniTE's advice: members within ten points of one another, with answers of similar style (Yao et al., Determine-Then-
Ensemble: Necessity of Top-k Union for Large Language Model Ensembling, arXiv 2410.03777, section 3).
"""
LONGEST_RATIO = 2.0
"""A ratio of answer lengths above this counts as a different style. UniTE gives no number; this one is ours."""


@dataclass(frozen=True, slots=True)
class Alone:
    name: str
    accuracy: float
    characters: float | None
    """Mean length of generated answers; ``None`` when only choices were scored."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models on the same questions. Shares are unweighted means over the tasks."""

    first: str
    second: str
    gap: float
    gap_error: float
    """Half of its 95 % interval. The interval of each task's difference is that of Agresti and Min (Statistics in
    Medicine 24, 2005), which adds half a question to each of the four outcomes, so that few questions are not sure.
    """
    both_wrong: float
    """Share of questions that both get wrong: choosing between their answers cannot help."""
    one_right: float
    """Share that exactly one gets right: what an ensemble can win or lose."""
    error_agreement: float | None
    """Cohen's kappa of correctness: 1 when they fail at the same questions, 0 at chance; ``None`` when one model is
    always right or always wrong.
    """
    same_mistake: float | None
    """Share of the questions both get wrong on which they give the same wrong answer."""
    length_ratio: float | None
    """Longer mean answer ÷ shorter."""
    vocabulary_overlap: float
    """Shared pieces ÷ pieces of the smaller vocabulary."""
    questions: int

    @property
    def fits_unite(self) -> bool:
        return self.gap <= LARGEST_GAP and self._is_of_one_style

    @property
    def is_sure(self) -> bool:
        """Whether the questions settle the advice: on which side of `LARGEST_GAP` the gap is, where that matters."""
        return not self._is_of_one_style or abs(self.gap - LARGEST_GAP) > self.gap_error

    @property
    def _is_of_one_style(self) -> bool:
        return self.length_ratio is None or self.length_ratio <= LONGEST_RATIO

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "fits_unite": self.fits_unite, "is_sure": self.is_sure}


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What all models together can reach, on the questions that all were asked. Shares are means over the tasks.

    Whoever gives one of the models' answers to each question is right on ``1 - β`` of them at most, where β is the
    share that all get wrong (Chen, When Does Combining Language Models Help?, arXiv 2606.27288). An ensemble that
    combines pieces may write an answer that no model gave, so for it this is no proof.
    """

    oracle: float
    """Share that at least one model gets right: the accuracy of whoever always knew which to believe."""
    co_failure: float
    """β: the share that all get wrong."""
    interval: Interval
    """Of β."""
    best: float
    """Accuracy of the best model on the same questions."""
    questions: int


@dataclass(frozen=True, slots=True)
class Matching:
    """All models and pairs, most promising pair first."""

    models: tuple[Alone, ...]
    pairs: tuple[Pair, ...]
    ceiling: Ceiling | None = None
    """``None`` where no question was asked of all."""

    def to_json(self) -> dict[str, Any]:
        return {
            "models": [asdict(each) for each in self.models],
            "pairs": [pair.to_json() for pair in self.pairs],
            "ceiling": self.ceiling and asdict(self.ceiling),
        }


def match(results: Results, vocabularies: Mapping[str, Vocabulary], main_metric: Mapping[str, str]) -> Matching:
    """Compare models that each answered the same questions alone; `main_metric` is by task."""
    marks: dict[str, dict[str, dict[str, _Mark]]] = {name: {} for name in vocabularies}
    texts: dict[str, list[str]] = {name: [] for name in vocabularies}
    for answer in results.answers:
        if answer.system in marks:
            right = answer.metrics.get(main_metric[answer.task], 0.0) > 0.5
            marks[answer.system].setdefault(answer.task, {})[answer.question] = _Mark(right, answer.answer)
            texts[answer.system] += [] if answer.text is None else [answer.text]
    alone = {
        name: Alone(
            name,
            _mean(_share([mark.right for mark in own.values()]) for own in marks[name].values()) or 0.0,
            _mean(map(len, texts[name])),
        )
        for name in vocabularies
    }
    pairs = [
        _pair(alone[first], alone[second], marks, vocabularies)
        for first, second in itertools.combinations(vocabularies, 2)
    ]
    models = sorted(alone.values(), key=lambda each: -each.accuracy)
    ordered = sorted(pairs, key=lambda pair: (not pair.fits_unite, pair.both_wrong))
    return Matching(tuple(models), tuple(ordered), _ceiling(marks))


def _ceiling(marks: Mapping[str, Mapping[str, Mapping[str, _Mark]]]) -> Ceiling | None:
    tasks: list[list[tuple[bool, ...]]] = []
    for task in dict.fromkeys(task for own in marks.values() for task in own):
        theirs = [own.get(task, {}) for own in marks.values()]
        shared = [question for question in theirs[0] if all(question in own for own in theirs)]
        if shared:
            tasks.append([tuple(own[question].right for own in theirs) for question in shared])
    oracle = _mean(_share([any(rights) for rights in own]) for own in tasks)
    if oracle is None:
        return None
    count = sum(map(len, tasks))
    alone = [_mean(_share([rights[place] for rights in own]) for own in tasks) or 0.0 for place in range(len(marks))]
    return Ceiling(oracle, 1 - oracle, wilson(1 - oracle, count), max(alone), count)


class _Mark(NamedTuple):
    right: bool
    answer: str


def _pair(
    first: Alone,
    second: Alone,
    marks: Mapping[str, Mapping[str, Mapping[str, _Mark]]],
    vocabularies: Mapping[str, Vocabulary],
) -> Pair:
    theirs = marks[second.name]
    tasks = [
        [(mark, theirs[task][question]) for question, mark in own.items() if question in theirs.get(task, {})]
        for task, own in marks[first.name].items()
    ]
    outcomes = [[(one.right, other.right) for one, other in both] for both in tasks if both]
    mistakes = [[(one, other) for one, other in both if not (one.right or other.right)] for both in tasks]
    lengths = [each.characters for each in (first, second) if each.characters]
    pieces = [set(vocabularies[each.name].pieces) - {None} for each in (first, second)]
    return Pair(
        first.name,
        second.name,
        _mean(abs(sum(one for one, _ in own) - sum(other for _, other in own)) / len(own) for own in outcomes) or 0.0,
        _error(outcomes),
        _mean(_share([not any(outcome) for outcome in own]) for own in outcomes) or 0.0,
        _mean(_share([one != other for one, other in own]) for own in outcomes) or 0.0,
        _mean(map(_kappa, outcomes)),
        _mean(_share([one.answer == other.answer != "" for one, other in both]) for both in mistakes),
        max(lengths) / min(lengths) if len(lengths) == 2 else None,
        len(pieces[0] & pieces[1]) / min(len(pieces[0]), len(pieces[1])),
        sum(map(len, outcomes)),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def _error(tasks: Sequence[Sequence[tuple[bool, bool]]]) -> float:
    """Half of the interval of the mean over tasks of two models' difference (`Pair.gap_error`); 1 of no questions."""
    variances = []
    for own in tasks:
        first, second = (sum(1 for both in own if both == alone) + 0.5 for alone in ((True, False), (False, True)))
        count = len(own) + 2
        variances.append((first + second - (first - second) ** 2 / count) / count**2)
    return NormalDist().inv_cdf(0.5 + LEVEL / 2) * math.sqrt(sum(variances)) / len(variances) if variances else 1.0


def _kappa(outcomes: Sequence[tuple[bool, bool]]) -> float | None:
    """Cohen's kappa (1960): agreement beyond chance ÷ possible agreement beyond chance."""
    agreeing = sum(first == second for first, second in outcomes) / len(outcomes)
    first, second = (sum(outcome[index] for outcome in outcomes) / len(outcomes) for index in (0, 1))
    by_chance = first * second + (1 - first) * (1 - second)
    return None if math.isclose(by_chance, 1.0) else (agreeing - by_chance) / (1 - by_chance)
