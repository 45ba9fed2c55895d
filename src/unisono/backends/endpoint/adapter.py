"""What the endpoint backend wants of an engine: an adapter turns questions into requests, and answers into rows.

A slot lives here: a list of ids, and how many of them the engine is known to hold. Nothing has to be sent to open,
rewind or close one (an adapter may tell its engine that one is free); each question says which ids stand before, and
the engine reads what it lacks. So a lost answer, a restart and an expired session are one case: the next question makes
them good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from unisono.backends.base import Array, ModelFacts, Truncation
from unisono.backends.top_logprobs import TopLogprobs
from unisono.vocab.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of one slot."""

    slot: int
    """Its number here, below the number of slots."""
    ids: Sequence[int]
    """All ids that it holds when this has been answered."""
    held: int
    """How many of these the engine is believed to have read, in this slot or in the one of which it is a copy; it may
    have lost them."""
    wanted: int
    """Distributions are wanted behind this many of the last ids; 0 only reads them."""
    top: int = 0
    """How many of the likeliest ids to tell, of a truncated engine; 0 for its own k."""
    also: Sequence[int] = ()
    """Ids to tell whatever their rank."""


@dataclass(frozen=True, slots=True)
class Description:
    """What an endpoint says of itself when it is probed."""

    engine: str
    """Its name and version, as it tells them."""
    model: str
    """A fingerprint of its weights and tokenizer, as well as it can be told: another one is another model."""
    rows: int
    context: int
    """Tokens that a text may have; 0 where it does not say."""
    slots: int
    truncated: Truncation | None
    tokenizer: Tokenizer | None
    """``None`` where the engine gives none, and the member has to name it."""
    keeps_prefixes: bool = False
    """Whether it finds by itself what it has read of a text, whatever the slot."""
    notes: tuple[str, ...] = ()
    """What follows for exactness and cost, for `doctor`."""
    warnings: tuple[str, ...] = ()
    """What it warns of, as a model's files do."""

    def facts(self, device: str, dtype: str, context: int) -> ModelFacts:
        """What a loader tells of the model; its weights are not here."""
        return ModelFacts(
            architecture=self.engine,
            rows=self.rows,
            parameters=None,
            context=context,
            trained_context=self.context,
            weight_bytes=0,
            cache_bytes=0,
            dtype=dtype,
            device=device,
            revision=self.model,
            truncated=self.truncated,
            warnings=self.warnings,
        )


class Adapter(Protocol):
    """One kind of engine. Coroutines run on the client's thread. All raise `MemberUnavailable`."""

    async def describe(self) -> Description: ...

    def ask(self, questions: Sequence[Question]) -> Array | TopLogprobs:
        """Answer questions about different slots, all in flight together: their wanted rows, in order.

        Waits in the caller's thread, no longer than the member's time-out.
        """
        ...

    async def leave(self, slots: Sequence[int] | None) -> None:
        """Tell the engine that it may forget slots, or all of them.

        Failures are ignored: what is idle ends by itself.
        """
        ...
