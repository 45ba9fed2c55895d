"""Beginning what a request asks for: n sequences of one prompt, or a beam, which follows several candidates."""

from __future__ import annotations

import contextlib
import math
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unisono.config.method import AUTO, NGRAM
from unisono.engine.member import Cursor, Member
from unisono.engine.ngram import NgramIndex
from unisono.engine.request import PreparedRequest
from unisono.engine.sequence import SequenceGroup, TextSequence
from unisono.fusion.fold import Array
from unisono.fusion.weights import top_columns
from unisono.vocab.union import UnionVocabulary

SEED_BITS = 53
"""Of seeds that are chosen here: whoever reads JSON's numbers as doubles can write them again."""


def begin_group(prepared: PreparedRequest, members: Sequence[Member], union: UnionVocabulary) -> SequenceGroup:
    """Begin what a request asks for, with slots for its first sequence."""
    request, plan = prepared.request, prepared.plan
    with contextlib.ExitStack() as opened:
        cursors: dict[str, Cursor] = {}
        for member in members:
            ids, unread = list(prepared.ids[member.name]), plan.weighs_prompt  # a prompt is weighed first
            cursors[member.name] = member.open(ids, unread=unread)
            opened.callback(member.backend.close, cursors[member.name].slot)
        opened.pop_all()
    first = TextSequence(
        request.prompt,
        cursors,
        request.limits,
        plan,
        trace=request.trace,
        likeliest=request.top_logprobs,
        seed=secrets.randbits(SEED_BITS) if plan.draw.seed is None else plan.draw.seed,
    )
    first.given = prepared.given
    first.parse = None if prepared.parse is None else prepared.parse.copy()
    group = SequenceGroup(request.n, first)
    if prepared.width > 1:
        group = Beam(first, prepared.width, plan.draw.length_penalty)
    if plan.drafter in (NGRAM, AUTO):
        column_V = plan.lead.map.column_V
        first.history = NgramIndex(union.end, (int(column_V[token]) for token in prepared.ids[plan.lead.name]))
    return group


@dataclass(slots=True)
class BeamCandidate:
    """A sequence that may become the result of a beam."""

    sequence: TextSequence
    score: float = 0.0
    """The sum of the log-probabilities of its pieces, END's too, in nats."""


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

    def __init__(self, first: TextSequence, width: int, length_penalty: float) -> None:
        """Begin with a sequence that has its prompt alone.

        Args:
            first: of nothing but a prompt.
            width: how many candidates are followed at most.
            length_penalty: scores are divided by lengths to this power before sequences that ended are ranked.
        """
        super().__init__(1, first)
        self.width = width
        self.candidates = [BeamCandidate(first.copy(first.cursors))]
        self._length_penalty = length_penalty
        self._ended: list[tuple[float, TextSequence]] = []

    @property
    def open(self) -> list[TextSequence]:
        """Its candidates."""
        return [candidate.sequence for candidate in self.candidates]

    @property
    def slots(self) -> int:
        """How many slots it may still take of each member."""
        return 0 if self.is_finished else self.width

    def conclude(self, best: TextSequence) -> None:
        """End it: its sequence becomes the best candidate."""
        self.sequences[0].become(best)
        self.candidates, self._open = [], []

    def rank(self, shaped_U_by_candidate: Sequence[Array], end: int) -> Iterator[Continuation]:
        """The best continuations: as many as are followed, and those among them that are END.

        Args:
            shaped_U_by_candidate: what each would draw from.
            end: END's column.
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
        if self.candidates and (len(self._ended) < self.width or self._hopeful()):
            return None
        return self._ended[0][1]

    def _hopeful(self) -> bool:
        best = max(self._ranked(candidate) for candidate in self.candidates)
        return best > self._ended[-1][0]

    def _ranked(self, candidate: BeamCandidate) -> float:
        length = candidate.sequence.pieces + (candidate.sequence.finish == "end")
        return float(candidate.score / length**self._length_penalty)


def _top(shaped_U: Array, count: int) -> list[tuple[int, float]]:
    columns = top_columns(shaped_U, count)
    return list(zip(columns.tolist(), shaped_U[columns].tolist(), strict=True))
