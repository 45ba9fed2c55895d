"""A member at work: its model, what each text has told it so far, and how it reads and writes pieces."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from array_api_compat import array_namespace

from unisono.backends.base import Array, Backend, Feed, PrefixStore, Slot, dense
from unisono.chat.messages import Prompt, content_of
from unisono.chat.prompt_encoder import PromptEncoder
from unisono.engine.calls import Calls
from unisono.engine.circuit_breaker import CircuitBreaker
from unisono.engine.cursor import Cursor, SlotHolder
from unisono.fusion.calibration import Calibration
from unisono.fusion.fold import FoldPlan, Scratch, Softmax, fold, plan_fold, softmax
from unisono.fusion.fold_top import FoldedTop, TopPlan, plan_top
from unisono.fusion.partial_votes import untold
from unisono.vocab.marks import SEAMS, Mark, Turn
from unisono.vocab.spelling import Speller
from unisono.vocab.union import ABSENT, Indices, MemberMap

Place = Literal["opening", "inside"] | Turn
"""Where a member's ids can mean something else: an answer's beginning, reasoning, and places of calls by seams."""
SCORED_AT_ONCE = 32  # tokens of a prompt scored in one pass: their distributions are megabytes each


@dataclass(slots=True)
class Certificates:
    """How far what a truncated member told decided the choices at which it voted."""

    certain: int = 0
    uncertain: int = 0
    """Choices that were made without a certificate."""
    asked_again: int = 0
    """How often it was asked for more."""


class Member(SlotHolder):
    """One voter. Not thread-safe by itself: the engine asks it from one thread at a time."""

    def __init__(
        self,
        name: str,
        weight: float,
        backend: Backend,
        encoder: PromptEncoder,
        speller: Speller,
        member_map: MemberMap,
        *,
        prefixes: PrefixStore | None = None,
        breaker: CircuitBreaker | None = None,
        degrades: bool = False,
        tokenizer_elsewhere: bool = False,
        temperature: float = 1.0,
        calibration: Calibration | None = None,
    ) -> None:
        """Join a loaded model to its map; ``prefixes`` is what its closed slots have read, where that is kept.

        Weights of members sum to 1. Members with the same backend share a pass; the engine unloads it, and its
        ``breaker`` is that of the model. Texts go on without a lost member if it ``degrades``. A
        ``tokenizer_elsewhere`` is asked over the wire, and lost with the model. Its logits are divided by the
        ``temperature``; a ``calibration`` is applied at the first piece of a text.
        """
        super().__init__(name, backend, prefixes, breaker, degrades=degrades)
        self.weight = weight
        self.temperature = temperature
        self.calibration = calibration
        self.encoder = encoder
        self._tokenizer_elsewhere = tokenizer_elsewhere
        self.speller = speller
        self.map = member_map
        self.seconds = 0.0
        """Forward time so far: of a pass that several members share, each one's part."""
        self.certificates = Certificates() if self.is_truncated else None
        """``None`` where it tells all."""
        size, classes = len(member_map.id_U), len(member_map.marks) + 1
        self.plan = plan_fold(member_map.column_V, size, classes, temperature)
        maps = _by_place(member_map)
        self._plans = {place: plan_fold(its, size, classes, temperature) for place, its in maps.items()}
        self._marks = speller.vocabulary.marks
        self._mark_by_column = dict(enumerate(member_map.marks, size - classes))
        self.top_plans = _top_plans(member_map, maps) if self.is_truncated else {}
        """By place, its map as `fold_top` reads it."""
        self._untold: dict[Place | None, FoldedTop] = {}
        self._scratch, self._kept = Scratch(), Scratch()
        self._placed = False

    @property
    def cannot_encode(self) -> bool:
        """Whether its tokenizer is known to be away."""
        return self._tokenizer_elsewhere and self.breaker.reason is not None

    def opens(self, *, off: bool = False) -> bool:
        """Whether its ids mean something else where an answer begins; ``off`` tells that it may not reason first.

        The first piece carries a space that is folded away, or the answer begins with a mark.
        """
        return "opening" in self._plans and not (off and self._marks.at_opening)

    def opens_behind(self, mark: Mark, *, opening: bool, calls: Calls | None = None) -> bool:
        """Whether an answer begins for it behind a mark: anew behind reasoning, or still, where it has read nothing."""
        if calls is not None and mark in SEAMS:
            return False
        if mark == "reasoning_end" and self._marks.reopens:
            return True
        return opening and not self._marks.spelled(mark, opening=True)

    def place(self, calls: Calls | None, *, inside: bool, first: bool) -> Place | None:
        """What its ids mean: ``inside`` reasoning, where an answer begins (``first``), or in ``calls`` by seams."""
        if inside:
            return "inside" if self.ends_reasoning_as_texts else None
        turn = None if calls is None else calls.turn(first=first)
        return turn if turn in self._plans else "opening" if first else None

    @property
    def ends_reasoning(self) -> bool:
        """Whether it can vote for the end of reasoning."""
        return "reasoning_end" in self._marks.known

    @property
    def has_own_openings(self) -> bool:
        """Whether its answers begin with a mark."""
        return bool(self._marks.at_opening)

    @property
    def ends_reasoning_as_texts(self) -> bool:
        """Whether an END of its is the end of reasoning there."""
        return "inside" in self._plans

    def is_full(self, cursor: Cursor) -> bool:
        """Whether a text has more ids than its context holds."""
        return len(cursor.ids) > self.backend.facts.context

    def asked_ids(self, prompt: Prompt) -> list[int]:
        """The ids of what was asked, by which `prompt_loss` weighs a prompt. Raises a `PromptError`.

        They are of the contents of the prompt alone, so that neither its template nor words of its own have a say,
        behind its BOS or, where it has none, behind an END, as evaluations of language models have it. Of a text longer
        than its context they are as many as fit.
        """
        contents = [content_of(message) for message in prompt.messages or ()]
        ids = self.encoder.encode_text("\n\n".join(contents) if prompt.text is None else prompt.text)
        return self.encoder.opened(ids)[: self.backend.facts.context]

    def prompt_loss(self, ids: Sequence[int], slot: Slot | None = None) -> float:
        """How unlikely this member finds what was asked: its mean negative log-likelihood, in nats a byte.

        All members divide by the same count. It reads the `asked_ids` in an empty ``slot``, which is left empty, or in
        one of its own.
        """
        own = self.backend.open() if slot is None else slot
        try:
            nats = sum(loss for _, loss in read_losses(self, own, ids))
        finally:
            if slot is None:
                self.backend.close(own)
            else:
                self.backend.rewind(own, 0)
        return nats / max(1, len(self.speller.vocabulary.join(ids)))

    def untold(self, place: Place | None) -> FoldedTop:
        """What is known of its distribution at a place before it is asked."""
        if place not in self._untold:
            plan = self.plan if place is None else self._plans[place]
            self._untold[place] = untold(plan.column_V, plan.size)
        return self._untold[place]

    def begin_step(self) -> None:
        """Let the distributions that were kept be overwritten."""
        self._kept.reset()

    def fold(self, logits_BV: Array, places: Sequence[Place | None] = (), *, keep: bool = False) -> Array:
        """Fold rows into the union: ``p_BU``, on the member's device.

        ``places`` tells of each where it stands, if any stands where its ids mean something else. The result lasts
        until the next call, or if it is to be kept, until `begin_step`.
        """
        scratch = self._kept if keep else self._scratch
        if not keep:
            scratch.reset()
        if not self._placed and not isinstance(logits_BV, np.ndarray):
            self._place_plans(logits_BV)
        if not any(places):
            return fold(logits_BV, self.plan, scratch)
        return array_namespace(logits_BV).concat(
            [fold(logits_BV[row : row + 1], self.plan_at(place)) for row, place in enumerate(places)]
        )

    def plan_at(self, place: Place | None) -> FoldPlan:
        """How its ids are folded where it may mean something else by them."""
        return self.plan if place is None else self._plans[place]

    def softmax(self, logits_BV: Array) -> Softmax:
        """What rows on the host give the member's own ids; lasts until the next call."""
        self._scratch.reset()
        return softmax(logits_BV, self.plan, self._scratch)

    def spell(
        self, column: int, piece: bytes, *, first: bool = False, calls: Calls | None = None, unaided: bool = False
    ) -> tuple[int, ...]:
        """The ids as which it reads a piece, or a mark: none where it does not know that.

        ``first`` tells that an answer begins, of a member that `opens` one in its own way, and ``calls`` where the text
        stands in calls by seams. ``unaided`` asks no tokenizer, whose encoding might be another: it may be away.
        """
        mark = self.mark_of(column)
        if mark in SEAMS and calls is not None:
            return self.encoder.seams.ids(mark, calls.behind(mark).number, first=first)
        if mark == "call_text" and not self._marks.spelled(mark):  # others quote
            return self.spell_text(b'"', unaided=unaided)
        if mark is not None:
            return self._marks.spelled(mark, opening=first)
        if first and self._marks.at_opening:
            return self._marks.spelled("answer_begin", opening=True) + self.spell(column, piece, unaided=unaided)
        if first and "opening" in self._plans and piece != b" ":
            return self.spell_text(piece, first=True, unaided=unaided)
        token = int(self.map.id_U[column])
        return (token,) if token != ABSENT else self._known_spelling(piece, unaided)

    def spell_text(self, piece: bytes, *, first: bool = False, unaided: bool = False) -> tuple[int, ...]:
        """The ids as which it reads some bytes; ``first`` tells that its answers begin with a space, and one does here.

        Raises an `AssertionError` for bytes that it cannot spell.
        """
        if not first or piece == b" ":
            return self._known_spelling(piece, unaided)
        whole = self.speller.spell(b" " + piece, unaided=unaided)
        return whole or self._known_spelling(b" ", unaided) + self._known_spelling(piece, unaided)

    def mark_of(self, column: int) -> Mark | None:
        return self._mark_by_column.get(column)

    def markup(self, mark: Mark) -> bytes:
        """The text of the token by which it votes for a mark; nothing where it does not."""
        ids = self._marks.anywhere.get(mark)
        return self.encoder.tokenizer.table.texts[ids[0]].encode() if ids else b""

    def _known_spelling(self, piece: bytes, unaided: bool) -> tuple[int, ...]:
        ids = self.speller.spell(piece, unaided=unaided)
        if ids is None:
            raise AssertionError(f"the union holds {piece!r}, which member {self.name!r} cannot spell")
        return ids

    def _place_plans(self, logits_BV: Array) -> None:
        self.plan = self.plan.to_device_of(logits_BV)
        self._plans = {place: plan.to_device_of(logits_BV) for place, plan in self._plans.items()}
        self._placed = True


def _by_place(its: MemberMap) -> dict[Place, Indices]:
    """What a member's ids mean where that is something else."""
    maps: list[tuple[Place, Indices | None]] = [
        ("opening", its.first_column_V),
        ("inside", its.inside_column_V),
        *its.turns.items(),
    ]
    return {place: column_V for place, column_V in maps if column_V is not None}


def _top_plans(its: MemberMap, maps: Mapping[Place, Indices]) -> dict[Place | None, TopPlan]:
    places: list[tuple[Place | None, Indices]] = [(None, its.column_V), *maps.items()]
    return {place: plan_top(column_V, len(its.id_U)) for place, column_V in places}


def read_losses(reader: Backend | Member, slot: Slot, ids: Sequence[int]) -> Iterator[tuple[Array, float]]:
    """Read ids into an empty slot: before each but the first, ``logits_V`` and its loss in nats, NaN for no numbers.

    The logits last until the next ones are asked for.
    """
    for start in range(0, len(ids) - 1, SCORED_AT_ONCE):
        block = ids[start : start + SCORED_AT_ONCE]
        wanted = ids[start + 1 : start + 1 + SCORED_AT_ONCE]
        logits_NV = dense(reader.advance([Feed(slot, block, len(block))]))
        for logits_V, token in zip(logits_NV, wanted, strict=False):
            yield logits_V, loss_of(logits_V, token)


def loss_of(logits_V: Array, token: int) -> float:
    """The loss of an id in nats; NaN where any logit is no number."""
    xp = array_namespace(logits_V)
    highest = xp.max(logits_V)  # is none where any is none
    if not math.isfinite(highest):
        return math.nan
    return float(highest - logits_V[token] + xp.log(xp.sum(xp.exp(logits_V - highest))))
