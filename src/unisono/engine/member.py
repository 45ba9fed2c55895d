"""A member at work: its model, what each text has told it so far, and its vote."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from array_api_compat import array_namespace

from unisono.backends.base import Array, Backend, Feed, Slot
from unisono.fusion.fold import Scratch, fold, plan_fold
from unisono.types import Prompt
from unisono.vocab.prompt import PromptReader
from unisono.vocab.spelling import Speller
from unisono.vocab.union import ABSENT, MemberMap


@dataclass(slots=True)
class Cursor:
    """One text as one member has it: the log of its ids, and how far the model has read."""

    slot: Slot
    ids: list[int] = field(default_factory=list)
    """The truth about this text; only ever appended to."""
    read: int = 0
    """How many of them the model has read; the others wait and go in as one block."""

    @property
    def waiting(self) -> list[int]:
        """The ids that the model has not read yet."""
        return self.ids[self.read :]


class Member:
    """One voter. Not thread-safe by itself: the engine asks it from one thread at a time."""

    def __init__(
        self, name: str, weight: float, backend: Backend, reader: PromptReader, speller: Speller, member_map: MemberMap
    ) -> None:
        """Join a loaded model to its map.

        Args:
            name: as the spec has it.
            weight: its share of the vote; the members' weights sum to 1.
            backend: the model; the engine unloads it.
            reader: how it reads prompts.
            speller: how it writes pieces that others chose.
            member_map: its ids and the union's columns.
        """
        self.name = name
        self.weight = weight
        self.backend = backend
        self.reader = reader
        self.seconds = 0.0
        """Forward time so far."""
        self._speller = speller
        self._id_U = member_map.id_U
        size = len(member_map.id_U)
        self._plan = plan_fold(member_map.column_V, size)
        first = member_map.first_column_V
        self._first_plan = None if first is None else plan_fold(first, size)
        self._scratch = Scratch()
        self._placed = False

    @property
    def leading_space(self) -> bool:
        """Whether the first piece of its answers carries a space that is folded away."""
        return self._first_plan is not None

    def vote(self, cursors: Sequence[Cursor], first: Sequence[bool]) -> Array:
        """Read what waits in every cursor, in one pass, and return the member's folded distributions.

        Args:
            cursors: of B texts.
            first: which of them are at the first step of an answer.

        Returns:
            ``p_BU``, on the member's device, valid until the next vote.
        """
        began = time.perf_counter()
        logits_BV = self.backend.advance([Feed(cursor.slot, cursor.waiting) for cursor in cursors])
        self.seconds += time.perf_counter() - began
        for cursor in cursors:
            cursor.read = len(cursor.ids)
        self._place_plans(logits_BV)
        if self._first_plan is None or not any(first):
            return fold(logits_BV, self._plan, self._scratch)
        if all(first):
            return fold(logits_BV, self._first_plan)
        xp = array_namespace(logits_BV)
        return xp.concat(
            [
                fold(logits_BV[row : row + 1], self._first_plan if is_first else self._plan)
                for row, is_first in enumerate(first)
            ]
        )

    def spell(self, column: int, piece: bytes, *, first: bool = False) -> tuple[int, ...]:
        """Return the ids as which this member takes a chosen piece."""
        if first and self.leading_space and piece != b" ":
            whole = self._speller.spell(b" " + piece)
            return whole or self._known_spelling(b" ") + self._known_spelling(piece)
        token = int(self._id_U[column])
        return (token,) if token != ABSENT else self._known_spelling(piece)

    def begin(self, prompt: Prompt) -> list[int]:
        """The ids with which this member reads a prompt. Raises a `PromptError` that names it."""
        return self.reader.read(prompt)

    def _known_spelling(self, piece: bytes) -> tuple[int, ...]:
        ids = self._speller.spell(piece)
        if ids is None:
            raise AssertionError(f"the union holds {piece!r}, which member {self.name!r} cannot spell")
        return ids

    def _place_plans(self, logits_BV: Array) -> None:
        """Bring the fold plans to where the logits lie, once."""
        if not self._placed and not isinstance(logits_BV, np.ndarray):
            self._plan = self._plan.to_device_of(logits_BV)
            if self._first_plan is not None:
                self._first_plan = self._first_plan.to_device_of(logits_BV)
        self._placed = True
