"""Whether an ensemble reasons before it answers, and how long at most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Self

from unisono.config.compact import Number, numbers_of, read_form, read_number
from unisono.errors import SpecError, shown

AUTO, OFF = "auto", "off"
_FORMS = f"write {AUTO}, {OFF}, or the pieces of reasoning at most: 256 or {{max_pieces: 256}}"
_WORDS = {AUTO: {}, "on": {}, OFF: {"off": True}}


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Whether an answer may begin with reasoning. It may by default, and members that reason decide."""

    off: bool = False
    """Whether answers are written without."""
    max_pieces: Annotated[int, Number(1, 1_000_000, "reasoning is ended after that many pieces", whole=True)] | None = (
        None
    )
    """Pieces of reasoning at most; ``None`` for as many as the members want. 0 stands for ``off``."""

    def __post_init__(self) -> None:
        if not isinstance(self.off, bool):
            raise SpecError(f"off is {shown(self.off)}", hint="write true or false")
        if self.max_pieces == 0 and not isinstance(self.max_pieces, bool):
            object.__setattr__(self, "off", True)
            object.__setattr__(self, "max_pieces", None)
        if self.max_pieces is not None:
            object.__setattr__(self, "max_pieces", _NUMBERS["max_pieces"].checked("max_pieces", self.max_pieces))
            if self.off:
                raise SpecError("reasoning is off, and max_pieces is given", hint="leave one of them out")

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read a `Reasoning`, ``"auto"``, ``"off"`` or ``False``, a number of pieces, or a mapping of the fields.

        Raises a `SpecError`.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, bool) or value is None:  # YAML reads off and no as False
            return cls(off=value is False)
        if isinstance(value, int):
            return cls(max_pieces=value)
        return cls(**read_form(cls, "reasoning", value, _read_words, hint=_FORMS))

    def __str__(self) -> str:
        if self.off:
            return OFF
        return AUTO if self.max_pieces is None else str(self.max_pieces)


_NUMBERS = numbers_of(Reasoning)


def _read_words(text: str) -> dict[str, Any]:
    if text in _WORDS:
        return dict(_WORDS[text])
    number = read_number(text.removeprefix("max_pieces:"))
    if isinstance(number, str):
        raise SpecError(f"reasoning is {shown(text)}", hint=_FORMS)
    return {"max_pieces": number}
