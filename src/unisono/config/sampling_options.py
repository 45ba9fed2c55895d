"""What the options of a draw may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

MEMBER = "member_"
"""What the options begin with that act on every member's distribution before these are combined."""


LONGEST_BIAS = 256
"""Bytes of a biased text."""


class Option(NamedTuple):
    """What the number of an option may be."""

    allows: Callable[[float], bool]
    limits: str
    meaning: str
    whole: bool = False
    drawing: bool = False
    """Whether it acts on what is drawn, and so does nothing where nothing is."""


OPTIONS: dict[str, Option] = {
    # OpenAI: 0 to 2; transformers: anything above 0; vLLM raises what is below 0.01 to 0.01.
    "temperature": Option(
        lambda value: value == 0 or 0.01 <= value <= 100,
        "0, or a number from 0.01 to 100",
        "0 takes the likeliest piece, 1 draws from the distribution as it is, more flattens it",
    ),
    # transformers and vLLM: 1 or more (0 for off is `None` here); OpenAI has none.
    "top_k": Option(
        lambda value: 1 <= value <= 2**31,
        "a whole number of 1 or more, 2,147,483,648 at most",
        "it counts the likeliest pieces that are drawn among; leave it out for all",
        whole=True,
        drawing=True,
    ),
    # OpenAI and transformers: 0 to 1.
    "top_p": Option(
        lambda value: 0 <= value <= 1,
        "a number from 0 to 1",
        "pieces are drawn among the likeliest that have this much mass; 1 leaves all",
        drawing=True,
    ),
    # transformers and vLLM: 0 to 1.
    "min_p": Option(
        lambda value: 0 <= value <= 1,
        "a number from 0 to 1",
        "pieces are drawn that have at least this share of the likeliest one's mass; 0 leaves all",
        drawing=True,
    ),
    # transformers: above 0 and below 1, with 1 for off.
    "typical_p": Option(
        lambda value: 0 < value <= 1,
        "a number above 0, 1 at most",
        "pieces are drawn among the most typical that have this much mass; 1 leaves all",
        drawing=True,
    ),
    # transformers and vLLM: anything above 0.
    "repetition_penalty": Option(
        lambda value: 0 < value <= 100,
        "a number above 0, 100 at most",
        "1 changes nothing, more makes pieces that were written less likely",
    ),
    # OpenAI: -2 to 2.
    "presence_penalty": Option(
        lambda value: -2 <= value <= 2,
        "a number from -2 to 2",
        "it is taken once from the log-mass of a piece that was written",
    ),
    # OpenAI: -2 to 2.
    "frequency_penalty": Option(
        lambda value: -2 <= value <= 2,
        "a number from -2 to 2",
        "it is taken from the log-mass of a piece for each time that it was written",
    ),
}
SHAPING = (*OPTIONS, "bias", "logit_bias")
"""What reshapes a distribution: the combined one, and with `MEMBER` before it each member's."""
OPTIONS |= {
    **{MEMBER + name: option._replace(drawing=False) for name, option in OPTIONS.items()},
    "member_temperature": Option(
        lambda value: 0.01 <= value <= 100,
        "a number from 0.01 to 100",
        "1 leaves each member's distribution as it is, less makes every member surer before they are combined",
    ),
    "seed": Option(
        lambda value: 0 <= value < 2**64,
        "a whole number from 0 to 18,446,744,073,709,551,615",
        "the same seed draws the same text; leave it out for another one each time",
        whole=True,
    ),
    # transformers and vLLM: 1 or more.
    "beam_width": Option(
        lambda value: 1 <= value <= 64,
        "a whole number from 1 to 64",
        "it counts the texts that are followed at once; 1 is greedy",
        whole=True,
    ),
    # transformers and vLLM: any number.
    "length_penalty": Option(
        lambda value: -10 <= value <= 10,
        "a number from -10 to 10",
        "a text's log-mass is divided by its pieces to this power: more favours long texts",
    ),
}
"""The options that are numbers, by name."""
