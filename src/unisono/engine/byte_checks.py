"""Which requests bytes cannot serve (docs/adr/0028)."""

from __future__ import annotations

from unisono.config.without_union import refusal
from unisono.engine.request import GenerationRequest


def check_bytes_of(request: GenerationRequest) -> None:
    """Raise a `SpecError` where a request wants what is said of a union's pieces alone."""
    for wanted, words, reason in (
        (request.top_logprobs, "logprobs", "they are those of a union's pieces"),
        (request.score, "the score of a prompt by its pieces", "bytes are scored by Ensemble.score and `unisono eval`"),
        (request.prompt.tools is not None, "tools", "calls are found by marks and a grammar of a union"),
        (
            request.begin is not None and request.constraint is not None,
            "a beginning that a constraint is to hold for",
            "it is read in pieces of a union",
        ),
    ):
        if wanted:
            raise refusal(words, reason, "leave it out")
