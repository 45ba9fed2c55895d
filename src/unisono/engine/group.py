"""Beam search: one text is sought by following several, which share what they have in common."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unisono.engine.sequence import TextSequence
from unisono.fusion.fold import Array
from unisono.fusion.weights import top_columns


@dataclass(slots=True)
class Hypothesis:
    """A text that may become the one that is sought."""

    text: TextSequence
    score: float = 0.0
    """The sum of the log-masses of its pieces, END's too, in nats."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One column behind one of the hypotheses."""

    score: float
    parent: int
    column: int


class Beam:
    """What is followed for one text, and what has come to an end.

    At every step the continuations of all hypotheses are ranked together by the mass of the whole text;
    the likeliest ``width`` go on. The search ends when so many texts have ended and none that is still
    followed could take a place among them by what it has, which is how transformers ends one by default.
    """

    def __init__(self, first: TextSequence, width: int, length_penalty: float) -> None:
        """Begin with a text that has its prompt alone.

        Args:
            first: of nothing but a prompt.
            width: how many texts are followed at most.
            length_penalty: log-masses are divided by lengths to this power before texts that ended are ranked.
        """
        self.width = width
        self.following = [Hypothesis(first)]
        self._length_penalty = length_penalty
        self._ended: list[tuple[float, TextSequence]] = []

    def rank(self, shaped_U_by_hypothesis: Sequence[Array], end: int) -> Iterator[Candidate]:
        """The best continuations: as many as are followed, and those among them that are END.

        Args:
            shaped_U_by_hypothesis: what each would draw from.
            end: END's column.
        """
        found = [
            Candidate(hypothesis.score + math.log(mass), parent, column)
            for parent, (hypothesis, shaped_U) in enumerate(zip(self.following, shaped_U_by_hypothesis, strict=True))
            for column, mass in _likeliest(shaped_U, 2 * self.width)
        ]
        places = self.width
        for rank, candidate in enumerate(sorted(found, key=lambda candidate: -candidate.score)):
            if candidate.column != end:
                places -= 1
                yield candidate
            elif rank < self.width:
                yield candidate
            if not places:
                return

    def advance(self) -> TextSequence | None:
        """Set aside what has ended of the texts that are followed; return the best when the search is over."""
        for hypothesis in self.following:
            if hypothesis.text.finish is not None:
                self._ended.append((self._ranked(hypothesis), hypothesis.text))
        self.following = [hypothesis for hypothesis in self.following if hypothesis.text.finish is None]
        self._ended = sorted(self._ended, key=lambda ended: -ended[0])[: self.width]
        if self.following and (len(self._ended) < self.width or self._hopeful()):
            return None
        return self._ended[0][1]

    def _hopeful(self) -> bool:
        best = max(self._ranked(hypothesis) for hypothesis in self.following)
        return best > self._ended[-1][0]

    def _ranked(self, hypothesis: Hypothesis) -> float:
        length = hypothesis.text.pieces + (hypothesis.text.finish == "end")
        return float(hypothesis.score / length**self._length_penalty)


def _likeliest(shaped_U: Array, count: int) -> list[tuple[int, float]]:
    columns = top_columns(shaped_U, count)
    return list(zip(columns.tolist(), shaped_U[columns].tolist(), strict=True))
