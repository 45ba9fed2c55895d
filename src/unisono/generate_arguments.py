"""What the arguments of `Ensemble.generate` ask for, as requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from unisono.chat.messages import Message, Prompt
from unisono.config.method import Method, MethodOptions, check_options
from unisono.config.speculation import check_off
from unisono.engine.request import DEFAULT_LIMITS, GenerationOptions, Request
from unisono.errors import SpecError, shown
from unisono.records import Limits

MOST_TEXTS = 10_000


def request_of(
    prompt: str | Prompt | None,
    messages: Sequence[Message] | None,
    options: GenerationOptions,
    n: int | None,
    method: Method,
    members: Sequence[str],
) -> Request:
    """The request of one prompt, by an ensemble's ``method`` and the names of its ``members``. Raises a `SpecError`."""
    check_options(options, (*GenerationOptions.__annotations__,))
    rest: dict[str, Any] = dict(options)
    limits = Limits(rest.pop("max_new_tokens", DEFAULT_LIMITS.max_new_tokens), rest.pop("stop", ()))
    tools, trace, constraint = rest.pop("tools", None), rest.pop("trace", False), rest.pop("constraint", None)
    continued, begin = rest.pop("continue_final_message", False), rest.pop("begin", None)
    method = method_of(cast(MethodOptions, rest), method, members)
    if n is not None:
        _check_n(n, method)
    given = prompt if isinstance(prompt, Prompt) else Prompt(prompt, messages, tools)
    if continued is not False:
        given = replace(given, continue_final_message=continued)
    return Request("", given, limits, trace, method, constraint, n or 1, begin=begin)


def method_of(options: MethodOptions, method: Method, members: Sequence[str]) -> Method:
    """An ensemble's method with other options. Raises a `SpecError`."""
    check_off(options.get("speculate"), members)
    return method.but(**options)


def prompts_of(prompts: object, conversations: object, n: int | None) -> list[tuple[Any, Any]]:
    """The prompt or the messages of each text, where there are several. Raises a `SpecError`."""
    if n is not None:
        raise SpecError(f"n is {shown(n)}, but there is a list of prompts", hint="give one prompt")
    if isinstance(prompts, list) and conversations is None:
        return [(each, None) for each in prompts]
    if isinstance(conversations, list) and prompts is None:
        return [(None, each) for each in conversations]
    raise SpecError("a list of prompts or conversations is given, and another one beside it", hint="give one of them")


def _check_n(n: object, method: Method) -> None:
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= MOST_TEXTS:
        raise SpecError(
            f"n is {shown(n)}: it must be a whole number from 1 to {MOST_TEXTS:,}", hint="it counts the texts to draw"
        )
    if n > 1 and method.sampling.is_greedy:
        raise SpecError(
            f"n is {n}, but nothing is drawn: all {n} texts would be the same",
            hint="a beam finds one text: leave n out"
            if method.sampling.beam_width > 1
            else "give a temperature above 0, such as 0.7",
        )
