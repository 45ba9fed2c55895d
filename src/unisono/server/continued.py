"""Whether the last message of a conversation is to be continued, in place of being answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from unisono.chat.messages import Prompt
from unisono.errors import SpecError, shown
from unisono.server.errors import invalid, refusal_of
from unisono.server.fields import contradiction, unsupported
from unisono.server.messages import CONTINUING
from unisono.server.schemas import ChatRequest
from unisono.server.token_schemas import TokenizeRequest

CONTINUE, ANSWER = "continue_final_message", "add_generation_prompt"


def as_continued(prompt: Prompt, request: ChatRequest | TokenizeRequest) -> Prompt:
    """The prompt of a request's messages, whose last one is continued if the request says so. Raises a `Refusal`."""
    if (name := _continues(request)) is None:
        return prompt
    try:
        return replace(prompt, continue_final_message=True)
    except SpecError as error:
        raise refusal_of(error, param=name) from None


def _continues(request: ChatRequest | TokenizeRequest) -> str | None:
    """The field by which the last message is to be continued. Raises a `Refusal` where others contradict it."""
    given = {CONTINUE: request.continue_final_message, ANSWER: request.add_generation_prompt}
    inside = "chat_template_kwargs"
    variables = getattr(request, inside, None) or {}
    for name in given:
        its = variables.get(name)
        if its is not None and not isinstance(its, bool):
            raise invalid(inside, f"{inside}.{name} is {shown(its)}: write true or false")
        if None not in (its, given[name]) and its != given[name]:
            raise contradiction(name, given[name], f"{inside}.{name}", its)
        given[name] = its if given[name] is None else given[name]
    wanted = CONTINUE if given[CONTINUE] else _continuing(request.messages or ())
    if wanted is not None and (given[ANSWER] or given[CONTINUE] is False):
        other = ANSWER if given[ANSWER] else CONTINUE
        raise contradiction(wanted, True, other, given[other])
    if wanted is None and given[ANSWER] is False:
        words = f"a message is written whole: to continue the last one, use {CONTINUE}"
        raise unsupported(ANSWER, False, words)
    return wanted


def _continuing(given: Sequence[Any]) -> str | None:
    """The key by which the last message asks to be continued, with its place."""
    last = given[-1] if given and isinstance(given[-1], dict) else {}
    return next((f"messages[{len(given) - 1}].{key}" for key in CONTINUING if last.get(key) is True), None)
