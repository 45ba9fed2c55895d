"""Reasoning: what a call's fields say of it, in the words of several servers, and its field in answers.

Fields that ask for different things are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from unisono.config.method import Method
from unisono.config.reasoning import Reasoning
from unisono.server.fields import contradiction
from unisono.server.schemas import ChatRequest, GenerationFields

REASONING = "reasoning_content"
"""Of messages, deltas and choices: DeepSeek's name, and that of SGLang and llama.cpp. Clients of vLLM read it, too."""
EFFORT = "reasoning_effort"
BUDGET = "thinking_token_budget"
UNBOUNDED = -1
"""llama.cpp's budget for as much as a model wants."""
MOST = 1_000_000


def reasoned_as(method: Method, request: GenerationFields) -> Method:
    """The method with what a call says of reasoning. Raises a `Refusal` where two fields differ."""
    asked = list(_asked(request))
    if not asked:
        return method
    name, value, wanted = asked[0]
    for other, its_value, also in asked[1:]:
        if also != wanted:
            raise contradiction(name, value, other, its_value)
    given = None if request.unisono is None else request.unisono.reasoning
    if given is not None and method.reasoning != wanted:  # the method is as the extension says
        raise contradiction(name, value, "unisono.reasoning", given)
    return method if method.reasoning == wanted else replace(method, reasoning=wanted)


def shows_reasoning(request: GenerationFields) -> bool:
    """Whether an answer tells what was reasoned."""
    options = request.reasoning if isinstance(request, ChatRequest) else None
    excluded = None if options is None else options.exclude
    if excluded and request.include_reasoning:
        raise contradiction("include_reasoning", True, "reasoning.exclude", True)
    return not excluded and request.include_reasoning is not False


def effort_of(request: ChatRequest) -> str | None:
    """How much a call wants members to reason, in words that templates read. Raises a `Refusal`."""
    effort, options = request.reasoning_effort, request.reasoning
    its_effort = None if options is None else options.effort
    if effort is not None and its_effort not in (None, effort):
        raise contradiction(EFFORT, effort, "reasoning.effort", its_effort)
    return effort or its_effort


def _asked(request: GenerationFields) -> Iterator[tuple[str, object, Reasoning]]:
    """The fields that say whether and how long to reason: their names, their values and what they ask for."""
    if request.thinking_token_budget is not None:
        yield BUDGET, request.thinking_token_budget, _budget(request.thinking_token_budget)
    if not isinstance(request, ChatRequest):
        return
    if request.reasoning_effort == "none":
        yield EFFORT, "none", Reasoning(off=True)
    if (options := request.reasoning) is None:
        return
    if options.effort == "none":
        yield "reasoning.effort", "none", Reasoning(off=True)
    if options.enabled is False:
        yield "reasoning.enabled", False, Reasoning(off=True)
    if options.max_tokens is not None:
        yield "reasoning.max_tokens", options.max_tokens, _budget(options.max_tokens)


def _budget(pieces: int) -> Reasoning:
    if pieces == UNBOUNDED:
        return Reasoning()
    return Reasoning(max_pieces=min(pieces, MOST)) if pieces else Reasoning(off=True)
