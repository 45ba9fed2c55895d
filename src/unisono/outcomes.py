"""What happened at each piece of a text, read from its trace: who would have written it, and who was overruled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from unisono.step_records import Part, StepRecord

TRACE_VERSION = 2
"""Of the form of a trace: 1 had no `about`, and five pieces a voter."""

Kind = Literal["agreed", "carried", "overruled", "nobody", "shut", "forced"]
"""What happened at a piece, by the first choices of the members that were asked. Those that are subtracted (a negative
weight) have no say here: that one finds a piece likely speaks against it.

- ``agreed``: it is the first choice of all that were asked.
- ``carried``: it is the first choice of some, the lead among them where the lead was asked.
- ``overruled``: it is the first choice of some, and not of the lead.
- ``nobody``: it is nobody's first choice: a compromise, what a subtracted member left, or what was drawn or
  constrained.
- ``shut``: the gate stayed shut, and the lead wrote it alone.
- ``forced``: nobody was asked, as a constraint left one piece.
"""

DISPUTED: tuple[Kind, ...] = ("carried", "overruled", "nobody")
MOST_CONTESTED = 5

Symbol = bytes | str | None
"""A piece, a mark by its name, or END as ``None``."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened at one piece."""

    kind: Kind
    piece: Symbol
    part: Part
    lead: str | None
    winners: tuple[str, ...]
    """The members that were asked and whose first choice it is; of bytes that were chosen one by one, each of them."""
    overruled: tuple[str, ...]
    """The members that were asked and whose first choice is another one. Subtracted ones are in neither."""
    masses: Mapping[str, float]
    """The probability that each member that was asked gives it."""
    choices: Mapping[str, tuple[Symbol, float]]
    """The first choice of each of them, and its probability."""
    contest: float
    """By how much the probabilities of two members differ, of this piece or of a first choice, at most: 0 to 1.
    Subtracted members count here: where they differ from the others, they matter."""
    drafted: bool | None = None
    """Whether it was drafted; ``False`` where another piece was, and ``None`` where none was."""
    drafter: str | None = None
    ensembled: bool = True
    """Whether all members were asked."""
    subtracted: tuple[str, ...] = ()
    """The members that were asked and have a negative weight."""


@dataclass(frozen=True, slots=True)
class MemberRecord:
    """What became of one member's first choices."""

    asked: int
    """Choices at which it was asked, END's too."""
    overruled: int
    """Those of them at which something else than its first choice was written; none where it is subtracted."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What happened in a whole text."""

    pieces: int
    """Marks counted, END not."""
    ensembled: int
    """Pieces at which all members were asked."""
    kinds: Mapping[Kind, int]
    """By kind, the choices, END's too; kinds that did not come are left out."""
    accepted: int
    """Pieces that were drafted."""
    members: Mapping[str, MemberRecord]
    contested: tuple[tuple[int, Outcome], ...]
    """The choices at which members differ most, the most contested first, with their places in the text from 0."""


def outcome_of(step: StepRecord) -> Outcome:
    """Tell what happened at a step, whose record is one of a trace: it has the members' most probable pieces."""
    piece: Symbol = step.mark or step.piece
    choices = {name: pieces[0] for name, pieces in step.top.items() if pieces}
    added = {name: choice for name, choice in choices.items() if name not in step.subtracted}
    # Bytes that were walked are held to first choices one by one: a piece of them is no cut of a member.
    winners = tuple(name for name in step.winners if name in added) if step.walked else _winners(step, piece, added)
    draft = step.draft
    return Outcome(
        kind=_kind(step, winners, added),
        piece=piece,
        part=step.part,
        lead=step.lead,
        winners=winners,
        overruled=tuple(name for name in added if name not in winners),
        masses=step.members,
        choices=choices,
        contest=_contest(step, {piece} if step.walked else {piece, *(choice for choice, _ in choices.values())}),
        drafted=None if draft is None else draft.accepted,
        drafter=None if draft is None else draft.drafter,
        ensembled=not step.unasked and not step.absent,
        subtracted=tuple(name for name in choices if name in step.subtracted),
    )


def summary_of(outcomes: Sequence[Outcome]) -> Summary:
    """Count what happened in a text, all of whose outcomes these are."""
    pieces = [outcome for outcome in outcomes if outcome.piece is not None]
    asked = Counter(name for outcome in outcomes for name in outcome.choices)
    overruled = Counter(name for outcome in outcomes for name in outcome.overruled)
    disputed = [(place, outcome) for place, outcome in enumerate(outcomes) if outcome.kind in DISPUTED]
    return Summary(
        pieces=len(pieces),
        ensembled=sum(outcome.ensembled for outcome in pieces),
        kinds=Counter(outcome.kind for outcome in outcomes),
        accepted=sum(outcome.drafted is True for outcome in outcomes),
        members={name: MemberRecord(count, overruled[name]) for name, count in asked.items()},
        contested=tuple(sorted(disputed, key=lambda each: -each[1].contest)[:MOST_CONTESTED]),
    )


def _winners(step: StepRecord, piece: Symbol, choices: Mapping[str, tuple[Symbol, float]]) -> tuple[str, ...]:
    """Of two pieces that are as likely, either is a first choice."""
    return tuple(name for name, (choice, p) in choices.items() if choice == piece or step.members.get(name, 0.0) >= p)


def _kind(step: StepRecord, winners: Collection[str], asked: Collection[str]) -> Kind:
    if not step.voted:
        return "forced"
    if step.gate is not None and not step.gate.asked:
        return "shut"
    if not winners:
        return "nobody"
    if len(winners) == len(asked):
        return "agreed"
    return "overruled" if step.lead in asked and step.lead not in winners else "carried"


def _contest(step: StepRecord, pieces: Collection[Symbol]) -> float:
    """See `Outcome.contest`. A piece that is not among a member's most probable ones has no probability here."""
    chosen: Symbol = step.mark or step.piece
    tops = {name: dict(pieces) for name, pieces in step.top.items()}
    widest = 0.0
    for piece in pieces:
        masses = [step.members.get(name, 0.0) if piece == chosen else top.get(piece, 0.0) for name, top in tops.items()]
        widest = max(widest, max(masses, default=0.0) - min(masses, default=0.0))
    return widest
