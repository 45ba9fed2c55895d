"""Reasoning: what a call's fields say of it, in the words of several servers, and its field in answers.

Fields that ask for different things are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from unisono.chat.thinking import EFFORT, NO_EFFORT, THINKING, asked
from unisono.config.method import Method
from unisono.config.reasoning import Reasoning
from unisono.server.fields import contradiction
from unisono.server.schemas import ChatRequest, GenerationFields

REASONING = "reasoning_content"
"""Of messages, deltas and choices: DeepSeek's name, and that of SGLang and llama.cpp. Clients of vLLM read it, too."""
VARIABLES = "chat_template_kwargs"
BUDGET = "thinking_token_budget"
UNBOUNDED = -1
"""llama.cpp's budget for as much as a model wants."""
MOST = 1_000_000


class Wish(NamedTuple):
    """What a field says of whether and how long to reason."""

    name: str
    value: object
    wanted: Reasoning
    is_exact: bool = True
    """Whether it says how long; otherwise it agrees with every budget."""

    def differs(self, wanted: Reasoning) -> bool:
        return wanted != self.wanted if self.is_exact else wanted.off


def reasoned_as(method: Method, request: GenerationFields) -> Method:
    """The method with what a call says of reasoning. Raises a `Refusal` where two fields differ."""
    wish = wish_of(request)
    if wish is None or not wish.differs(method.reasoning):
        return method
    given = None if request.unisono is None else request.unisono.reasoning
    if given is not None:  # the method is as the extension says
        raise contradiction(wish.name, wish.value, "unisono.reasoning", given)
    return replace(method, reasoning=wish.wanted)


def wish_of(request: GenerationFields) -> Wish | None:
    """What a call's fields say together, or nothing. Raises a `Refusal` where two differ."""
    wishes = list(_wishes(request))
    for place, wish in enumerate(wishes):
        for other in wishes[:place]:
            if wish.wanted.off != other.wanted.off or (
                wish.is_exact and other.is_exact and wish.wanted != other.wanted
            ):
                raise contradiction(other.name, other.value, wish.name, wish.value)
    return max(wishes, key=lambda each: each.is_exact, default=None)


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
    given = {EFFORT: effort, "reasoning.effort": its_effort, "think": request.think}
    efforts = [(name, value) for name, value in given.items() if isinstance(value, str)]
    for name, value in efforts[1:]:
        if value != efforts[0][1]:
            raise contradiction(*efforts[0], name, value)
    return efforts[0][1] if efforts else None


def tells_templates(request: ChatRequest) -> Wish | None:
    """What fields beside ``chat_template_kwargs`` say together; of those, each template reads what it does."""
    return next((wish for wish in _wishes(request) if not wish.name.startswith(VARIABLES)), None)


def _wishes(request: GenerationFields) -> Iterator[Wish]:
    if request.thinking_token_budget is not None:
        yield Wish(BUDGET, request.thinking_token_budget, _budget(request.thinking_token_budget))
    if not isinstance(request, ChatRequest):
        return
    for name, value, thinks in asked({EFFORT: request.reasoning_effort, THINKING: request.enable_thinking}):
        yield _whether(name, value, thinks)
    for name, value, thinks in asked(request.chat_template_kwargs):
        yield _whether(f"{VARIABLES}.{name}", value, thinks)
    if (think := request.think) is not None:
        yield _whether("think", think, think if isinstance(think, bool) else think not in NO_EFFORT)
    if (options := request.reasoning) is not None:
        if options.effort is not None:
            yield _whether("reasoning.effort", options.effort, options.effort not in NO_EFFORT)
        if options.enabled is not None:
            yield _whether("reasoning.enabled", options.enabled, options.enabled)
        if options.max_tokens is not None:
            yield Wish("reasoning.max_tokens", options.max_tokens, _budget(options.max_tokens))
    if (thinking := request.thinking) is not None:
        if thinking.type not in (None, "adaptive", "auto"):
            yield _whether("thinking.type", thinking.type, thinking.type == "enabled")
        if thinking.budget_tokens is not None:
            yield Wish("thinking.budget_tokens", thinking.budget_tokens, _budget(thinking.budget_tokens))


def _whether(name: str, value: object, reasons: bool) -> Wish:
    return Wish(name, value, Reasoning(off=not reasons), is_exact=not reasons)


def _budget(pieces: int) -> Reasoning:
    if pieces == UNBOUNDED:
        return Reasoning()
    return Reasoning(max_pieces=min(pieces, MOST)) if pieces else Reasoning(off=True)
