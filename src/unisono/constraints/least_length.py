"""A text of at least so many pieces, as a state that allows END only after them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unisono.constraints.grammar import Parse
from unisono.fusion.logits_processors import Allowed
from unisono.vocab.union import UnionVocabulary


class LeastLength(Parse):
    """END has to wait, unless a grammar allows nothing else."""

    def __init__(self, pieces: int, union: UnionVocabulary, parse: Parse | None = None) -> None:
        """Wait for so many pieces, of a text that may be bound to a grammar, too."""
        self._left = pieces
        self._union = union
        self._parse = parse
        self.by_seams = parse is not None and parse.by_seams

    def allowed(self, ahead: Sequence[int]) -> Allowed:
        """The columns that may follow what is written and the drafted pieces ``ahead``."""
        allowed_U = np.ones(self._union.size, np.bool_) if self._parse is None else self._parse.allowed(ahead)
        if len(ahead) >= self._left:
            return allowed_U
        going_on_U = allowed_U.copy()
        going_on_U[self._union.end] = False
        return going_on_U if going_on_U.any() else allowed_U

    def accepts(self, column: int) -> bool:
        """Whether one column may follow."""
        return bool(self.allowed(())[column])

    def settle(self, column: int) -> int:
        """What a choice stands for."""
        return column if self._parse is None else self._parse.settle(column)

    def consume(self, column: int) -> None:
        """Advance by a chosen piece."""
        self._left -= 1
        if self._parse is not None:
            self._parse.consume(column)

    def copy(self) -> LeastLength:
        """An independent copy, for a sequence that branches off."""
        return LeastLength(self._left, self._union, None if self._parse is None else self._parse.copy())
