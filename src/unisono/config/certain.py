"""What the gate `certain` cannot serve: combinations of which nothing is known before all members were asked."""

from __future__ import annotations

from unisono.config.combine import Combine
from unisono.config.gate import Gate
from unisono.errors import SpecError

_OF_WEIGHTS = {
    "entropy": "they follow from the entropies of all members",
    "consistency": "they follow from how far all members agree",
}


def check_certain(gate: Gate, combine: Combine) -> None:
    """Raise a `SpecError` where the gate is `certain` and a key of ``combine`` leaves nothing to be certain of."""
    if not gate.is_certain:
        return
    if combine.weights in _OF_WEIGHTS:
        raise _refusal(f"the weights {combine.weights!r}", _OF_WEIGHTS[combine.weights])
    if combine.truncate is not None:
        raise _refusal(f"truncate {combine.truncate}", "which pieces are kept follows from all members")
    if combine.sharpen is not None:
        raise _refusal(f"sharpen {combine.sharpen:g}", "which masses move follows from what all members make together")


def _refusal(words: str, reason: str) -> SpecError:
    return SpecError(
        f"the gate 'certain' does not go with {words}: {reason}, so all would always be asked",
        hint="leave the gate out, which asks all and writes the same text, or leave that key of combine out",
    )
