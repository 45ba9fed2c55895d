"""Other forms of a conversation that say the same, for templates that refuse one, or write a part of it alone.

Clients send several system messages, or two questions in a row; what an assistant said before its calls, in one message
with them; several calls at once; and ids of any length. Templates of Gemma, Mistral, Llama 3 and Qwen 3.5 take one or
another of these not at all. mistral-common, which has no templates, joins messages by a blank line, too.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import cast

from unisono.chat.messages import Message, content_of

BETWEEN = "\n\n"
_JOINED = {"role", "content", "extra"}
"""The keys of messages that can be joined: calls, results and speakers' names belong to one message each."""
_SHORT = re.compile(r"[A-Za-z0-9]{9}", re.ASCII)
"""The ids that the strictest templates take."""


def other_forms(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """The forms in which one thing is another, and then those in which more and more are."""
    given, together = list(messages), list[list[Message]]()
    for change in (_with_roles_joined, _with_short_ids, _with_calls_apart, _with_calls_in_turn):
        if (changed := change(messages)) != given:
            yield changed
            together.append(change(together[-1]) if together else changed)
    yield from together[1:]


def _with_roles_joined(messages: Sequence[Message]) -> list[Message]:
    """The messages with those of one role in a row joined by a blank line."""
    joined: list[Message] = []
    for message in messages:
        if joined and _join(joined[-1], message):
            texts = filter(None, map(content_of, (joined[-1], message)))
            joined[-1] = cast(Message, {**joined[-1], "content": BETWEEN.join(texts)})
        else:
            joined.append(message)
    return joined


def _join(one: Message, other: Message) -> bool:
    if one["role"] != other["role"] or not (one.keys() | other.keys()) <= _JOINED:
        return False
    return one.get("extra", {}) == other.get("extra", {})  # a name, or what was reasoned, belongs to one text


def _with_short_ids(messages: Sequence[Message]) -> list[Message]:
    """The messages with ids of nine letters and digits in the place of others; an id says nothing but what belongs."""
    calls = [call for message in messages for call in message.get("tool_calls", ())]
    ids = [*(call["id"] for call in calls), *(message.get("tool_call_id", "") for message in messages)]
    given = dict.fromkeys(filter(None, ids))
    fresh = (identity for number in itertools.count() if (identity := f"call{number:05d}") not in given)
    short = {each: each if _SHORT.fullmatch(each) else next(fresh) for each in given}
    found: list[Message] = []
    for message in messages:
        changed = message
        if "tool_calls" in message:
            changed = {**changed, "tool_calls": [{**call, "id": short[call["id"]]} for call in message["tool_calls"]]}
        if "tool_call_id" in message:
            changed = {**changed, "tool_call_id": short[message["tool_call_id"]]}
        found.append(changed)
    return found


def _with_calls_apart(messages: Sequence[Message]) -> list[Message]:
    """The messages with what is said before calls in a message of its own, which has what was reasoned."""
    apart: list[Message] = []
    for message in messages:
        if "tool_calls" in message and content_of(message):
            apart.append(cast(Message, {key: value for key, value in message.items() if key != "tool_calls"}))
            apart.append({"role": message["role"], "content": "", "tool_calls": message["tool_calls"]})
        else:
            apart.append(message)
    return apart


def _with_calls_in_turn(messages: Sequence[Message]) -> list[Message]:
    """The messages with each of several calls in a message of its own, which its results follow."""
    turns: list[Message] = []
    waiting: dict[str, list[Message]] = {}  # by call, the message that has it and its results
    for message in messages:
        if message["role"] == "tool" and message["tool_call_id"] in waiting:
            waiting[message["tool_call_id"]].append(message)
            continue
        turns += itertools.chain.from_iterable(waiting.values())
        calls, waiting = message.get("tool_calls", ()), {}
        for call in calls:
            begun: Message = {"role": message["role"], "content": ""} if waiting else message
            waiting[call["id"]] = [{**begun, "tool_calls": [call]}]
        turns += [] if calls else [message]
    return [*turns, *itertools.chain.from_iterable(waiting.values())]
