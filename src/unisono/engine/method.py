"""How an ensemble writes, apart from who its members are: the keys of a spec beside ``members``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Self

from unisono.errors import SpecError, nearest
from unisono.fusion.combine import COMBINE_RULES
from unisono.fusion.gate import Gate, known_keys

NGRAM = "ngram"
"""The drafter that looks up what followed the same pieces earlier in the text; it costs nothing."""
AUTO = "auto"
"""The drafter that is whichever has been fastest for this ensemble so far."""
OFF = "off"
ALWAYS = Gate()


@dataclass(frozen=True, slots=True)
class Speculation:
    """Who drafts pieces that the others then read in one block. What is written stays the same."""

    drafter: str
    """A member, ``ngram`` or ``auto``."""
    max_pieces: int = 6
    """Drafted pieces in a block at most; how many it is in truth follows what has been accepted."""

    def __post_init__(self) -> None:
        """Check it. Raises a `SpecError` that names the value."""
        if not isinstance(self.drafter, str) or not self.drafter:
            raise SpecError(f"the drafter is {self.drafter!r}", hint=f"name a member, {NGRAM} or {AUTO}")
        sound = isinstance(self.max_pieces, int) and not isinstance(self.max_pieces, bool)
        if not sound or not 1 <= self.max_pieces <= 64:
            raise SpecError(
                f"max_pieces is {self.max_pieces!r}: it must be a whole number from 1 to 64",
                hint="it counts the pieces of a draft at most",
            )

    @classmethod
    def parse(cls, value: object) -> Self | None:
        """Read what a spec, a flag or an argument gives.

        Args:
            value: a `Speculation`; a drafter's name, with ``:N`` for its ``max_pieces``; a mapping of
                the two; ``"off"`` or ``None`` for no speculation.

        Raises:
            SpecError: it is none of these.
        """
        if value is None or isinstance(value, cls):
            return value
        if isinstance(value, str):
            drafter, colon, number = value.partition(":")
            if value == OFF:
                return None
            if not colon:
                return cls(drafter)
            return cls(drafter, int(number) if number.isascii() and number.isdigit() else number)  # type: ignore[arg-type]
        if isinstance(value, Mapping):
            given = known_keys("speculate", value, [key.name for key in fields(cls)])
            if "drafter" not in given:
                raise SpecError("speculate lacks the key 'drafter'", hint=f"name a member, {NGRAM} or {AUTO}")
            return cls(**given)
        raise SpecError(f"speculate is {value!r}", hint="write it as smol, smol:6 or {drafter: smol, max_pieces: 6}")

    def __str__(self) -> str:
        """As it is written on the command line."""
        return f"{self.drafter}:{self.max_pieces}"


@dataclass(frozen=True, slots=True)
class Method:
    """How an ensemble writes. The default is the paper's: ask everybody at every step, take the mean."""

    lead: str | None = None
    """The member whose distribution the gate looks at; ``None`` for the first that votes."""
    combine: str = "mean"
    """How the members' distributions become one; one of `COMBINE_RULES`."""
    gate: Gate = field(default_factory=Gate)
    """When the others are asked."""
    speculate: Speculation | None = None
    """Who drafts; ``None`` for nobody."""

    def but(
        self,
        *,
        lead: str | None = None,
        gate: object = None,
        boundary: bool | None = None,
        speculate: object = None,
        max_pieces: int | None = None,
    ) -> Method:
        """This method with some keys replaced; ``None`` leaves a key as it is, ``speculate="off"`` ends it.

        Raises:
            SpecError: a value is wrong, or ``max_pieces`` is given though nobody drafts.
        """
        new_gate = self.gate if gate is None else Gate.parse(gate)
        if boundary is not None:
            new_gate = replace(new_gate, boundary=boundary)
        speculation = self.speculate if speculate is None else Speculation.parse(speculate)
        if max_pieces is not None:
            if speculation is None:
                raise SpecError("max_pieces is given, but nobody drafts", hint="name a drafter: speculate")
            speculation = replace(speculation, max_pieces=max_pieces)
        return replace(self, lead=self.lead if lead is None else lead, gate=new_gate, speculate=speculation)

    def check(self, members: Sequence[str]) -> None:
        """Hold the method against the members that vote.

        Raises:
            SpecError: the lead or the drafter is none of them, or a gate or drafter has nobody to spare.
        """
        known = ", ".join(members)
        if self.lead is not None and self.lead not in members:
            raise SpecError(
                f"the lead {self.lead!r} is no member that votes{nearest(str(self.lead), members)}",
                hint=f"members that vote: {known}",
            )
        if self.combine not in COMBINE_RULES:
            raise SpecError(
                f"unknown rule {self.combine!r}{nearest(self.combine, COMBINE_RULES)}; "
                f"known: {', '.join(COMBINE_RULES)}"
            )
        if self.gate != ALWAYS and len(members) == 1:
            raise SpecError(
                f"the gate {str(self.gate)!r} has no other member to ask: {known} votes alone",
                hint="leave the gate out, or add a member with a positive weight",
            )
        if self.speculate is not None:
            self._check_drafter(self.speculate.drafter, members, known)

    def _check_drafter(self, drafter: str, members: Sequence[str], known: str) -> None:
        if drafter in (NGRAM, AUTO):
            if drafter in members:
                raise SpecError(
                    f"the drafter {drafter!r} could be the member of that name, or {drafter!r} itself",
                    hint="give that member another name",
                )
            return
        if drafter not in members:
            raise SpecError(
                f"the drafter {drafter!r} is no member that votes{nearest(drafter, (*members, NGRAM, AUTO))}",
                hint=f"name one of {known}, or {NGRAM}, or {AUTO}",
            )
        if len(members) == 1:
            raise SpecError(
                f"{drafter!r} votes alone: drafts of its own would be verified by nobody",
                hint=f"leave speculate out, let {NGRAM} draft, or add a member",
            )
