"""What needs the columns of a union, and so is refused where members vote on bytes (docs/adr/0028)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from unisono.config.method import Method
from unisono.config.sampling import MEMBER, SHAPING, TRUNCATED
from unisono.config.vocabulary import BYTES
from unisono.errors import SpecError

GROWING = ("mean", "geometric", "max", "minimum")
"""The rules whose result grows with the mass that each member gives, so that what all find likeliest is chosen."""
_OF_MEMBERS = ("member_temperature", "member_top_k", "member_top_p", "member_min_p", "member_typical_p")


class Want(NamedTuple):
    """A feature of a method that bytes cannot have."""

    words: Callable[[Method], str]
    """What the method says; nothing where it does not want it."""
    reason: str
    way: str


def _reshaping(method: Method) -> str:
    """Options that reshape what a piece is drawn from, and those of members that count columns."""
    names = [
        *(name for name in SHAPING if name != "temperature"),
        *(MEMBER + name for name in SHAPING if name != "logit_bias"),
    ]
    return ", ".join(name for name in names if name not in _OF_MEMBERS and method.sampling.changes(name))


def _temperature(method: Method) -> str:
    temperature = method.sampling.temperature
    return "" if temperature in (0, 1) else f"temperature {temperature:g}"


WANTS = (
    Want(
        lambda method: f"the gate {str(method.gate)!r}" if method.gate.is_certain else "",
        "whether all next cuts agree is known when all have been asked",
        "leave the gate out, or choose one that reads the lead, such as confidence:0.5",
    ),
    Want(
        lambda method: "" if method.speculate is None else f"speculate {method.speculate}",
        "drafts are pieces of a union",
        "leave speculate out",
    ),
    Want(
        lambda method: f"beam_width {method.sampling.beam_width}" if method.sampling.beam_width > 1 else "",
        "a beam compares texts by their pieces",
        "leave it out: bytes are taken greedily, or drawn",
    ),
    Want(
        lambda method: method.sampling.written if method.sampling.mixture else "",
        "it draws one member for each piece, and a byte is none",
        "write sampling: 1, which draws from all",
    ),
    Want(
        lambda method: TRUNCATED if method.sampling.truncated_sampling else "",
        "it guesses what truncated members do not tell, and the mass of a byte is the sum of all that they could tell",
        "leave it out",
    ),
    Want(
        _temperature,
        "a temperature of bytes is none of texts",
        "write temperature: 1 and member_temperature, which reshapes each member's own tokens",
    ),
    Want(
        _reshaping, "it counts or cuts pieces of a union", "leave it out; member_top_p and the like cut each member's"
    ),
    Want(
        lambda method: "" if method.combine.rule in GROWING else f"the rule {method.combine.rule!r}",
        "what all members find likeliest may not be likeliest by it",
        f"choose {', '.join(GROWING)}",
    ),
    Want(
        lambda method: "" if method.combine.truncate is None else f"truncate {method.combine.truncate}",
        "it ranks pieces of a union",
        "leave it out",
    ),
    Want(
        lambda method: "" if method.combine.sharpen is None else f"sharpen {method.combine.sharpen:g}",
        "it mends by pieces what bytes sum up exactly",
        "leave it out",
    ),
    Want(
        lambda method: (
            "" if method.combine.weights in ("fixed", "perplexity") else f"the weights {method.combine.weights!r}"
        ),
        "they measure distributions over pieces",
        "leave weights out, which fixes them",
    ),
    Want(
        lambda method: "" if method.reasoning.max_pieces is None else f"reasoning {method.reasoning}",
        "it is ended by a grammar over pieces",
        "write reasoning: off, or leave it out",
    ),
)


def check_bytes(method: Method) -> None:
    """Raise a `SpecError` where a method of bytes wants what needs a union."""
    for want in WANTS if method.vocabulary.is_bytes else ():
        if words := want.words(method):
            raise refusal(words, want.reason, want.way)


def refusal(words: str, reason: str, way: str) -> SpecError:
    """What a feature is refused with; ``words`` name it."""
    return SpecError(
        f"{words} does not go with vocabulary: {BYTES}: {reason}", hint=f"{way}, or write vocabulary: union"
    )
