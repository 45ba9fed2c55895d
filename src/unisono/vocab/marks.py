"""Marks: classes beside pieces, such as "reasoning begins", and the ids with which one member writes them.

A mark is voted for like a piece, by the first id of a member's form of it; the rest of the form follows without a vote
(docs/adr/0014). A mark is no text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

GivenMark = Literal["reasoning_begin", "reasoning_end", "answer_begin", "call_begin", "call_end"]
"""Those of which a spec may give forms; the others stand within calls, and templates alone show them."""

Mark = Literal[GivenMark, "call_arguments", "call_next", "call_text"]
MARKS: tuple[Mark, ...] = get_args(Mark)
"""In the order of their columns; where two forms of a member begin with one id, the first of them has it."""

SEAMS: tuple[Mark, ...] = ("call_begin", "call_end", "call_arguments", "call_next")
"""Marks of tool calls by seams."""

OF_CALLS: tuple[Mark, ...] = (*SEAMS, "call_text")
"""Marks of tool calls; the last stands around texts within them. Where tools are given, the lead's markup stands for
these marks in the text, to find the calls."""

Ids = tuple[int, ...]

Turn = Literal["calling", "calling_first", "name", "behind"]
"""Places where ids of a member can stand for marks of calls by seams: where a call may begin (first: where an answer
does), in a name, and behind a call."""


@dataclass(frozen=True, slots=True)
class MarkForms:
    """How one member writes marks."""

    anywhere: Mapping[Mark, Ids] = field(default_factory=dict)
    """Forms that begin with a control token."""
    at_opening: Mapping[Mark, Ids] = field(default_factory=dict)
    """Forms where an answer begins, of a model whose answers begin with a mark always. Their first ids may be text
    elsewhere; where an answer begins the model writes nothing but them."""
    opening: Ids = ()
    """What stands before each form of ``at_opening``. It is part of the prompt."""
    reopens: bool = False
    """Whether an answer begins anew behind ``reasoning_end``, as at the opening."""
    reads: Mapping[Mark, Ids] = field(default_factory=dict)
    """What the member reads where others choose a mark that it does not write itself."""
    seams: Ids = ()
    """The control tokens in calls whose names stand outside of their JSON; none where calls have another form."""

    def __bool__(self) -> bool:
        return bool(self.anywhere or self.at_opening or self.reads)

    @property
    def known(self) -> set[Mark]:
        """The marks for which the member can vote."""
        return {*self.anywhere, *self.at_opening, *(SEAMS if self.seams else ())}

    @property
    def first_ids(self) -> frozenset[int]:
        """The ids that stand for marks anywhere, and so are no pieces."""
        return frozenset(ids[0] for ids in self.anywhere.values())

    def spelled(self, mark: Mark, *, opening: bool = False) -> Ids:
        """The ids that a member reads for a mark; none where it reads nothing."""
        places = (self.at_opening, self.anywhere) if opening else (self.anywhere,)
        return next((forms[mark] for forms in (*places, self.reads) if mark in forms), ())

    def is_open(self, ids: Sequence[int]) -> bool:
        """Whether a prompt ends inside reasoning, so that the answer's first piece belongs to it."""
        opened = self.opening + self.at_opening.get("reasoning_begin", ())
        if len(opened) > len(self.opening) and tuple(ids[-len(opened) :]) == opened:
            return True
        begin, end = (self.anywhere.get(mark, ()) for mark in ("reasoning_begin", "reasoning_end"))
        if not begin or not end:
            return False
        return next((token == begin[0] for token in reversed(ids) if token in (begin[0], end[0])), False)

    def unfinished(self, ids: Sequence[int]) -> Ids:
        """The rest of the end of reasoning, of a prompt that ends with its beginning, behind reasoning of nothing."""
        begin, end = (self.anywhere.get(mark, ()) for mark in ("reasoning_begin", "reasoning_end"))
        for size in range(len(end) - 1, 0, -1) if begin else ():
            if tuple(ids[-size - len(begin) :]) == begin + end[:size]:
                return end[size:]
        return ()

    def begun(self, ids: Sequence[int], *, inside: bool = False, off: bool = False) -> list[int]:
        """The ids of a conversation up to an answer's first piece: ``inside`` reasoning, or in an answer without it.

        ``off`` lets that begin with text; else it may begin with a mark.
        """
        if self.is_open(ids):
            reopened = self.spelled("answer_begin", opening=True) if self.reopens and off else ()
            return [*ids, *(() if inside else self.spelled("reasoning_end") + reopened)]
        if unfinished := () if inside else self.unfinished(ids):
            return [*ids, *unfinished]
        mark: Mark = "reasoning_begin" if inside else "answer_begin"
        form = (*self.opening, *(self.spelled(mark, opening=True) if inside or off else ()))
        return [*ids, *(() if form and tuple(ids[-len(form) :]) == form else form)]


NO_MARKS = MarkForms()
