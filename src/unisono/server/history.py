"""Read the calls of a past conversation, and their results, in other forms than OpenAI's.

Anthropic's clients write them as parts of messages: ``tool_use`` of an assistant, ``tool_result`` of a user. Old ones
of OpenAI write ``function_call``, and results of the role ``function``. Others leave ids out, or give all calls of a
message the same: results belong to such calls by name, or in their order. A result may have lost its call.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from unisono.server.errors import Refusal
from unisono.server.functions import with_calls

USE, RESULT = "tool_use", "tool_result"
ID, NAME, ANY = "id", "name", "any"
"""By what a call that waits for its result is found."""
THOUGHTS = ("thinking", "redacted_thinking", "reasoning")
"""The types of parts that were reasoned, as Anthropic's and Mistral's clients keep them."""
Named = tuple[str, Any]
"""A message, and how errors name it."""


def plain_history(given: Sequence[Named]) -> list[Named]:
    """The messages with their calls and results in OpenAI's form, each call with an id of its own.

    Raises a `Refusal` for text that stands where OpenAI's form has no place for it.
    """
    messages = [each for name, message in given for each in _apart(name, with_calls(message))]
    return list(_linked(messages))


def _apart(name: str, message: Any) -> Iterator[Named]:
    """A message without parts that are calls or results: these become its calls, or messages before it."""
    role, parts = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
    kind = USE if role == "assistant" else RESULT if role in ("user", "tool") else None
    numbered = list(enumerate(parts)) if isinstance(parts, list) else []
    blocks = {place: part for place, part in numbered if isinstance(part, dict) and part.get("type") == kind}
    if kind is None or not blocks:
        yield name, message
        return
    first, last = min(blocks), max(blocks)
    said = (place for place, part in numbered if place not in blocks and _says(part))
    if (wrong := next((place for place in said if (place > first if kind == USE else place < last)), None)) is not None:
        path = f"{name}.content[{wrong}]"
        words = "behind a call: text stands before calls" if kind == USE else "before a result: results stand first"
        raise Refusal(400, f"{path} is {words} in what chat templates write", param=path, code="invalid_value")
    rest = [part for place, part in numbered if place not in blocks]
    if kind == USE:
        yield name, _calling(message, rest, list(blocks.values()))
        return
    for place, block in blocks.items():
        yield f"{name}.content[{place}]", _answering(block, message.get("tool_call_id"))
    if rest:
        yield name, {**message, "content": rest}


def is_thought(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in THOUGHTS


def _says(part: Any) -> bool:
    """Whether a part has a place of its own in a message: thoughts and white space have none."""
    if not isinstance(part, dict):
        return bool(part)
    return not is_thought(part) and (part.get("type") != "text" or bool(str(part.get("text")).strip()))


def _calling(message: dict[str, Any], rest: list[Any], blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """An assistant's message whose calls stand beside its content; those that stood there already are kept."""
    calls = list(message.get("tool_calls") or ())
    known = {call.get("id") for call in calls if isinstance(call, dict)}
    for block in blocks:
        function = {"name": block.get("name"), "arguments": json.dumps(block.get("input") or {}, ensure_ascii=False)}
        if not known or block.get("id") not in known:
            calls.append({"id": block.get("id"), "type": "function", "function": function})
    return {**message, "content": rest or None, "tool_calls": calls}


def _answering(block: dict[str, Any], known: Any) -> dict[str, Any]:
    """A result as a message; ``known`` is the id of its call that its message has, where that is a tool's."""
    failed = {"is_error": True} if block.get("is_error") else {}  # for templates that read it
    call = block.get("tool_use_id") or known
    return {"role": "tool", "tool_call_id": call, "content": block.get("content") or "", **failed}


@dataclass(slots=True)
class _Call:
    """A call that waits for its result."""

    id: Any
    answered: bool = False


class _Waiting:
    """The calls of a message without their results, by the ids that the client wrote, by name, and in their order."""

    def __init__(self, calls: Sequence[dict[str, Any]], fresh: Iterator[str]) -> None:
        self._by: dict[tuple[str, Any], deque[_Call]] = defaultdict(deque)
        self.ids: list[Any] = []
        for call in calls:
            given, function = call.get("id"), call.get("function")
            own = next(fresh) if given in (None, "") or (isinstance(given, str) and self._by[ID, given]) else given
            self.ids.append(own)
            waiting = _Call(own)
            name = function.get("name") if isinstance(function, dict) else None
            for where in ((ID, _text(given)), (NAME, _text(name)), (ANY, None)):
                self._by[where].append(waiting)

    def answered(self, message: dict[str, Any]) -> dict[str, Any]:
        """A result that names its call by its own id, if it can be told which that is."""
        given, name = (
            value if isinstance(value, str) else None for value in map(message.get, ("tool_call_id", "name"))
        )
        wheres = ((ID, given), (ID, None)) if given else ((NAME, name), (ANY, None))
        for calls in (self._by[where] for where in wheres):
            while calls and calls[0].answered:
                calls.popleft()
            if calls:
                calls[0].answered = True
                return {**message, "tool_call_id": calls[0].id}
        return message


def _linked(messages: Sequence[Named]) -> Iterator[Named]:
    """Messages whose calls have ids of their own, by which their results name them."""
    calls = [call for _, message in messages for call in _calls_of(message)]
    taken = {call["id"] for call in calls if isinstance(call.get("id"), str)}
    fresh = (identity for number in itertools.count() if (identity := f"call{number:05d}") not in taken)
    waiting = _Waiting((), fresh)
    for name, message in messages:
        if isinstance(message, dict) and message.get("role") == "tool":
            told = waiting.answered(message)
            yield name, {**told, "tool_call_id": next(fresh)} if told.get("tool_call_id") in (None, "") else told
            continue
        waiting = _Waiting(_calls_of(message), fresh)
        if waiting.ids:
            ids = iter(waiting.ids)
            calls = [{**call, "id": next(ids)} if isinstance(call, dict) else call for call in message["tool_calls"]]
            message = {**message, "tool_calls": calls}
        yield name, message


def _calls_of(message: Any) -> list[dict[str, Any]]:
    calls = message.get("tool_calls") if isinstance(message, dict) else None
    return [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
