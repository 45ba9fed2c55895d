"""The numbers that say how a piece is chosen: each declared once, with its bounds and its words."""

from __future__ import annotations

from typing import Annotated, TypedDict

from unisono.config.compact import Number

# OpenAI: 0 to 2; transformers: anything above 0. Clients write 1e-8 for as good as greedy.
Temperature = Annotated[
    float, Number(0, 100, "0 takes the likeliest piece, 1 draws from the distribution as it is, more flattens it")
]
# transformers and vLLM: 1 or more, with 0 and -1 for off, which is `None` here; OpenAI has none.
TopK = Annotated[
    int,
    Number(
        1,
        2**31,
        "it counts the likeliest pieces that are drawn among; 0 or -1 stands for all",
        whole=True,
        off=(0, -1),
        words="a whole number of 1 or more, 2,147,483,648 at most",
        drawing=True,
    ),
]
# OpenAI and transformers: 0 to 1.
TopP = Annotated[
    float, Number(0, 1, "pieces are drawn among the likeliest that have this much mass; 1 leaves all", drawing=True)
]
# transformers and vLLM: 0 to 1.
MinP = Annotated[
    float,
    Number(
        0, 1, "pieces are drawn that have at least this share of the likeliest one's mass; 0 leaves all", drawing=True
    ),
]
# transformers: above 0 and below 1, with 1 for off.
TypicalP = Annotated[
    float,
    Number(
        0, 1, "pieces are drawn among the most typical that have this much mass; 1 leaves all", above=True, drawing=True
    ),
]
# transformers and vLLM: anything above 0.
RepetitionPenalty = Annotated[
    float, Number(0, 100, "1 changes nothing, more makes pieces that were written less likely", above=True)
]
# OpenAI: -2 to 2, both.
PresencePenalty = Annotated[float, Number(-2, 2, "it is taken once from the log-mass of a piece that was written")]
FrequencyPenalty = Annotated[
    float, Number(-2, 2, "it is taken from the log-mass of a piece for each time that it was written")
]
# vLLM and llama.cpp: -1 for none.
Seed = Annotated[
    int,
    Number(
        0, 2**64 - 1, "the same seed draws the same text; -1 stands for another one each time", whole=True, off=(-1,)
    ),
]


class SamplingOptions(TypedDict, total=False):
    """Keywords that replace options of the ensemble's `Sampling`. ``None`` leaves an option as it is.

    `Sampling` says what each one does.
    """

    temperature: Temperature | None
    top_p: TopP | None
    top_k: TopK | None
    min_p: MinP | None
    presence_penalty: PresencePenalty | None
    frequency_penalty: FrequencyPenalty | None
    seed: Seed | None
    truncated_sampling: bool | None
