"""Records shared by all layers. They are facts: frozen, without behaviour, without model libraries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

from unisono.errors import SpecError, shown

Finish = Literal["end", "stop", "length", "context"]
"""Why a text ended: END was chosen, a stop string was completed, the limit of new pieces was reached, or a member's
context was full."""


Part = Literal["answer", "reasoning"]
"""Of a text: what stands between the marks of reasoning is no part of the answer."""


TopPieces = tuple[tuple[bytes | str | None, float], ...]
"""Pieces and their probabilities; END is ``None``, and a mark is a `str`, its name."""


@dataclass(frozen=True, slots=True)
class GateReading:
    score: float
    """What the gate measured: a mass, a difference of masses, nats, or the position."""
    threshold: float
    asked: bool
    inside: str | None = None
    """The member whose token the text is inside, which keeps the gate shut."""
    certain: bool = True
    """Whether what the lead tells of its distribution decides; where it does not, the gate opens."""

    def to_json(self) -> dict[str, object]:
        unsure = {} if self.certain else {"certain": False}
        return {"score": self.score, "threshold": self.threshold, "asked": self.asked, "inside": self.inside, **unsure}


@dataclass(frozen=True, slots=True)
class DraftRecord:
    drafter: str
    piece: bytes
    """END is never drafted: nothing could be read after it."""
    accepted: bool

    def to_json(self) -> dict[str, object]:
        return {"drafter": self.drafter, "bytes": list(self.piece), "accepted": self.accepted}


@dataclass(frozen=True, slots=True)
class StepSeconds:
    """Where the time of one step went. Steps of one block share its time evenly."""

    total: float
    members: Mapping[str, float]

    def to_json(self) -> dict[str, object]:
        return {"total": round(self.total, 6), "members": _rounded(self.members)}


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a piece that was given stands among all pieces of the union, by its columns."""

    column: int
    rank: int
    """1 for the most likely; of two pieces that are as likely, the lower column is before the other."""
    likeliest: tuple[int, ...]
    """The columns of the step's ``likeliest``."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step of generation, as it is written to a trace."""

    piece: bytes | None
    """``None`` for END, and empty for a mark, whose name is ``mark``."""
    p: float
    """Its combined probability ``q(piece)``, before the draw reshaped it; of a lone voter, its own."""
    voted: tuple[str, ...]
    """The members that were asked; the lead alone where the gate was shut, one that was drawn, or as many as made it
    certain: none where a constraint left one piece."""
    members: Mapping[str, float]
    """Each voter's folded probability of the piece."""
    top: Mapping[str, TopPieces] = field(default_factory=dict)
    """Each voter's own most probable pieces and their probabilities: ten at most, none below 0.001 but the first."""
    likeliest: TopPieces = ()
    """The most probable pieces of the distribution of ``p``, with probabilities: as many as were asked for, and ten
    in a trace."""
    gate: GateReading | None = None
    draft: DraftRecord | None = None
    mark: str | None = None
    """Which mark was chosen, of reasoning for example; ``None`` for a piece and for END."""
    part: Part = "answer"
    """Which part of the text it belongs to."""
    seconds: StepSeconds | None = field(default=None, compare=False)
    standing: Standing | None = None
    """Of a prompt that is scored, where its most likely pieces are kept."""
    certain: bool | None = None
    """Where members tell their likeliest ids only, or not all were asked: whether every distribution that agrees with
    what is known gives this piece; probabilities are then the least ones. ``None`` where distributions are whole."""
    unknown: float | None = 0.0
    """How much more ``p`` may be; ``None`` where the piece was drawn, and what members do not tell was guessed."""
    absent: tuple[str, ...] = ()
    """The members that would have been asked, and were away."""
    lead: str | None = None
    """The member that leads the text, asked or not; ``None`` in records of who knows of no lead."""
    unasked: tuple[str, ...] = ()
    """The members that were there and not asked: the gate was shut, another was drawn, or it was certain without."""
    entropy: float | None = None
    """Of the distribution of ``p``, in nats; ``None`` without a trace, or where it is not known whole."""
    variation: float | None = None
    """How far apart voters are, from 0 to 1: the largest total variation distance of two. ``None`` as ``entropy``."""
    spelled: Mapping[str, tuple[tuple[int, bytes], ...]] = field(default_factory=dict)
    """By member, the ids as which it reads the piece, each with its bytes: none for END. In a trace only."""
    kind: str | None = None
    """What happened, as `unisono.outcomes` words it, and the members whose first choice it is; in a trace only."""
    winners: tuple[str, ...] = ()
    walked: int | None = None
    """How many of its bytes were chosen one by one (`vocabulary: bytes`): 0 where the members' cuts agreed."""
    about: Mapping[str, object] | None = field(default=None, compare=False)
    """Of the first step of a trace: its version, the members with their weights, and how the text is written."""

    def to_json(self) -> dict[str, object]:
        """The record as the trace contract words it: bytes as integers, END as ``null``."""
        return {
            **({} if self.about is None else {"about": dict(self.about)}),
            "bytes": _json_piece(self.piece),
            "p": self.p,
            **({} if self.lead is None else {"lead": self.lead}),
            "voted": list(self.voted),
            **({"unasked": list(self.unasked)} if self.unasked else {}),
            "members": dict(self.members),
            "top": {name: _json_pieces(pieces) for name, pieces in self.top.items()},
            **({"likeliest": _json_pieces(self.likeliest)} if self.likeliest else {}),
            "gate": None if self.gate is None else self.gate.to_json(),
            "draft": None if self.draft is None else self.draft.to_json(),
            **({} if self.certain is None else {"certain": self.certain, "unknown": self.unknown}),
            **({"absent": list(self.absent)} if self.absent else {}),
            **({"mark": self.mark} if self.mark else {}),
            **({"part": self.part} if self.part != "answer" else {}),
            **({} if self.kind is None else {"kind": self.kind, "winners": list(self.winners)}),
            **({} if self.entropy is None else {"entropy": round(self.entropy, 6)}),
            **({} if self.variation is None else {"variation": round(self.variation, 6)}),
            **({} if self.walked is None else {"walked": self.walked}),
            **({"spelled": _json_spelled(self.spelled)} if self.spelled else {}),
            "seconds": None if self.seconds is None else self.seconds.to_json(),
        }


@dataclass(frozen=True, slots=True)
class PieceScore:
    piece: bytes | None
    logp: float
    """The natural logarithm of its combined probability, before any draw reshapes it; minus infinity for none."""
    is_likeliest: bool
    """Whether greedy would have chosen it."""
    voted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Score:
    pieces: tuple[PieceScore, ...]
    """Cut as the lead's tokenizer cuts it."""
    prompt_tokens: Mapping[str, int]
    seconds: float = field(default=0.0, compare=False)
    """What scoring took, together with all texts that were scored in the same passes. Reading the prompt is in it only
    where nothing else followed that prompt."""

    @property
    def logp(self) -> float:
        """The natural logarithm of the probability of these pieces, one after the other."""
        return sum(piece.logp for piece in self.pieces)

    @property
    def is_greedy(self) -> bool:
        return all(piece.is_likeliest for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: Mapping[str, int]
    """By member: each counts in its own tokenizer."""
    pieces: int
    """Marks counted, END not."""
    ensembled: int
    """Pieces at which all members were asked."""
    blocks: int = 0
    """Drafts; each is read in one block."""
    drafted: int = 0
    """Pieces in drafts."""
    accepted: int = 0
    reasoning: int = 0
    """Pieces of reasoning."""
    uncertain: int | None = None
    """Choices that what members told did not prove; ``None`` where all members tell whole distributions."""
    degraded: Mapping[str, int] | None = None
    """By member, the choices, END's too, that were made without it while it was away; ``None`` where none was."""
    unasked: Mapping[str, int] | None = None
    """By member, the choices, END's too, that were certain without it (`gate: certain`); ``None`` where none was."""
    parted: int | None = None
    """Pieces at which the members' cuts parted, so that bytes were walked; ``None`` without `vocabulary: bytes`."""

    def to_json(self) -> dict[str, object]:
        given = {key.name: getattr(self, key.name) for key in fields(self)}
        for name in ("prompt_tokens", "degraded", "unasked"):
            given[name] = None if given[name] is None else dict(given[name])
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Seconds:
    """Where the time of one generation went, in seconds of wall clock."""

    total: float
    """From the moment the request joined the batch until it ended."""
    first_piece: float
    """From the same moment until its first piece was chosen."""
    members: Mapping[str, float]
    """Forward passes, by member. A pass that serves several requests is counted whole in each; one that members share,
    by how much each read."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A finished text, and how it was generated."""

    text: str
    """The text, with a completed stop string cut off; an incomplete character at the end is left out here and kept in
    ``data``."""
    data: bytes
    """The exact bytes of the chosen pieces, up to the stop string."""
    finish_reason: Finish
    usage: Usage
    seconds: Seconds
    reasoning: str | None = None
    """What was written between the marks of reasoning, without the white space beside them; ``None`` where no mark
    was."""
    seed: int | None = None
    """The seed that draws this text again; ``None`` where nothing was drawn."""
    steps: tuple[StepRecord, ...] | None = None

    def to_json(self) -> dict[str, object]:
        out: dict[str, object] = {
            "text": self.text,
            **({} if self.reasoning is None else {"reasoning": self.reasoning}),
            "finish_reason": self.finish_reason,
            "usage": self.usage.to_json(),
            "seconds": {
                "total": round(self.seconds.total, 6),
                "first_piece": round(self.seconds.first_piece, 6),
                "members": _rounded(self.seconds.members),
            },
        }
        if self.seed is not None:
            out["seed"] = self.seed
        if self.steps is not None:
            out["steps"] = [step.to_json() for step in self.steps]
        return out


@dataclass(frozen=True, slots=True)
class Limits:
    max_new_tokens: int = 256
    """Pieces to choose at most."""
    stop: Sequence[str] = ()
    """Stop strings, or a single one. The text ends with the piece that completes one, and is cut before the leftmost
    string that it then holds."""
    min_new_tokens: int = 0
    """Pieces before END can be chosen, at least; stop strings end a text earlier."""

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


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in seconds.items()}


def _json_pieces(pieces: TopPieces) -> list[dict[str, object]]:
    return [
        {"bytes": [], "mark": piece, "p": p} if isinstance(piece, str) else {"bytes": _json_piece(piece), "p": p}
        for piece, p in pieces
    ]


def _json_spelled(spelled: Mapping[str, tuple[tuple[int, bytes], ...]]) -> dict[str, object]:
    return {name: [{"id": each, "bytes": list(piece)} for each, piece in ids] for name, ids in spelled.items()}


def _json_piece(piece: bytes | None) -> list[int] | None:
    return None if piece is None else list(piece)
