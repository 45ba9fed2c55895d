"""How the ensemble writes: the flags that change it, and its words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unisono.cli.console import say
from unisono.cli.flags import optional, renamed_flag
from unisono.config.compact import read_number
from unisono.errors import shown

if TYPE_CHECKING:
    from unisono.config.method import Method


def _whole_number(text: str) -> int:
    number = read_number(text)
    if not isinstance(number, int):
        raise typer.BadParameter(f"{shown(text)} is not a whole number")
    return number


method_flag = partial(optional, rich_help_panel="Method (by default, as the ensemble file says)")


@dataclass(kw_only=True)
class MethodFlags:
    """What replaces keys of the ensemble file."""

    combine: Annotated[
        str | None,
        method_flag(
            metavar="RULE[ KEY:VALUE…]",
            help="Combine the members' distributions by this rule: mean, geometric, max, minimum, logits or "
            "contrastive. Keys such as weights:entropy or truncate:20 may follow. Default: mean.",
        ),
    ] = None
    lead: Annotated[
        str | None,
        method_flag(metavar="NAME", help="Let this member lead; the gate looks at it. Default: the first that votes."),
    ] = None
    gate: Annotated[
        str | None,
        method_flag(
            metavar="KIND[:NUMBER]",
            help="When to ask the other members: always, confidence:MASS, margin:MASS, entropy:NATS, every:N, "
            "first:N, or certain: until the rest cannot change the piece. Default: always.",
        ),
    ] = None
    boundary: Annotated[
        bool | None,
        method_flag(
            help="Do not ask the others after a piece that ends inside a token of theirs. Default: --no-boundary."
        ),
    ] = None
    speculate: Annotated[
        str | None,
        method_flag(
            metavar="DRAFTER[:N]",
            help="Let this drafter propose pieces, which the others check in one block: a member, ngram, auto or off. "
            "Default: off.",
        ),
    ] = None
    max_pieces: Annotated[
        int | None,
        method_flag(metavar="N", parser=_whole_number, help="Draft at most N pieces at once, 1 to 64. Default: 6."),
    ] = None
    sampling: Annotated[
        str | None,
        method_flag(
            metavar="WORDS",
            help='How to choose a piece: greedy, mixture, a temperature, or words such as "0.7 top_p:0.9 seed:1" or '
            '"beam_width:4". Default: greedy.',
        ),
    ] = None
    reasoning: Annotated[
        str | None,
        method_flag(
            metavar="off|N",
            help="Answer without reasoning, or end it after N pieces. Default: auto, as the members do.",
        ),
    ] = None
    vocabulary: Annotated[
        str | None,
        method_flag(
            metavar="union|bytes[ KEY:VALUE…]",
            help="What members vote on: pieces of their union, or bytes, each member summing over its ways of cutting "
            "the text (beam:8 follows 8 of them). Default: union.",
        ),
    ] = None
    temperature: Annotated[
        float | None, method_flag(metavar="T", help="Sample at this temperature; 0 takes the most likely piece.")
    ] = None
    top_p: Annotated[float | None, method_flag(metavar="P", help="Sample from the nucleus of this probability.")] = None
    top_k: Annotated[int | None, method_flag(metavar="K", help="Sample from the K most likely pieces; 0 is all.")] = (
        None
    )
    min_p: Annotated[
        float | None,
        method_flag(metavar="P", help="Sample from pieces with at least this share of the largest probability."),
    ] = None
    seed: Annotated[
        int | None, method_flag(metavar="N", help="Fix the seed: the same seed gives the same text; -1 is a new one.")
    ] = None
    truncated_sampling: Annotated[
        bool | None,
        method_flag(
            help="Sample even if members report only their most likely tokens. The rest is estimated, and such pieces "
            "count as uncertain. Default: --no-truncated-sampling."
        ),
    ] = None
    draw: Annotated[str | None, typer.Option(hidden=True)] = None
    spelling: Annotated[str | None, typer.Option(hidden=True)] = None

    def changes(self) -> dict[str, Any]:
        renamed_flag(self.sampling, self.draw, "--sampling", "--draw")
        return {field.name: getattr(self, field.name) for field in fields(MethodFlags)}


def say_idle(method: Method, changes: Mapping[str, Any]) -> None:
    """Say which flags have no effect, because nothing is drawn."""
    if method.sampling.is_greedy:
        for flag in (f"--{name.replace('_', '-')}" for name in ("top_p", "top_k", "min_p") if changes.get(name)):
            say(f"unisono: {flag} has no effect at temperature 0; --temperature 1 samples")


def method_words(method: Method, weights: Mapping[str, float]) -> str:
    """How an ensemble of members with these weights writes, in words; empty for the default."""
    from unisono.config.combine import Combine
    from unisono.config.reasoning import Reasoning
    from unisono.config.sampling import Sampling
    from unisono.config.vocabulary import SharedVocabulary

    words = [] if method.combine == Combine() else [f"combined by {method.combine}"]
    lead = method.lead_among(weights)
    if lead != next(iter(weights)) or method.gate.reads_lead:
        words.append(f"{lead} leads")
    if not method.gate.always_open:
        words.append(f"gate {method.gate}")
    if method.speculate is not None:
        words.append(f"{method.speculate.drafter} drafts {method.speculate.max_pieces} pieces at most")
    if method.sampling != Sampling():
        words.append(f"sampling {method.sampling}")
    if method.reasoning != Reasoning():
        words.append(f"reasoning {method.reasoning}")
    if method.vocabulary != SharedVocabulary():
        words.append(f"vocabulary {method.vocabulary}")
    return ", ".join(words)
