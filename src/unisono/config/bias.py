"""The options that bias texts and columns: what they may hold."""

from __future__ import annotations

from collections.abc import Mapping

from unisono.config.compact import Number
from unisono.errors import SpecError, shown

LONGEST_BIAS = 256
_BIAS = Number(-100, 100, "it is added to a log-mass: -100 as good as bans it, 100 as good as forces it")


def checked_bias(name: str, bias: object) -> dict[bytes, float]:
    if not isinstance(bias, Mapping):
        raise SpecError(f"{name} is {shown(bias)}", hint="write it as {TEXT: NUMBER, …}")
    checked: dict[bytes, float] = {}
    for key, number in bias.items():
        if not isinstance(key, (str, bytes)) or not key:
            raise SpecError(f"{name} is given for {shown(key)}", hint="give it for text or bytes that are not empty")
        text = key.encode(errors="surrogatepass") if isinstance(key, str) else key
        if len(text) > LONGEST_BIAS:
            raise SpecError(
                f"{name} is given for a text of {len(text)} bytes", hint=f"texts may have {LONGEST_BIAS} bytes at most"
            )
        if text in checked:
            raise SpecError(f"{name} is given twice for {key!r}", hint="as text and as bytes it is the same: leave one")
        checked[text] = _BIAS.checked(f"the {name} of {key!r}", number)
    return checked


def checked_logit_bias(bias: object) -> dict[int, float]:
    if not isinstance(bias, Mapping):
        raise SpecError(f"logit_bias is {shown(bias)}", hint="write it as {COLUMN: NUMBER, …}")
    for column in bias:
        if not isinstance(column, int) or isinstance(column, bool) or column < 0:
            raise SpecError(
                f"logit_bias is given for {shown(column)}, which is not a column of a union",
                hint="columns are whole numbers from 0 on; for texts use bias",
            )
    return {column: _BIAS.checked(f"the logit_bias of {column!r}", number) for column, number in bias.items()}
