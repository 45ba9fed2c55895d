"""Records of one step of a text, as traces have them: what was chosen, who voted for what, gates and drafts.

They are facts: frozen, without behaviour, without model libraries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

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
        return {"total": round(self.total, 6), "members": rounded(self.members)}


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
    """Entropy of the combined distribution in nats, within 0.03 where nothing was folded (`fusion.unfolded`); ``None``
    without a trace, or if the distribution is not whole."""
    variation: float | None = field(default=None, compare=False)
    """The largest total variation distance between two voters' distributions, 0 to 1, within 0.005 likewise; ``None``
    like ``entropy``."""
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


def rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds by member, to the microsecond."""
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
