"""Which models belong together: what can be told of each pair from a small sample of questions.

An ensemble can only repair what one member knows and the other does not, and it is held back by a member that is much
worse. So of each pair it is told how far apart they are, how often they are wrong together, how long their answers are,
and how much of their vocabularies they share.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from unisono.evals.records import Answer, Results
from unisono.vocab.pieces import Vocabulary

LARGEST_GAP = 0.10
"""UniTE's advice: members within ten points of one another, with answers of similar style (Yao et al., Determine-Then-
Ensemble: Necessity of Top-k Union for Large Language Model Ensembling, arXiv 2410.03777, section 3)."""
LONGEST_RATIO = 2.0
"""The same: an answer twice as long as the other's is of another style. The number is ours."""


@dataclass(frozen=True, slots=True)
class Alone:
    """One model by itself."""

    name: str
    accuracy: float
    """The mean over the tasks."""
    characters: float | None
    """The mean length of its generated answers; ``None`` where choices were scored alone."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models beside each other, on the same questions. Shares are means over the tasks, each counting alike."""

    first: str
    second: str
    gap: float
    """How far their shares of right answers are apart, the mean over the tasks."""
    both_wrong: float
    """The share of questions that neither answers rightly: no choice between their answers can help there."""
    one_right: float
    """The share that exactly one answers rightly: what an ensemble can win or lose."""
    error_agreement: float | None
    """Cohen's kappa of being right: 1 where they fail at the same questions, 0 as if by chance; ``None`` where one
    of them is always right or always wrong."""
    same_mistake: float | None
    """Of the questions that both answer wrongly, the share with the same wrong answer."""
    length_ratio: float | None
    """The longer mean answer ÷ the shorter."""
    vocabulary_overlap: float
    """Pieces that both have ÷ pieces that the smaller vocabulary has."""
    questions: int

    @property
    def fits_unite(self) -> bool:
        """Whether UniTE would join them."""
        return self.gap <= LARGEST_GAP and (self.length_ratio is None or self.length_ratio <= LONGEST_RATIO)

    def to_json(self) -> dict[str, Any]:
        """The record with plain types only."""
        return {**asdict(self), "fits_unite": self.fits_unite}


@dataclass(frozen=True, slots=True)
class Matching:
    """All models and pairs, the most promising pair first."""

    models: tuple[Alone, ...]
    pairs: tuple[Pair, ...]

    def to_json(self) -> dict[str, Any]:
        """The record with plain types only."""
        return {"models": [asdict(each) for each in self.models], "pairs": [pair.to_json() for pair in self.pairs]}


def match(results: Results, vocabularies: Mapping[str, Vocabulary], main_metric: Mapping[str, str]) -> Matching:
    """Compare models, each of which has answered the same questions alone.

    Args:
        results: of the run.
        vocabularies: by model.
        main_metric: by task.
    """
    answers: dict[str, dict[tuple[str, str], Answer]] = {name: {} for name in vocabularies}
    for answer in results.answers:
        if answer.system in answers:
            answers[answer.system][answer.task, answer.question] = answer
    right = {
        name: {key: _is_right(answer, main_metric) for key, answer in given.items()} for name, given in answers.items()
    }
    alone = {
        name: Alone(name, _mean_over_tasks(right[name]), _characters(list(answers[name].values())))
        for name in vocabularies
    }
    pairs = [
        _pair(alone[first], alone[second], answers, right, vocabularies)
        for first, second in itertools.combinations(vocabularies, 2)
    ]
    models = sorted(alone.values(), key=lambda each: -each.accuracy)
    return Matching(tuple(models), tuple(sorted(pairs, key=lambda pair: (not pair.fits_unite, pair.both_wrong))))


def _pair(
    first: Alone,
    second: Alone,
    answers: Mapping[str, Mapping[tuple[str, str], Answer]],
    right: Mapping[str, Mapping[tuple[str, str], bool]],
    vocabularies: Mapping[str, Vocabulary],
) -> Pair:
    by_task: dict[str, list[tuple[str, str]]] = {}
    for key in right[first.name]:
        if key in right[second.name]:
            by_task.setdefault(key[0], []).append(key)
    outcomes = {
        task: [(right[first.name][key], right[second.name][key]) for key in keys] for task, keys in by_task.items()
    }
    same = {
        task: [
            answers[first.name][key].answer == answers[second.name][key].answer != ""
            for key in keys
            if not (right[first.name][key] or right[second.name][key])
        ]
        for task, keys in by_task.items()
    }
    lengths = [each.characters for each in (first, second)]
    known = [length for length in lengths if length]
    pieces = [set(vocabularies[each.name].pieces) - {None} for each in (first, second)]
    return Pair(
        first.name,
        second.name,
        _mean(_gap(own) for own in outcomes.values()) or 0.0,
        _mean(_share([not any(outcome) for outcome in own]) for own in outcomes.values()) or 0.0,
        _mean(_share([any(outcome) and not all(outcome) for outcome in own]) for own in outcomes.values()) or 0.0,
        _mean(map(_kappa, outcomes.values())),
        _mean(map(_share, same.values())),
        max(known) / min(known) if len(known) == 2 else None,
        len(pieces[0] & pieces[1]) / min(len(pieces[0]), len(pieces[1])),
        sum(map(len, outcomes.values())),
    )


def _gap(outcomes: Sequence[tuple[bool, bool]]) -> float:
    first, second = (sum(outcome[which] for outcome in outcomes) for which in (0, 1))
    return abs(first - second) / len(outcomes)


def _mean(shares: Iterable[float | None]) -> float | None:
    """The mean over the tasks that have it, each counting alike."""
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if known else None


def _is_right(answer: Answer, main_metric: Mapping[str, str]) -> bool:
    return answer.metrics.get(main_metric[answer.task], 0.0) > 0.5


def _mean_over_tasks(right: Mapping[tuple[str, str], bool]) -> float:
    by_task: dict[str, list[bool]] = {}
    for (task, _), value in right.items():
        by_task.setdefault(task, []).append(value)
    shares = [sum(values) / len(values) for values in by_task.values()]
    return sum(shares) / len(shares) if shares else 0.0


def _characters(answers: Sequence[Answer]) -> float | None:
    lengths = [len(answer.text) for answer in answers if answer.text is not None]
    return sum(lengths) / len(lengths) if lengths else None


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def _kappa(outcomes: Sequence[tuple[bool, bool]]) -> float | None:
    """Cohen's kappa (1960): agreement beyond that of chance, over what is possible beyond it."""
    if not outcomes:
        return None
    agreeing = sum(first == second for first, second in outcomes) / len(outcomes)
    first, second = (sum(outcome[index] for outcome in outcomes) / len(outcomes) for index in (0, 1))
    by_chance = first * second + (1 - first) * (1 - second)
    return None if math.isclose(by_chance, 1.0) else (agreeing - by_chance) / (1 - by_chance)
