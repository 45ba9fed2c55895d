"""The key `speculate`: who drafts pieces that the others verify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

from unisono.config.compact import Number, numbers_of, read_form, read_named
from unisono.errors import SpecError, shown

NGRAM = "ngram"
"""The drafter that looks up what followed the same pieces earlier in the text; it costs nothing."""
AUTO = "auto"
"""The drafter that is whichever promises most by what was measured so far."""
OFF = "off"
MOST_PIECES = 64


_FORMS = "write it as smol, smol:6 or {drafter: smol, max_pieces: 6}"


@dataclass(frozen=True, slots=True)
class Speculation:
    """Who drafts pieces that the others then verify in one block. The text stays the same, up to rounding."""

    drafter: str
    """A member, ``ngram`` or ``auto``."""
    max_pieces: Annotated[int, Number(1, MOST_PIECES, "it counts the pieces of a draft at most", whole=True)] = 6
    """The most drafted pieces of a block, 1 to 64. The actual number follows the acceptance rate and the cost of
    passes."""

    def __post_init__(self) -> None:
        if _is_off(self.drafter):
            raise SpecError(
                "the drafter is off",
                hint=f"write speculate: {OFF} for nobody, or name a member, {NGRAM} or {AUTO}",
            )
        if not isinstance(self.drafter, str) or not self.drafter:
            raise SpecError(f"the drafter is {shown(self.drafter)}", hint=f"name a member, {NGRAM} or {AUTO}")
        for key, number in _SPECULATION.items():
            object.__setattr__(self, key, number.checked(key, getattr(self, key)))

    @classmethod
    def parse(cls, value: object) -> Self | None:
        """Read a `Speculation`, ``"DRAFTER"``, ``"DRAFTER:MAX_PIECES"``, or a mapping of the fields. ``"off"``,
        ``False`` and ``None`` mean no speculation.

        Raises:
            SpecError: it is none of these.
        """
        if value is None or _is_off(value):
            return None
        if isinstance(value, cls):
            return value
        given = read_form(cls, "speculate", value, _read_words, hint=f"{_FORMS}; {OFF} for nobody")
        if "drafter" not in given:
            raise SpecError("speculate lacks the key 'drafter'", hint=f"name a member, {NGRAM} or {AUTO}")
        return cls(**given)

    def __str__(self) -> str:
        return f"{self.drafter}:{self.max_pieces}"


_SPECULATION = numbers_of(Speculation)


def _read_words(text: str) -> dict[str, Any]:
    return read_named(text, "drafter", "max_pieces")


def check_off(speculate: object, members: Sequence[str]) -> None:
    """Refuse ``off`` where a member bears that name. Raises a `SpecError`."""
    if _is_off(speculate):
        refuse_namesake(OFF, members)


def _is_off(value: object) -> bool:
    return value is False or (isinstance(value, str) and value == OFF)  # YAML reads off and no as False


def refuse_namesake(drafter: str, members: Sequence[str]) -> None:
    if drafter in members:
        raise SpecError(
            f"the drafter {drafter!r} could be the member of that name, or {drafter!r} itself",
            hint="give that member another name",
        )
