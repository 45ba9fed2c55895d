"""Read the calls of a past conversation, and their results, in other forms than OpenAI's.

Anthropic's clients write them as parts of messages: ``tool_use`` of an assistant, ``tool_result`` of a user. Others
leave ids out, or give all calls of a message the same: results belong to such calls by name, or in their order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from unisono.server.errors import Refusal

USE, RESULT = "tool_use", "tool_result"
Named = tuple[str, Any]
"""A message, and how errors name it."""


def plain_history(given: Sequence[Any]) -> list[Named]:
    """The messages with their calls and results in OpenAI's form, each call with an id of its own.

    Raises a `Refusal` for text that stands where OpenAI's form has no place for it.
    """
    messages = [each for number, message in enumerate(given) for each in _apart(f"messages[{number}]", message)]
    return list(_linked(messages))


def _apart(name: str, message: Any) -> Iterator[Named]:
    """A message without parts that are calls or results: these become its calls, or messages before it."""
    role, parts = (message.get(key) if isinstance(message, dict) else None for key in ("role", "content"))
    kind = {"assistant": USE, "user": RESULT}.get(role) if isinstance(role, str) else None
    places = [place for place, part in enumerate(parts if isinstance(parts, list) else ()) if _is(part, kind)]
    if kind is None or not places:
        yield name, message
        return
    rest = [part for place, part in enumerate(parts) if place not in places]
    behind = next((place for place, part in enumerate(parts) if not _is(part, kind) and place > places[0]), None)
    before = next((place for place, part in enumerate(parts) if not _is(part, kind) and place < places[-1]), None)
    wrong, words = (
        (behind, "behind a call: put text before") if kind == USE else (before, "before a result: put results first")
    )
    if wrong is not None:
        path = f"{name}.content[{wrong}]"
        raise Refusal(400, f"{path} stands {words}, as chat templates write it", param=path, code="invalid_value")
    if kind == USE:
        yield name, _calling(message, rest, [parts[place] for place in places])
        return
    for place in places:
        yield f"{name}.content[{place}]", _answering(parts[place])
    if rest:
        yield name, {**message, "content": rest}


def _is(part: Any, kind: str | None) -> bool:
    return isinstance(part, dict) and part.get("type") == kind


def _calling(message: dict[str, Any], rest: list[Any], blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """An assistant's message whose calls stand beside its content; those that stood there already are kept."""
    calls = list(message.get("tool_calls") or ())
    known = {call.get("id") for call in calls if isinstance(call, dict)}
    for block in blocks:
        function = {"name": block.get("name"), "arguments": json.dumps(block.get("input") or {}, ensure_ascii=False)}
        if not known or block.get("id") not in known:
            calls.append({"id": block.get("id"), "type": "function", "function": function})
    return {**message, "content": rest or None, "tool_calls": calls}


def _answering(block: dict[str, Any]) -> dict[str, Any]:
    failed = {"is_error": True} if block.get("is_error") else {}  # for templates that read it
    return {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": block.get("content") or "", **failed}


@dataclass(slots=True)
class _Waiting:
    """A call without its result."""

    given: object
    """Its id as the client wrote it."""
    id: object
    function: object


def _linked(messages: Sequence[Named]) -> Iterator[Named]:
    """Messages whose calls have ids of their own, by which their results name them."""
    calls = [call for _, message in messages for call in _calls_of(message)]
    taken = {call["id"] for call in calls if isinstance(call.get("id"), str)}
    fresh = (identity for number in range(len(calls) + len(taken)) if (identity := f"call{number:05d}") not in taken)
    waiting: list[_Waiting] = []
    for name, message in messages:
        if isinstance(message, dict) and message.get("role") == "tool":
            yield name, _linked_answer(message, waiting)
            continue
        waiting = []
        for call in _calls_of(message):
            given, function = call.get("id"), call.get("function")
            own = given if given and all(given != other.given for other in waiting) else next(fresh)
            waiting.append(_Waiting(given, own, function.get("name") if isinstance(function, dict) else None))
        if waiting:
            ids = iter(waiting)
            told = [{**call, "id": next(ids).id} if isinstance(call, dict) else call for call in message["tool_calls"]]
            message = {**message, "tool_calls": told}
        yield name, message


def _calls_of(message: Any) -> list[dict[str, Any]]:
    calls = message.get("tool_calls") if isinstance(message, dict) else None
    return [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


def _linked_answer(message: dict[str, Any], waiting: list[_Waiting]) -> dict[str, Any]:
    given, name = message.get("tool_call_id"), message.get("name")
    if given:
        found = next((call for call in waiting if call.given == given), None)
        found = found or next((call for call in waiting if not call.given), None)
    else:
        found = next((call for call in waiting if name and call.function == name), None) or next(iter(waiting), None)
    if found is None:
        return message
    waiting.remove(found)
    return {**message, "tool_call_id": found.id}
