"""Whether a model reads from left to right: those that see what comes later make embeddings, or fill in gaps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from unisono.errors import ModelUnsupported

BOTH_WAYS: Mapping[str, tuple[object, ...]] = {
    "is_causal": (False,),
    "use_bidirectional_attention": (True, "all"),  # "vision": among the parts of an image
}
"""Keys of a configuration, and the values that let a text be read in both directions."""
OF_PROMPTS = "prefix_lm"
"""The same for what is read before the answer. Its memory could not be cut back, nor continued as a text."""
BEGUN, ENDS = (1, 2), (3, 4)
"""Tokens of any model: two texts that begin alike and end otherwise."""
SHARE = 0.01
"""Of the range of a place's logits: a larger difference is none of rounding."""


def check_direction_said(config: Any, who: str) -> None:
    """Raise a `ModelUnsupported` where a configuration says that a model reads in both directions."""
    for each in (config, config.get_text_config(decoder=True)):
        if any(getattr(part, OF_PROMPTS, None) for part in (each, getattr(each, "attn_config", None))):
            raise ModelUnsupported(
                f"{who} reads its prompt in both directions ({OF_PROMPTS}: true), which members cannot",
                hint="use a model that reads from left to right",
            )
        for key, values in BOTH_WAYS.items():
            if any(getattr(each, key, None) is value or getattr(each, key, None) == value for value in values):
                raise _both_ways(who, f"{key}: {str(getattr(each, key)).lower()}")


def check_direction(read_alone: Callable[[list[list[int]]], Any], rows: int, who: str) -> None:
    """Raise a `ModelUnsupported` where what a loaded model says at a place depends on what comes after it.

    ``read_alone`` gives the logits of texts without our mask, which would only hide it.
    """
    if rows <= max(*BEGUN, *ENDS):
        return
    try:
        logits_BTV = read_alone([[*BEGUN, end] for end in ENDS])[:, : len(BEGUN)]
    except Exception:  # `check_passes` says what it cannot read
        return
    apart = float((logits_BTV[0] - logits_BTV[1]).abs().max())
    if apart > SHARE * float(logits_BTV.max() - logits_BTV.min()):
        raise _both_ways(who, "what comes later changes what it says before it")


def _both_ways(who: str, why: str) -> ModelUnsupported:
    return ModelUnsupported(
        f"{who} reads a text in both directions ({why}), so it cannot continue one",
        hint="use a decoder-only language model, not one that makes embeddings or fills in gaps",
    )
