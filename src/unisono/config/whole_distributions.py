"""What needs whole distributions, and so is refused where a member tells its likeliest ids only (docs/adr/0016)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from unisono.config.method import Method
from unisono.config.sampling import MEMBER, SHAPING
from unisono.errors import SpecError


class Need(NamedTuple):
    """A feature of a method that truncated members cannot serve."""

    words: Callable[[Method], str]
    """What the method says; nothing where it does not want it."""
    reason: str
    way: str
    """The nearest option that is sound."""
    of_lead: bool = False
    """Whether the others may tell their likeliest ids only."""


def _reshaping_members(method: Method) -> str:
    names = [MEMBER + name for name in SHAPING if name != "logit_bias"]
    return ", ".join(name for name in names if method.sampling.changes(name))


_GREEDY = "leave it out: the likeliest piece is taken; or say truncated_sampling: true, which guesses what is not told"


def _drawn(method: Method) -> str:
    sampling = method.sampling
    if sampling.is_greedy or sampling.truncated_sampling:
        return ""
    return sampling.written if sampling.mixture else f"temperature {sampling.temperature:g}"


NEEDS = (
    Need(
        lambda method: f"vocabulary: {method.vocabulary}" if method.vocabulary.is_bytes else "",
        "the mass of a byte is the sum of all pieces that begin with it",
        "write vocabulary: union",
    ),
    Need(_drawn, "a piece is drawn of all", _GREEDY),
    Need(
        lambda method: f"beam_width {method.sampling.beam_width}" if method.sampling.beam_width > 1 else "",
        "a beam compares the probabilities of whole texts",
        "leave it out: the likeliest piece is taken",
    ),
    Need(
        lambda method: "repetition_penalty" if method.sampling.changes("repetition_penalty") else "",
        "it is a power of masses that are not known",
        "choose presence_penalty or frequency_penalty",
    ),
    Need(_reshaping_members, "it reshapes all of a member's masses", "leave it out"),
    Need(
        lambda method: f"the gate {str(method.gate)!r}" if method.gate.kind == "entropy" else "",
        "the entropy of what is not told is not known",
        "choose confidence or margin",
        of_lead=True,
    ),
    Need(
        lambda method: "the rule 'contrastive'" if method.combine.rule == "contrastive" else "",
        "what an amateur does not tell decides",
        "choose mean, geometric or max",
    ),
    Need(
        lambda method: f"the rule {method.combine.rule!r}" if method.combine.rule in ("minimum", "logits") else "",
        "what a member does not tell can decide",
        "choose mean, geometric or max",
    ),
    Need(
        lambda method: "" if method.combine.truncate is None else f"truncate {method.combine.truncate}",
        "it ranks all pieces",
        "leave it out",
    ),
    Need(
        lambda method: "" if method.combine.sharpen is None else f"sharpen {method.combine.sharpen:g}",
        "it adds up the masses of all continuations",
        "leave it out",
    ),
    Need(
        lambda method: "" if method.combine.weights == "fixed" else f"the weights {method.combine.weights!r}",
        "they follow from all masses",
        "leave weights out, which fixes them",
    ),
)


def check_request(truncated: Sequence[str], *, scores: bool, logprobs: int) -> None:
    """Raise a `SpecError` where a request wants probabilities of pieces that may not be told."""
    if truncated and (scores or logprobs):
        words = "scoring" if scores else "logprobs"
        raise refusal(words, truncated, "pieces that are not told have no probability", "leave it out")


def check_method(method: Method, truncated: Sequence[str], lead: str) -> None:
    """Raise a `SpecError` where a method needs whole distributions, and the members named here give none."""
    for need in NEEDS if truncated else ():
        concerned = [name for name in truncated if name == lead] if need.of_lead else truncated
        if concerned and (words := need.words(method)):
            raise refusal(words, concerned, need.reason, need.way)


def refusal(words: str, truncated: Sequence[str], reason: str, way: str) -> SpecError:
    """What a feature is refused with; ``words`` name it."""
    names = ", ".join(map(repr, truncated))
    tell = "tells its likeliest ids" if len(truncated) == 1 else "tell their likeliest ids"
    return SpecError(
        f"{words} needs whole distributions, but member {names} {tell} only: {reason}",
        hint=f"{way}, or load the member with a backend that reports whole distributions",
    )
