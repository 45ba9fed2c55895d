"""How an ensemble writes, in one string: ``"gate=confidence:0.5 lead=smol"``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from unisono.config.compact import read_number, renamed
from unisono.config.method import OLD_OPTIONS, MethodOptions
from unisono.errors import SpecError, deprecated, nearest, shown

KEYS = (
    "lead",
    "combine",
    "gate",
    "boundary",
    "speculate",
    "max_pieces",
    "sampling",
    "reasoning",
    "spelling",
    "vocabulary",
)


def parse_setting(text: str, others: Sequence[str] = ()) -> MethodOptions:
    """Read ``"gate=confidence:0.5 sampling=0.7,top_p:0.9"``; an empty string changes nothing.

    Whether the values make sense together, and for the members, is for `Method.but` and `Method.check`. ``others`` are
    keys that the caller has read itself. Raises a `SpecError` for a word that is no ``KEY=VALUE``, an unknown key, one
    given twice, or a value of the wrong form.
    """
    keys: dict[str, Any] = {}
    known = (*(key for key in KEYS if key not in OLD_OPTIONS), *others)
    for word in text.split():
        key, equals, value = word.partition("=")
        if not equals or not value:
            raise SpecError(
                f"the setting {shown(word)} is not KEY=VALUE",
                hint=f"write it as in gate=confidence:0.5; the keys are {', '.join(known)}",
            )
        if key == "draw":
            deprecated("the setting draw is now called sampling")
        elif key not in KEYS:
            raise SpecError(f"unknown setting {shown(key)}{nearest(key, known)}; known: {', '.join(known)}")
        if key in keys:
            raise SpecError(f"the setting {key!r} is given twice in {shown(text)}", hint="give it once")
        keys[key] = _read(key, value)
    return cast(MethodOptions, renamed(keys, "sampling", "draw"))


def _read(key: str, value: str) -> str | bool | int:
    """The value of a key: a switch, a count, or text that the option's own ``parse`` reads."""
    if key == "boundary" and value not in ("true", "false"):
        raise SpecError(f"the setting {key} is {shown(value)}", hint=f"write {key}=true or {key}=false")
    if key == "boundary":
        return value == "true"
    if key != "max_pieces":
        return value
    number = read_number(value)
    if not isinstance(number, int):
        raise SpecError(
            f"the setting {key} is {shown(value)}: it must be a whole number", hint=f"write it as in {key}=4"
        )
    return number
