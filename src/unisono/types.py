"""Records shared by all layers. They are facts: frozen, without behaviour, without model libraries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypedDict

Finish = Literal["end", "stop", "length", "context"]
"""Why a text ended: END was chosen, a stop string was completed, the limit of new pieces was
reached, or the smallest context of the members was full."""

Role = Literal["system", "user", "assistant"]


class Message(TypedDict):
    """One turn of a conversation, as chat templates expect it."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the ensemble is asked to continue: raw text, or a conversation to be answered.

    Exactly one of the two is set. Each member reads it in its own form.
    """

    text: str | None = None
    messages: tuple[Message, ...] | None = None


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step of generation, as it is written to a trace."""

    piece: bytes | None
    """The chosen piece; ``None`` for END."""
    p: float
    """Its combined probability ``q(piece)``."""
    voted: tuple[str, ...]
    """The members that were asked."""
    members: Mapping[str, float]
    """Each voter's folded mass of the piece."""

    def to_json(self) -> dict[str, object]:
        """The record as the trace contract words it: bytes as integers, END as ``null``."""
        return {
            "bytes": None if self.piece is None else list(self.piece),
            "p": self.p,
            "voted": list(self.voted),
            "members": dict(self.members),
        }


@dataclass(frozen=True, slots=True)
class Usage:
    """What a generation read and wrote."""

    prompt_tokens: Mapping[str, int]
    """Tokens of the prompt, by member: each counts in its own tokenizer."""
    pieces: int
    """Pieces chosen, END not counted."""


@dataclass(frozen=True, slots=True)
class Seconds:
    """Where the time of one generation went, in seconds of wall clock."""

    total: float
    """From the moment the request joined the batch until it ended."""
    first_piece: float
    """From the same moment until its first piece was chosen."""
    members: Mapping[str, float]
    """Forward passes, by member. A pass that serves several requests is counted whole in each."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A finished text and how it came about."""

    text: str
    """The text, with a completed stop string cut off; a piece cut short inside a character at the
    end is shown as U+FFFD here and kept in ``data``."""
    data: bytes
    """The exact bytes of the chosen pieces, up to the stop string."""
    finish_reason: Finish
    usage: Usage
    seconds: Seconds
    steps: tuple[StepRecord, ...] | None = None
    """The trace, when one was asked for."""

    def to_json(self) -> dict[str, object]:
        """The record as ``unisono run`` writes it."""
        out: dict[str, object] = {
            "text": self.text,
            "finish_reason": self.finish_reason,
            "usage": {"prompt_tokens": dict(self.usage.prompt_tokens), "pieces": self.usage.pieces},
            "seconds": {
                "total": round(self.seconds.total, 6),
                "first_piece": round(self.seconds.first_piece, 6),
                "members": {name: round(value, 6) for name, value in self.seconds.members.items()},
            },
        }
        if self.steps is not None:
            out["steps"] = [step.to_json() for step in self.steps]
        return out


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop one text."""

    max_new_tokens: int = 256
    """Pieces to choose at most."""
    stop: Sequence[str] = field(default=())
    """Stop strings; the text ends before the first that is completed."""
