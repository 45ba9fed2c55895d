"""Records shared by all layers. They are facts: frozen, without behaviour, without model libraries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

from unisono.errors import SpecError, shown

Finish = Literal["end", "stop", "length", "context"]
"""Why a text ended: the members chose END, a stop string was completed, the limit of new pieces was reached, or a
member's context was full."""


Part = Literal["answer", "reasoning"]
"""Which part of a text a piece belongs to: ``reasoning`` stands between the marks of reasoning."""


TopPieces = tuple[tuple[bytes | str | None, float], ...]
"""Pieces and their probabilities; END is ``None``, and a mark is a `str`, its name."""


@dataclass(frozen=True, slots=True)
class GateReading:
    """What a gate measured at one step, and what followed."""

    score: float
    """The gate's score of the lead's distribution: a probability, a difference of probabilities, nats, or the
    position."""
    threshold: float
    asked: bool
    """Whether the other members were asked."""
    inside: str | None = None
    """The member inside whose token the text ended, which kept the gate shut; ``None`` otherwise."""
    certain: bool = True
    """Whether the lead's distribution decides the gate; if a truncated one does not, the gate opens."""

    def to_json(self) -> dict[str, object]:
        unsure = {} if self.certain else {"certain": False}
        return {"score": self.score, "threshold": self.threshold, "asked": self.asked, "inside": self.inside, **unsure}


@dataclass(frozen=True, slots=True)
class DraftRecord:
    """What a drafter proposed at one step."""

    drafter: str
    piece: bytes
    """END is never drafted, because nothing can be read after it."""
    accepted: bool

    def to_json(self) -> dict[str, object]:
        return {"drafter": self.drafter, "bytes": list(self.piece), "accepted": self.accepted}


@dataclass(frozen=True, slots=True)
class StepSeconds:
    """The time of one step, in seconds of wall clock. Steps of one block share its time evenly."""

    total: float
    members: Mapping[str, float]

    def to_json(self) -> dict[str, object]:
        return {"total": round(self.total, 6), "members": _rounded(self.members)}


@dataclass(frozen=True, slots=True)
class Standing:
    """The rank of a given piece among all pieces of the union."""

    column: int
    rank: int
    """1 for the most likely piece; of two equally likely pieces, the lower column comes first."""
    likeliest: tuple[int, ...]
    """The columns of the step's ``likeliest``."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step of generation, as it is written to a trace."""

    piece: bytes | None
    """The chosen piece. ``None`` for END, and empty for a mark, whose name is ``mark``."""
    p: float
    """Its combined probability ``q(piece)``, before sampling options; with one voter, that member's own probability."""
    voted: tuple[str, ...]
    """The members that were asked: the lead alone if the gate was shut, one member with mixture sampling, and with
    `gate: certain` as many as made the piece certain (none if a constraint left one piece)."""
    members: Mapping[str, float]
    """Each voter's folded probability of the piece, by member."""
    top: Mapping[str, TopPieces] = field(default_factory=dict)
    """Each voter's most likely pieces with their probabilities: at most ten, and except for the first none below
    0.001."""
    likeliest: TopPieces = ()
    """The most likely pieces of the combined distribution with their probabilities: as many as were asked for, ten in
    a trace."""
    gate: GateReading | None = None
    draft: DraftRecord | None = None
    mark: str | None = None
    """The name of the chosen mark, such as ``reasoning_begin``; ``None`` for a piece and for END."""
    part: Part = "answer"
    """The part of the text that the piece belongs to."""
    seconds: StepSeconds | None = field(default=None, compare=False)
    standing: Standing | None = None
    """The rank of the piece, for a scored prompt whose most likely pieces are kept."""
    certain: bool | None = None
    """With truncated members, or if not all were asked: whether every distribution within the bounds gives this piece.
    Probabilities are then lower bounds. ``None`` for whole distributions."""
    unknown: float | None = 0.0
    """How much larger ``p`` may be; ``None`` if the piece was sampled with estimated probabilities."""
    absent: tuple[str, ...] = ()
    """The members that would have been asked, but were away."""
    lead: str | None = None
    """The member that leads the text, asked or not."""
    unasked: tuple[str, ...] = ()
    """The members that were there but not asked: the gate was shut, mixture sampling drew another one, or the piece was
    certain without them."""
    entropy: float | None = field(default=None, compare=False)
    """Entropy of the combined distribution in nats; ``None`` without a trace, or if the distribution is not whole."""
    variation: float | None = field(default=None, compare=False)
    """The largest total variation distance between two voters' distributions, 0 to 1; ``None`` like ``entropy``."""
    spelled: Mapping[str, tuple[tuple[int, bytes], ...]] = field(default_factory=dict)
    """By member, the ids as which it reads the piece, each with its bytes; none for END. Only in a trace."""
    kind: str | None = None
    """What happened: ``agreed``, ``carried``, ``overruled``, ``nobody``, ``shut`` or ``forced``. Only in a trace."""
    winners: tuple[str, ...] = ()
    """The members whose first choice the piece is, or each of its bytes where these were walked; those that are
    subtracted left out. Only in a trace."""
    subtracted: tuple[str, ...] = ()
    """The members with a negative weight: what they find likely becomes less likely, so that they win no piece."""
    walked: int | None = None
    """How many of its bytes were chosen one by one (`vocabulary: bytes`): 0 if the members' cuts agreed."""
    about: Mapping[str, object] | None = field(default=None, compare=False)
    """In the first step of a trace: its version, the members with their weights, the lead, the rule and the gate."""

    def to_json(self) -> dict[str, object]:
        """The record in the form of a trace: bytes as integers, END as ``null``."""
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
            **({"subtracted": list(self.subtracted)} if self.subtracted else {}),
            **({} if self.kind is None else {"kind": self.kind, "winners": list(self.winners)}),
            **({} if self.entropy is None else {"entropy": round(self.entropy, 6)}),
            **({} if self.variation is None else {"variation": round(self.variation, 6)}),
            **({} if self.walked is None else {"walked": self.walked}),
            **({"spelled": _json_spelled(self.spelled)} if self.spelled else {}),
            "seconds": None if self.seconds is None else self.seconds.to_json(),
        }


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
            "members": _rounded(self.members),
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
