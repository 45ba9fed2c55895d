"""The compact grammar of options, for all one-line forms: words, keys, numbers and their bounds."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from numbers import Integral, Real
from typing import Any, TypeVar, cast, get_args, get_type_hints

from unisono.errors import SpecError, nearest, shown

T = TypeVar("T")
DECIMAL = re.compile(r"-?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
LONGEST = 100
"""Characters of a number; what is longer is no number that anybody means."""


@dataclass(frozen=True, slots=True)
class Number:
    """The bounds of an option that is a number: the metadata of its field, as in ``Annotated[float, Number(…)]``."""

    low: float
    high: float
    meaning: str
    """What it does, for the hint of an error."""
    whole: bool = False
    above: bool = False
    """Whether ``low`` itself is refused."""
    zero: bool = False
    """Whether 0 is allowed below ``low``."""
    words: str = ""
    """The bounds in words where the usual ones do not serve."""
    drawing: bool = False
    """Whether the option acts only where pieces are drawn."""
    off: tuple[int, ...] = ()
    """Further values that stand for leaving the option out, as other tools write it."""
    readers: tuple[str, tuple[str, ...]] | None = None
    """The field beside it, and the values of that field, with which the option has a meaning; ``None`` for all."""

    def allows(self, value: object) -> bool:
        """Whether a value is a number within the bounds; a truth value is none."""
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            return False
        number: Any = value  # which numpy's numbers may be, too
        if (self.zero and number == 0) or number in self.off:
            return True
        return bool(self.low <= number <= self.high) and not (self.above and number == self.low)

    @property
    def limits(self) -> str:
        if self.words:
            return self.words
        if self.whole:
            return f"a whole number from {self.low} to {self.high:,}"
        if self.above:
            return f"a number above {self.low}, {self.high} at most"
        return "0, or " * self.zero + f"a number from {self.low} to {self.high}"

    def checked(self, subject: str, value: Any, write: str = "") -> int | float:
        """The value as a number of Python's own.

        Errors call the option ``subject``; ``write`` is how a hint writes a number that came as text, where the number
        alone does not serve. Raises a `SpecError` where it is no number, or out of bounds.
        """
        if self.allows(value):
            return int(value) if isinstance(value, Integral) else float(value)
        plain = plain_number(value)
        way_out = f"write {write.format(plain) or plain}; " if plain and self.allows(read_number(plain)) else ""
        raise SpecError(f"{subject} is {shown(value)}: it must be {self.limits}", hint=way_out + self.meaning)


def numbers_of(record: type) -> dict[str, Number]:
    """The bounds that the fields of a record declare, by the fields' names."""
    hints = get_type_hints(record, include_extras=True)
    found = {name: [part for part in _metadata(hint) if isinstance(part, Number)] for name, hint in hints.items()}
    return {name: numbers[0] for name, numbers in found.items() if numbers}


def _metadata(hint: object) -> list[object]:
    return [*getattr(hint, "__metadata__", ()), *(part for arg in get_args(hint) for part in _metadata(arg))]


def read_form(
    record: type, what: str, value: object, read_text: Callable[[str], dict[str, Any]], *, hint: str, slip: str = ""
) -> dict[str, Any]:
    """The keyword arguments of a record that is given as text, for ``read_text``, or as a mapping of its fields.

    Errors call it ``what`` and tell by ``hint`` how it is written; ``slip`` is the hint for an unknown key, where it is
    another.

    Raises:
        SpecError: the value is neither text nor a mapping, or has a key that is no field.
    """
    if isinstance(value, str):
        return read_text(value)
    if isinstance(value, Mapping):
        return known_keys(what, value, [key.name for key in fields(record)], hint=slip or hint)
    raise SpecError(f"{what} is {shown(value)}", hint=hint)


def read_named(text: str, name: str, number: str) -> dict[str, Any]:
    """Read ``NAME`` or ``NAME:NUMBER``: the arguments ``name`` and ``number``, the fields of the two."""
    word, colon, digits = text.partition(":")
    return {name: word, number: read_number(digits)} if colon and number else {name: text}


def changed(record: object, names: Sequence[str]) -> list[str]:
    """The words ``KEY:VALUE`` of those fields of a record that are not at their default."""
    defaults = {key.name: key.default for key in fields(cast(Any, record))}
    values = {name: getattr(record, name) for name in names}
    return [f"{name}:{value}" for name, value in values.items() if value != defaults[name]]


def split_words(text: str) -> list[str]:
    """The words of a one-line form, with blanks or commas between them; a blank text is one empty word."""
    return re.split(r"[\s,]+", text.strip())


def known_keys(what: str, given: Mapping[Any, Any], known: Sequence[str], *, hint: str | None = None) -> dict[str, Any]:
    """Return the mapping when all its keys are known. Raises a `SpecError` that suggests the nearest."""
    for key in given:
        if key not in known:
            name = key if isinstance(key, str) else shown(key)
            raise SpecError(
                f"unknown key {shown(name)} in {what}{nearest(name, known)}; known: {', '.join(known)}", hint=hint
            )
    return dict(given)


def renamed(given: Mapping[str, T], new: str, old: str, shown_as: str = "{}") -> dict[str, T]:
    """The mapping with what stands under an old name under the new one. Raises a `SpecError` where both stand."""
    if old in given and new in given:
        names = f"{shown_as.format(new)} and {old}, its old name, are both given"
        raise SpecError(names, hint=f"leave {old} out")
    return {new if key == old else key: value for key, value in given.items()}


def read_number(text: str) -> int | float | str:
    """Read ASCII decimal digits, with a point and an exponent or without; anything else comes back as it is."""
    if len(text) > LONGEST or not DECIMAL.fullmatch(text):
        return text
    return int(text) if text.removeprefix("-").isdigit() else float(text)


def plain_number(value: object) -> str | None:
    """How a number that came as text is written so that YAML takes it for one; ``None`` where it is none."""
    text = value.strip() if isinstance(value, str) else ""
    if isinstance(read_number(text), str):
        return None
    plain = f"{Decimal(text):f}" if abs(Decimal(text).adjusted()) <= LONGEST else text
    return plain if len(plain) <= LONGEST else None
