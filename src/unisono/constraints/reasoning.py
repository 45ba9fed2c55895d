"""Reasoning before an answer, as a state: a grammar binds the answer alone, and a limit ends the reasoning."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from unisono.config.reasoning import Reasoning
from unisono.constraints.grammar import Parse
from unisono.fusion.logits_processors import Allowed
from unisono.vocab.marks import OF_CALLS, Mark
from unisono.vocab.union import UnionVocabulary


class BesideReasoning(Parse):
    """Lets a text begin with reasoning, of which its grammar knows nothing. Drafts hold no marks."""

    def __init__(
        self,
        reasoning: Reasoning,
        union: UnionVocabulary,
        parse: Parse | None = None,
        *,
        inside: bool = False,
        answered: bool = False,
    ) -> None:
        """``parse`` is the beginning of the answer's grammar.

        ``inside`` tells that the text begins in reasoning, ``answered`` that it goes on with an answer.
        """
        self._reasoning = reasoning
        self._union = union
        self._parse = parse
        self.by_seams = parse is not None and parse.by_seams
        self._inside = inside
        self._written = 0  # pieces of reasoning
        self._reasoned = False
        self._begun = False  # the answer, by its mark
        self._answered = answered  # white space before reasoning is no answer

    @property
    def _left(self) -> int:
        most = self._reasoning.max_pieces
        return self._union.size if most is None else most - self._written

    def allowed(self, ahead: Sequence[int]) -> Allowed:
        """The columns that may follow what is written and the drafted pieces ``ahead``."""
        if self._inside:
            return self._allowed_inside(len(ahead))
        answered = self._answered or not all(map(self._is_space, ahead))
        allowed_U = np.ones(self._union.size, np.bool_) if self._parse is None else self._parse.allowed(ahead).copy()
        for column, mark in enumerate(self._union.marks, self._union.texts):
            if mark == "reasoning_begin":
                free = self._parse is None or not (answered or self._reasoned)
                allowed_U[column] = free and not self._reasoning.off and self._left > 0
            elif self._parse is not None and mark not in OF_CALLS:
                begins = mark == "answer_begin" and not answered and not self._begun
                allowed_U[column] = begins and bool(allowed_U[: self._union.texts].any())
        return allowed_U

    def accepts(self, column: int) -> bool:
        """Whether one column may follow."""
        if self._union.mark(column) is not None:
            return bool(self.allowed(())[column])
        if self._inside:
            return self._left > 0 or self._reasoning_end is None
        return self._parse is None or self._parse.accepts(column)

    def _is_space(self, column: int) -> bool:
        return (self._union.piece(column) or b"x").isspace()

    def _allowed_inside(self, ahead: int) -> Allowed:
        size, end = self._union.size, self._reasoning_end
        if self._left <= ahead and end is not None:
            allowed_U = np.zeros(size, np.bool_)
            allowed_U[end] = True
            return allowed_U
        allowed_U = np.ones(size, np.bool_)
        allowed_U[self._union.end] = self._parse is None or end is not None  # see `settle`
        return allowed_U

    @property
    def _reasoning_end(self) -> int | None:
        marks = self._union.marks
        return self._union.texts + marks.index("reasoning_end") if "reasoning_end" in marks else None

    def settle(self, column: int) -> int:
        """What a choice stands for: END ends the reasoning alone, where a grammar's answer is still to come."""
        end = self._reasoning_end
        if end is None or self._parse is None or not self._inside or column != self._union.end:
            return column
        return end

    def consume(self, column: int) -> None:
        """Advance by a chosen piece or mark."""
        mark = self._union.mark(column)
        if mark is not None and mark not in OF_CALLS:
            self._reasoned = self._reasoned or (self._inside and mark == "reasoning_end")
            self._begun = mark == "answer_begin"
            self._inside = _goes_inside(mark, inside=self._inside)
        elif self._inside:
            self._written += 1
        else:
            self._answered = self._answered or not self._is_space(column)
            if self._parse is not None:
                self._parse.consume(column)

    def copy(self) -> BesideReasoning:
        """An independent copy, for a sequence that branches off."""
        twin = copy.copy(self)
        twin._parse = None if self._parse is None else self._parse.copy()
        return twin


def _goes_inside(mark: Mark, *, inside: bool) -> bool:
    return mark == "reasoning_begin" or (inside and mark != "reasoning_end")
