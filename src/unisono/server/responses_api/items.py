"""The items of a conversation as the messages of a chat."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from unisono.errors import shown
from unisono.server.errors import Refusal, invalid
from unisono.server.fields import unsupported

OWN = ("type", "id", "status", "phase")
"""Keys of an item that say nothing to a model."""
KINDS = ("message", "function_call", "function_call_output", "reasoning")
TEXTS = ("input_text", "output_text", "text")
"""The types of parts that are text."""
Named = tuple[str, Any]
"""An item, and how errors name it."""


def messages_of(instructions: str | None, items: Iterable[Named]) -> list[Named]:
    """The messages of a conversation. Raises a `Refusal` that names an item and its key.

    Calls that follow one another, or an answer, are those of one message; what was reasoned belongs to what follows.
    """
    messages: list[Named] = []
    thought, calling = "", False
    if instructions:
        messages.append(("instructions", {"role": "system", "content": instructions}))
    for name, item in items:
        kind = _kind_of(name, item)
        if kind == "reasoning":
            thought, calling = _thought_of(item), False
            continue
        if kind == "function_call":
            call = _call_of(name, item)
            if calling and not thought:
                last = messages[-1][1]
                last["tool_calls"] = [*last.get("tool_calls", ()), call]
                continue
            messages.append((name, {"role": "assistant", "content": None, "tool_calls": [call]}))
        elif kind == "function_call_output":
            output = item.get("output")
            if not isinstance(output, str | list):
                raise invalid(f"{name}.output", f"{name}.output is {shown(output)}: give text, or a list of parts")
            called = _text(name, item, "call_id")
            messages.append((name, {"role": "tool", "tool_call_id": called, "content": _content(output)}))
        else:
            own = {key: value for key, value in item.items() if key not in OWN}
            messages.append((name, own | ({"content": _content(own["content"])} if "content" in own else {})))
        message = messages[-1][1]
        calling = message.get("role") == "assistant"
        if calling and thought:
            message.setdefault("reasoning_content", thought)
        thought = ""
    return messages


def _kind_of(name: str, item: Any) -> str:
    if not isinstance(item, dict):
        raise Refusal(400, f"{name} is {shown(item)}, not an object", param=name, code="invalid_value")
    kind = item.get("type", "message" if "role" in item else None)
    if kind is None:
        raise Refusal(400, f"{name}.type is missing", param=f"{name}.type", code="missing_field")
    if kind == "item_reference":
        raise unsupported(f"{name}.type", kind, "send the item itself, or previous_response_id")
    if kind not in KINDS:
        raise unsupported(f"{name}.type", kind, f"known are {', '.join(KINDS)}")
    return str(kind)


def _content(given: Any) -> Any:
    """The content of a message, its parts in the words of chats."""
    return [_part(part) for part in given] if isinstance(given, list) else given


def _part(given: Any) -> Any:
    kind = given.get("type") if isinstance(given, dict) else None
    if kind in TEXTS:
        return {"type": "text", "text": given.get("text")}
    return {"type": "text", "text": given.get("refusal")} if kind == "refusal" else given


def _call_of(name: str, item: Mapping[str, Any]) -> dict[str, Any]:
    function = {key: _text(name, item, key, empty=key == "arguments") for key in ("name", "arguments")}
    return {"id": _text(name, item, "call_id"), "type": "function", "function": function}


def _text(name: str, item: Mapping[str, Any], key: str, *, empty: bool = False) -> str:
    value = item.get(key)
    if value is None:
        raise Refusal(400, f"{name}.{key} is missing", param=f"{name}.{key}", code="missing_field")
    if not isinstance(value, str) or not (value or empty):
        raise invalid(f"{name}.{key}", f"{name}.{key} is {shown(value)}: give text")
    return value


def _thought_of(item: Mapping[str, Any]) -> str:
    """What was reasoned: the whole of it, or else its summary."""
    for key in ("content", "summary"):
        value = item.get(key)
        parts = value if isinstance(value, list) else []
        texts = [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
        if text := "\n".join(texts):
            return text
    return ""
