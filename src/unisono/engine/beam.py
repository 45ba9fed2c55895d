"""Beam search: the candidates of one text that are followed, and their continuations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unisono.engine.group import SequenceGroup
from unisono.engine.sequence import TextSequence
from unisono.fusion.fold import Array
from unisono.fusion.weights import top_columns


@dataclass(slots=True)
class BeamCandidate:
    """A sequence that may become the result of a beam."""

    sequence: TextSequence
    score: float = 0.0  # the sum of its pieces' log-probabilities, END's too, in nats


@dataclass(frozen=True, slots=True)
class Continuation:
    """One column after one of the candidates."""

    score: float
    parent: int
    column: int


class Beam(SequenceGroup):
    """A group of one sequence, which becomes the best of the candidates that are followed.

    At every step the continuations of all candidates are ranked together by the probability of the whole sequence;
    the most likely ``width`` are kept. The search ends when this many have ended and none that is still followed could
    take a place among them by its present score, which is how transformers ends one by default.
    """

    def __init__(self, first: TextSequence) -> None:
        super().__init__(first, 1)
        self.width = first.plan.draw.beam_width
        self.candidates = [BeamCandidate(first.copy(first.cursors))]
        self._ended: list[tuple[float, TextSequence]] = []

    @property
    def open(self) -> list[TextSequence]:
        return [candidate.sequence for candidate in self.candidates]

    @property
    def slots(self) -> int:
        return 0 if self.is_finished else self.width

    def conclude(self, best: TextSequence) -> None:
        self.sequences[0].become(best)
        self.candidates, self._open = [], []

    def rank(self, shaped_U_by_candidate: Sequence[Array], end: int) -> Iterator[Continuation]:
        """The best continuations, of what each candidate would draw from: as many as are followed, and those among
        them that are END.
        """
        found = [
            Continuation(candidate.score + math.log(mass), parent, column)
            for parent, (candidate, shaped_U) in enumerate(zip(self.candidates, shaped_U_by_candidate, strict=True))
            for column, mass in _top(shaped_U, 2 * self.width)
        ]
        places = self.width
        for rank, continuation in enumerate(sorted(found, key=lambda each: -each.score)):
            if continuation.column != end:
                places -= 1
                yield continuation
            elif rank < self.width:
                yield continuation
            if not places:
                return

    def advance(self) -> TextSequence | None:
        """Set aside the candidates that have ended; return the best when the search is over."""
        for candidate in self.candidates:
            if candidate.sequence.finish is not None:
                self._ended.append((self._ranked(candidate), candidate.sequence))
        self.candidates = [candidate for candidate in self.candidates if candidate.sequence.finish is None]
        self._ended = sorted(self._ended, key=lambda ended: -ended[0])[: self.width]
        best = max(map(self._ranked, self.candidates), default=-math.inf)
        if self.candidates and (len(self._ended) < self.width or best > self._ended[-1][0]):
            return None
        return self._ended[0][1]

    def _ranked(self, candidate: BeamCandidate) -> float:
        length = candidate.sequence.written + (candidate.sequence.finish == "end")
        return float(candidate.score / length**candidate.sequence.plan.draw.length_penalty)


def _top(shaped_U: Array, count: int) -> list[tuple[int, float]]:
    columns = top_columns(shaped_U, count)
    return list(zip(columns.tolist(), shaped_U[columns].tolist(), strict=True))
