"""What members vote on: pieces of their union, or bytes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Self

from unisono.config.compact import Number, changed, known_keys, numbers_of, read_form, read_number, split_words
from unisono.errors import SpecError, nearest, shown

UNION, BYTES = "union", "bytes"
_KINDS = (UNION, BYTES)
_FORMS = "write it as union, bytes, bytes beam:8 or {kind: bytes, beam: 8}"


@dataclass(frozen=True, slots=True)
class SharedVocabulary:
    """What members vote on. The default is their union (docs/adr/0028 has bytes)."""

    kind: str = UNION
    beam: Annotated[
        int,
        Number(
            1,
            256,
            "it counts the ways of cutting a text that each member follows at most",
            whole=True,
        ),
    ] = 5
    """For ``bytes``; each takes a slot of the member's model."""
    least: Annotated[
        float,
        Number(0, 0.5, "a way of cutting the text that has less of a member's mass is dropped; 0 drops none"),
    ] = 0.01
    """For ``bytes``."""

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in _KINDS:
            near = nearest(self.kind, _KINDS) if isinstance(self.kind, str) else ""
            raise SpecError(f"unknown vocabulary {shown(self.kind)}{near}; known: {', '.join(_KINDS)}", hint=_FORMS)
        for key, number in _NUMBERS.items():
            value = number.checked(key, getattr(self, key))
            if not self.is_bytes and value != _DEFAULTS[key]:
                raise SpecError(
                    f"the vocabulary {self.kind!r} has no {key}, but {key} is {shown(value)}",
                    hint=f"leave {key} out, or write vocabulary: {BYTES}",
                )
            object.__setattr__(self, key, value)

    @property
    def is_bytes(self) -> bool:
        return self.kind == BYTES

    @property
    def slots(self) -> int:
        """How many slots of each model a text takes."""
        return self.beam if self.is_bytes else 1

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read a `SharedVocabulary`, ``"bytes beam:8"`` (keys with blanks or commas between them), or a mapping of the
        fields.

        Raises:
            SpecError: it is none of these.
        """
        if isinstance(value, cls):
            return value
        return cls(**read_form(cls, "vocabulary", value, _read_words, hint=_FORMS))

    def __str__(self) -> str:
        return " ".join([self.kind, *changed(self, [*_NUMBERS])])


_NUMBERS = numbers_of(SharedVocabulary)
_DEFAULTS = {key.name: key.default for key in fields(SharedVocabulary)}


def _read_words(text: str) -> dict[str, Any]:
    """Read ``"bytes beam:8"``."""
    kind, *words = split_words(text)
    if ":" in kind:
        raise SpecError(f"vocabulary is {shown(text)}", hint=_FORMS)
    given = dict(word.partition(":")[::2] for word in words)
    if len(given) < len(words):
        raise SpecError(f"vocabulary is {shown(text)}: a key is given twice", hint=_FORMS)
    known_keys("vocabulary", given, [*_NUMBERS], hint=_FORMS)
    return {"kind": kind, **{key: read_number(word) for key, word in given.items()}}
