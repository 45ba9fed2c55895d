"""A bias on texts or columns: what it adds to which columns depends on how the text before them ends."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from unisono.errors import SpecError
from unisono.vocab.union import UnionVocabulary


class Bias:
    """Adds to the log-mass of the piece that completes a text, however the text is cut into pieces.

    Where what is written ends with the beginning of a biased text, the piece that is the rest of it is
    biased; the piece that is the whole text always is. So a text of several pieces can be banned, or
    asked for once it has begun (transformers' sequence bias, for bytes).
    """

    def __init__(
        self, bias: Mapping[bytes, float], union: UnionVocabulary, by_column: Mapping[int, float] | None = None
    ) -> None:
        """Look up the columns of all ends of the texts.

        Args:
            bias: by text.
            union: whose pieces complete them.
            by_column: what is always added to columns.

        Raises:
            SpecError: the union has no such column.
        """
        self._by_column = dict(by_column or {})
        for column in self._by_column:
            if column > union.end:
                raise SpecError(
                    f"logit_bias is given for {column}, and the last column, END, is {union.end}",
                    hint="give the number of a piece in this union",
                )
        ends = {text[start:] for text in bias for start in range(len(text))}
        columns = union.columns(ends) if ends else {}
        self._cases = [
            (text[:start], columns[text[start:]], more)
            for text, more in bias.items()
            for start in range(len(text))
            if text[start:] in columns
        ]
        self.reach = max((len(beginning) for beginning, _, _ in self._cases), default=0)
        """How many bytes before a piece matter, at most."""

    def at(self, written: bytes) -> dict[int, float]:
        """What is added to which columns after ``written``, of which the last `reach` bytes are enough."""
        added: defaultdict[int, float] = defaultdict(float, self._by_column)
        for beginning, column, more in self._cases:
            if written.endswith(beginning):
                added[column] += more
        return added

    def __bool__(self) -> bool:
        return bool(self._cases or self._by_column)
