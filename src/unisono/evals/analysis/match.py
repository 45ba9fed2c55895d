"""Which models belong together, estimated from a small sample of questions.

An ensemble can only repair what one member knows and the other does not, and a much worse member holds it back. So each
pair is compared: how far apart they are, how often they are wrong together, how long their answers are, and how much of
their vocabularies they share.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from unisono.evals.records import Results
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
    return Matching(tuple(models), tuple(sorted(pairs, key=lambda pair: (not pair.fits_unite, pair.both_wrong))))


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
        _mean(_share([not any(outcome) for outcome in own]) for own in outcomes) or 0.0,
        _mean(_share([one != other for one, other in own]) for own in outcomes) or 0.0,
        _mean(map(_kappa, outcomes)),
        _mean(_share([one.answer == other.answer != "" for one, other in both]) for both in mistakes),
        max(lengths) / min(lengths) if len(lengths) == 2 else None,
        len(pieces[0] & pieces[1]) / min(len(pieces[0]), len(pieces[1])),
        sum(map(len, outcomes)),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that are known, such as of the tasks that have a share."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def _kappa(outcomes: Sequence[tuple[bool, bool]]) -> float | None:
    """Cohen's kappa (1960): agreement beyond that of chance, over what is possible beyond it."""
    agreeing = sum(first == second for first, second in outcomes) / len(outcomes)
    first, second = (sum(outcome[index] for outcome in outcomes) / len(outcomes) for index in (0, 1))
    by_chance = first * second + (1 - first) * (1 - second)
    return None if math.isclose(by_chance, 1.0) else (agreeing - by_chance) / (1 - by_chance)
