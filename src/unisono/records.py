"""Records of whole texts, shared by all layers: limits, results, scores. `step_records` has those of one step.

They are facts: frozen, without behaviour, without model libraries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

from unisono.errors import SpecError, shown
from unisono.step_records import StepRecord, rounded

Finish = Literal["end", "stop", "length", "context"]
"""Why a text ended: the members chose END, a stop string was completed, the limit of new pieces was reached, or a
member's context was full."""


@dataclass(frozen=True, slots=True)
class PieceScore:
    """The score of one piece of a given text."""

    piece: bytes | None
    """``None`` for END."""
    logp: float
    """The natural logarithm of its combined probability before sampling options; minus infinity for probability 0."""
    is_likeliest: bool
    """Whether greedy would have chosen it."""
    voted: tuple[str, ...]
    """The members that were asked."""


@dataclass(frozen=True, slots=True)
class Score:
    """The score of a given text."""

    pieces: tuple[PieceScore, ...]
    """The pieces of the text, as the lead's tokenizer cuts it."""
    prompt_tokens: Mapping[str, int]
    """Tokens of the prompt by member, each in its own tokenizer."""
    seconds: float = field(default=0.0, compare=False)
    """The time of scoring, together with all texts that were scored in the same passes. It includes the reading of the
    prompt only if no other text follows that prompt."""

    @property
    def logp(self) -> float:
        """The natural logarithm of the probability of the text: the sum over its pieces."""
        return sum(piece.logp for piece in self.pieces)

    @property
    def is_greedy(self) -> bool:
        """Whether greedy would have written this text."""
        return all(piece.is_likeliest for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a text took, in counts."""

    prompt_tokens: Mapping[str, int]
    """Tokens of the prompt by member, each in its own tokenizer."""
    pieces: int
    """Pieces of the text, with marks and without END."""
    ensembled: int
    """Pieces at which all members were asked."""
    blocks: int = 0
    """Drafts; each is read in one block."""
    drafted: int = 0
    """Drafted pieces."""
    accepted: int = 0
    """Drafted pieces that were accepted."""
    reasoning: int = 0
    """Pieces of reasoning."""
    uncertain: int | None = None
    """Choices that truncated distributions did not prove; ``None`` if all distributions are whole."""
    degraded: Mapping[str, int] | None = None
    """By member, the choices (END's too) that were made without it while it was away; ``None`` for none."""
    unasked: Mapping[str, int] | None = None
    """By member, the choices (END's too) that were certain without it (`gate: certain`); ``None`` for none."""
    parted: int | None = None
    """Pieces at which the members' cuts differed, so that bytes were chosen; ``None`` without `vocabulary: bytes`."""

    def to_json(self) -> dict[str, object]:
        given = {key.name: getattr(self, key.name) for key in fields(self)}
        for name in ("prompt_tokens", "degraded", "unasked"):
            given[name] = None if given[name] is None else dict(given[name])
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Seconds:
    """The time of one generation, in seconds of wall clock."""

    total: float
    """From the moment the request joined the batch until it ended."""
    first_piece: float
    """From the same moment until its first piece was chosen."""
    members: Mapping[str, float]
    """Forward passes by member. A pass that serves several requests counts in full for each; a pass that members share
    is divided by how much each of them read."""

    def to_json(self) -> dict[str, object]:
        return {
            "total": round(self.total, 6),
            "first_piece": round(self.first_piece, 6),
            "members": rounded(self.members),
        }


@dataclass(frozen=True, slots=True)
class Generation:
    """A finished text, and how it was written."""

    text: str
    """The text without a completed stop string. An incomplete character at its end is left out here and kept in
    ``data``."""
    data: bytes
    """The exact bytes of the chosen pieces, up to the stop string."""
    finish_reason: Finish
    usage: Usage
    seconds: Seconds
    reasoning: str | None = None
    """The text between the marks of reasoning, without the white space at its ends; ``None`` without such a mark."""
    seed: int | None = None
    """The seed that gives this text again; ``None`` if nothing was sampled."""
    steps: tuple[StepRecord, ...] | None = None
    """The trace; ``None`` without ``trace=True``."""
    ended_inside: bool = False
    """Whether it ended within its reasoning."""

    def to_json(self) -> dict[str, object]:
        out: dict[str, object] = {
            "text": self.text,
            **({} if self.reasoning is None else {"reasoning": self.reasoning}),
            "finish_reason": self.finish_reason,
            "usage": self.usage.to_json(),
            "seconds": self.seconds.to_json(),
        }
        if self.seed is not None:
            out["seed"] = self.seed
        if self.steps is not None:
            out["steps"] = [step.to_json() for step in self.steps]
        return out


@dataclass(frozen=True, slots=True)
class Limits:
    """When a text ends.

    Raises:
        SpecError: a number is out of range, or a stop string is empty or not Unicode.
    """

    max_new_tokens: int = 256
    """The most pieces to choose."""
    stop: Sequence[str] = ()
    """Stop strings, or a single one. The text ends with the piece that completes one, and is cut before the leftmost
    stop string in it."""
    min_new_tokens: int = 0
    """The pieces before END can be chosen; stop strings still end a text earlier."""
    keep_stop: bool = False
    """Whether a text that a stop string ends is cut behind it, and not before."""

    def __post_init__(self) -> None:
        if not isinstance(self.max_new_tokens, int) or isinstance(self.max_new_tokens, bool) or self.max_new_tokens < 1:
            raise SpecError(
                f"max_new_tokens is {shown(self.max_new_tokens)}: it must be a whole number, 1 or more",
                hint="it counts the pieces to write at most",
            )
        least = self.min_new_tokens
        if not isinstance(least, int) or isinstance(least, bool) or not 0 <= least <= self.max_new_tokens:
            raise SpecError(
                f"min_new_tokens is {shown(least)}: it must be a whole number from 0 to {self.max_new_tokens}",
                hint="it counts the pieces that are written before END can be chosen, max_new_tokens at most",
            )
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        if not isinstance(stop, Sequence) or not all(isinstance(text, str) for text in stop):
            raise SpecError(f"stop is {shown(self.stop)}", hint="give a string or a list of strings")
        for text in stop:
            if not text:
                raise SpecError("a stop string is empty: every text would end before it begins", hint="leave it out")
            if not is_unicode(text):
                raise SpecError(f"the stop string {shown(text)} is not Unicode text", hint="repair its encoding")
        object.__setattr__(self, "stop", tuple(stop))


def is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
