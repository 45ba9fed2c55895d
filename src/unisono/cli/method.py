"""How the ensemble writes, as it is said on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from unisono.config.compact import read_number
from unisono.errors import shown

if TYPE_CHECKING:
    from unisono.config.method import Method


def _whole_number(text: str) -> int:
    number = read_number(text)
    if not isinstance(number, int):
        raise typer.BadParameter(f"{shown(text)} is not a whole number")
    return number


CombineFlag = Annotated[
    str | None,
    typer.Option(
        "--combine",
        metavar="RULE[ KEY:VALUE…]",
        help="How the members' distributions become one: mean, geometric, max or contrastive, then keys such as "
        "weights:entropy or truncate:20. Default: the file's, or else mean.",
        show_default=False,
    ),
]
SamplingFlag = Annotated[
    str | None,
    typer.Option(
        "--sampling",
        metavar="WORDS",
        help='How a piece is chosen: greedy, mixture, a temperature, or words such as "0.7 top_p:0.9 seed:1" or '
        '"beam_width:4". Default: the file\'s, or else greedy.',
        show_default=False,
    ),
]
TemperatureFlag = Annotated[
    float | None,
    typer.Option("--temperature", metavar="T", help="0 takes the most likely piece, 1 samples.", show_default=False),
]
TopPFlag = Annotated[
    float | None, typer.Option("--top-p", metavar="P", help="Nucleus of this probability.", show_default=False)
]
TopKFlag = Annotated[
    int | None, typer.Option("--top-k", metavar="K", help="The K most likely pieces.", show_default=False)
]
MinPFlag = Annotated[
    float | None,
    typer.Option("--min-p", metavar="P", help="Pieces with this share of the largest probability.", show_default=False),
]
SeedFlag = Annotated[
    int | None, typer.Option("--seed", metavar="N", help="The same seed gives the same text.", show_default=False)
]
DrawFlag = Annotated[str | None, typer.Option("--draw", hidden=True)]
SpellingFlag = Annotated[str | None, typer.Option("--spelling", hidden=True)]
LeadFlag = Annotated[
    str | None,
    typer.Option(
        "--lead",
        metavar="NAME",
        help="The member that the gate looks at. Default: the file's, or else the first that votes.",
        show_default=False,
    ),
]
GateFlag = Annotated[
    str | None,
    typer.Option(
        "--gate",
        metavar="KIND[:NUMBER]",
        help="When the others are asked: always, confidence:MASS, margin:MASS, entropy:NATS, every:N or first:N. "
        "Default: the file's, or else always.",
        show_default=False,
    ),
]
BoundaryFlag = Annotated[
    bool | None,
    typer.Option(
        "--boundary/--no-boundary",
        help="Do not ask right after a piece that ends inside another member's token. "
        "Default: the gate's, or else --no-boundary.",
        show_default=False,
    ),
]
SpeculateFlag = Annotated[
    str | None,
    typer.Option(
        "--speculate",
        metavar="DRAFTER[:N]",
        help="Who drafts what the others then read in one block: a member, ngram, auto, or off for nobody. "
        "Default: the file's, or else off.",
        show_default=False,
    ),
]
MaxPiecesFlag = Annotated[
    int | None,
    typer.Option(
        "--max-pieces",
        metavar="N",
        parser=_whole_number,
        help="Pieces in a draft at most, 1 to 64. Default: the drafter's, or else 6.",
        show_default=False,
    ),
]


def method_words(method: Method, members: Sequence[str]) -> str:
    """How an ensemble writes, in words; empty for the default."""
    from unisono.config.combine import Combine
    from unisono.config.sampling import Sampling

    words = [] if method.combine == Combine() else [f"combined by {method.combine}"]
    lead = method.lead or members[0]
    if lead != members[0] or not method.gate.always_open:
        words.append(f"{lead} leads")
    if not method.gate.always_open:
        words.append(f"gate {method.gate}")
    if method.speculate is not None:
        words.append(f"{method.speculate.drafter} drafts {method.speculate.max_pieces} pieces at most")
    if method.sampling != Sampling():
        words.append(f"sampling {method.sampling}")
    return ", ".join(words)
