"""Drafting by look-up: what followed the same pieces earlier in the text is likely to follow again."""

from __future__ import annotations

from collections.abc import Iterable

LONGEST, SHORTEST = 4, 2
"""How many columns of the text's end are looked up: as many as possible, from 4 down to 2."""


class NgramIndex:
    """The columns of one text, and what followed each run of 2 to 4 of them when it last occurred.

    It drafts without a model: Prompt Lookup Decoding (Saxena, 2023), and before it LLMA, which copies
    from a reference (Yang et al., 2023, arXiv 2304.04487). Appending a column costs the same however long the
    text is, and so does a look-up.
    """

    def __init__(self, end: int, columns: Iterable[int] = ()) -> None:
        """Begin with the columns of a prompt; ``end``, END's, is never drafted.

        A negative column stands for what has none, such as a control token: it is never drafted, and no two are the
        same.
        """
        self._end = end
        self._columns: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # a run's latest occurrence that something followed
        self.extend(columns)

    def __len__(self) -> int:
        return len(self._columns)

    def append(self, column: int) -> None:
        # Only now is the end of the text followed by something: until here a look-up could not find itself.
        for run in self._last_runs():
            self._after[run] = len(self._columns)
        self._columns.append(column)

    def extend(self, columns: Iterable[int]) -> None:
        for column in columns:
            self.append(column)

    def propose(self, limit: int) -> tuple[list[int], int]:
        """Draft what followed the latest earlier occurrence of the longest run that ends the text.

        The draft ends before END and before a negative column. Where it reaches the end of the text it goes on with its
        own beginning, so that a text that repeats itself is drafted as far as asked. Returns the draft, and the length
        of the run that was found again; ``([], 0)`` when there is no draft.
        """
        for run in self._last_runs():
            start = self._after.get(run)
            if start is not None:
                draft = self._from(start, limit)
                return draft, len(run) if draft else 0
        return [], 0

    def _last_runs(self) -> list[tuple[int, ...]]:
        """The runs that end the text, the longest first, without those that hold a negative column."""
        last = self._columns[-LONGEST:]
        runs = [tuple(last[-size:]) for size in range(len(last), SHORTEST - 1, -1)]
        return [run for run in runs if min(run) >= 0]

    def _from(self, start: int, limit: int) -> list[int]:
        draft: list[int] = []
        size = len(self._columns)
        for place in range(start, start + limit):
            column = self._columns[place] if place < size else draft[place - size]
            if column < 0 or column == self._end:
                break
            draft.append(column)
        return draft
