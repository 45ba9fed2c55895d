"""How an ensemble writes, apart from who its members are: the keys of a spec beside ``members``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, Unpack
from urllib.parse import quote_from_bytes

from unisono.config.combine import Combine
from unisono.config.compact import renamed
from unisono.config.gate import Gate
from unisono.config.reasoning import Reasoning
from unisono.config.sampling import MIXTURE, OLD_MIXTURE, TRUNCATED, Sampling
from unisono.config.sampling_options import SamplingOptions
from unisono.config.speculation import AUTO, NGRAM, OFF, Speculation, refuse_namesake
from unisono.config.vocabulary import SharedVocabulary
from unisono.errors import SpecError, deprecated, nearest, shown

PIECEWISE = "piecewise"
"""All that `spelling` may still be: members read each piece as it was chosen."""
ALWAYS = Gate()


class MethodOptions(SamplingOptions, total=False):
    """Keywords of `Method.but`, `Ensemble.generate`, `Ensemble.stream` and `Request` that replace keys of the method.

    ``None``, or an absent keyword, leaves a key as it is.
    """

    lead: str | None
    """The member that leads."""
    combine: Combine | str | Mapping[str, Any] | None
    """How distributions are combined, as `Combine.parse` reads it: ``"geometric"`` …"""
    gate: Gate | str | Mapping[str, Any] | None
    """When the others are asked, as `Gate.parse` reads it: ``"always"``, ``"confidence:0.5"`` …"""
    boundary: bool | None
    """Whether the gate stays shut inside another member's token."""
    speculate: Speculation | str | Mapping[str, Any] | Literal[False] | None
    """Who drafts, as `Speculation.parse` reads it; ``"off"`` or ``False`` for no drafts."""
    max_pieces: int | None
    """The most drafted pieces of a block."""
    reasoning: Reasoning | str | int | Mapping[str, Any] | None
    """Whether answers may begin with reasoning, as `Reasoning.parse` reads it: ``"auto"``, ``"off"``, ``256`` …"""
    sampling: Sampling | str | float | Mapping[str, Any] | None
    """How a piece is chosen, as `Sampling.parse` reads it: ``"greedy"``, ``0.7``, ``"mixture"`` …; ``temperature`` and
    the like then replace options of it."""
    draw: Sampling | str | float | Mapping[str, Any] | None
    """The old name of ``sampling``."""
    spelling: str | None
    vocabulary: SharedVocabulary | str | Mapping[str, Any] | None
    """What members vote on, as `SharedVocabulary.parse` reads it: ``"union"``, ``"bytes"``, ``"bytes beam:8"`` …"""


OPTION_NAMES = (*MethodOptions.__annotations__,)
OLD_OPTIONS = ("draw", "spelling")
"""Those that are still taken, and that errors do not offer."""


def check_options(given: Iterable[str], known: Sequence[str] = OPTION_NAMES) -> None:
    """Raise a `SpecError` for a keyword that is none of the known ones."""
    if unknown := next((name for name in given if name not in known), None):
        offered = [name for name in known if name not in OLD_OPTIONS]
        raise SpecError(
            f"unknown option {shown(unknown)}{nearest(unknown, known)}; known: {', '.join(offered)}",
            hint="leave it out",
        )


@dataclass(frozen=True, slots=True)
class Method:
    """How an ensemble writes. The default is the paper's method: all members vote at every step, and the most likely
    piece of the mean is chosen (GaC, arXiv 2406.12585).

    Each field also accepts what the ``parse`` of its class reads.

    Raises:
        SpecError: a value is wrong, or contradicts another one.
    """

    lead: str | None = None
    """The member that the gate looks at; ``None`` for the first member with a positive weight."""
    combine: Combine = field(default_factory=Combine)
    gate: Gate = field(default_factory=Gate)
    speculate: Speculation | None = None
    sampling: Sampling = field(default_factory=Sampling)
    reasoning: Reasoning = field(default_factory=Reasoning)
    vocabulary: SharedVocabulary = field(default_factory=SharedVocabulary)

    def __post_init__(self) -> None:
        if self.lead is not None and not isinstance(self.lead, str):
            raise SpecError(f"the lead is {shown(self.lead)}", hint="name a member that votes")
        for key, reader in _READERS.items():
            object.__setattr__(self, key, reader.parse(getattr(self, key)))  # type: ignore[attr-defined]
        self._check_keys()

    def _check_keys(self) -> None:
        sampling, combine = self.sampling, self.combine
        if sampling.mixture and combine != Combine():
            raise SpecError(
                f"{sampling.written} draws from the weighted mean of all members, but combine is {str(combine)!r}",
                hint="leave combine out, or draw from all members: any temperature does",
            )
        if sampling.beam_width > 1 and self.speculate is not None:
            raise SpecError(
                f"beam_width is {sampling.beam_width}, but {self.speculate.drafter} drafts: a draft continues one "
                "text, and a beam follows several",
                hint=f"leave speculate out (speculate: {OFF}), or the beam",
            )

    def but(self, **options: Unpack[MethodOptions]) -> Method:
        """This method with some options replaced; ``None`` leaves an option as it is, ``speculate="off"`` ends drafts.

        Raises:
            SpecError: an option is unknown, a value is wrong or contradicts another one, or ``max_pieces`` is given
                without a drafter.
        """
        given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        check_options(given)
        check_spelling(given.get("spelling"))
        gate = Gate.parse(given.get("gate", self.gate))
        if "boundary" in given:
            gate = replace(gate, boundary=given["boundary"])
        speculation = Speculation.parse(given.get("speculate", self.speculate))
        if "max_pieces" in given:
            if speculation is None:
                raise SpecError(
                    "max_pieces is given, but nobody drafts", hint=f"name a drafter: a member, {NGRAM} or {AUTO}"
                )
            speculation = replace(speculation, max_pieces=given["max_pieces"])
        key = "draw" if "draw" in given else "sampling"
        sampling = Sampling.parse(renamed(given, "sampling", "draw").get("sampling", self.sampling), key)
        return Method(
            given.get("lead", self.lead),
            Combine.parse(given.get("combine", self.combine)),
            gate,
            speculation,
            sampling.but({name: given[name] for name in SamplingOptions.__annotations__ if name in given}),
            Reasoning.parse(given.get("reasoning", self.reasoning)),
            SharedVocabulary.parse(given.get("vocabulary", self.vocabulary)),
        )

    @property
    def slots(self) -> int:
        """How many slots of each model a text takes."""
        return self.sampling.beam_width * self.vocabulary.slots

    @property
    def draw(self) -> Sampling:
        """The old name of `sampling`."""
        return self.sampling

    def lead_among(self, weights: Mapping[str, float]) -> str:
        """The member that leads: the named one, or else the first with a positive weight."""
        return self.lead or next(name for name, weight in weights.items() if weight > 0)

    def to_json(self) -> dict[str, object]:
        """The record with plain types only; texts of a bias are percent-encoded."""
        draw = {
            OLD_MIXTURE if key.name == MIXTURE else key.name: getattr(self.sampling, key.name)
            for key in fields(self.sampling)
        }
        for name in ("bias", "member_bias"):
            draw[name] = {quote_from_bytes(text, safe=""): more for text, more in draw[name].items()}
        if not draw[TRUNCATED]:
            del draw[TRUNCATED]  # which earlier run folders do not have
        draw["logit_bias"] = {str(column): more for column, more in self.sampling.logit_bias.items()}
        return {
            "lead": self.lead,
            "combine": asdict(self.combine),
            "gate": asdict(self.gate),
            "speculate": None if self.speculate is None else asdict(self.speculate),
            "draw": draw,
            "reasoning": asdict(self.reasoning),
            "spelling": PIECEWISE,  # which readers of run folders know
            **({"vocabulary": asdict(self.vocabulary)} if self.vocabulary.is_bytes else {}),
        }

    def check(self, weights: Mapping[str, float]) -> None:
        """Hold the method against the members that vote, given by their weights, which may be negative.

        Raises:
            SpecError: the lead or the drafter is none of them, a gate or drafter has nobody to spare, or the rule
                does not fit.
        """
        members, known = list(weights), ", ".join(weights)
        self.combine.check(weights)
        if self.lead is not None and self.lead not in members:
            raise SpecError(
                f"the lead {shown(self.lead)} is not a member that votes{nearest(self.lead, members)}",
                hint=f"members that vote: {known}",
            )
        if self.lead is not None and weights[self.lead] < 0:
            experts = ", ".join(name for name, weight in weights.items() if weight > 0)
            raise SpecError(
                f"the lead {shown(self.lead)} has a negative weight: what it finds likely is not to be written",
                hint=f"choose another lead: {experts}",
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
            refuse_namesake(drafter, members)
            return
        if drafter not in members:
            raise SpecError(
                f"the drafter {shown(drafter)} is not a member that votes"
                f"{nearest(drafter, (*members, NGRAM, AUTO, OFF))}",
                hint=f"name one of {known}, or {NGRAM}, {AUTO}, or {OFF} for nobody",
            )
        if len(members) == 1:
            raise SpecError(
                f"{drafter!r} votes alone: drafts of its own would be verified by nobody",
                hint=f"let {NGRAM} draft, or nobody, or add a member",
            )


_READERS = {
    "combine": Combine,
    "gate": Gate,
    "speculate": Speculation,
    "sampling": Sampling,
    "reasoning": Reasoning,
    "vocabulary": SharedVocabulary,
}


def check_spelling(spelling: object) -> None:
    """Accept the one value that the key `spelling` still has (docs/adr/0008), with a warning. Raises a `SpecError`."""
    if spelling is None:
        return
    if spelling != PIECEWISE:
        raise SpecError(
            f"spelling is {shown(spelling)}, but members only read each piece as it was chosen ({PIECEWISE})",
            hint="leave spelling out: canonical was measured, improved nothing, and was removed (docs/adr/0008)",
        )
    deprecated(f"spelling: {PIECEWISE} is what always happens; leave it out")
