"""The messages of a chat, read strictly and by role; content is text, in one string or in parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from unisono.chat.messages import Message
from unisono.errors import nearest, shown
from unisono.server.errors import Refusal
from unisono.server.schemas import ROLES, TEXT_PART
from unisono.server.unsupported import explained, unsupported

REFUSED_IN_MESSAGES = {
    "audio": "messages are text",
    "refusal": "write it as content",
    "function_call": "it is deprecated: use tool_calls",
    "prompt_cache_breakpoint": "prompts that begin alike are read once without being asked to",
}
KEYS = ("content", "tool_calls", "tool_call_id", "name")
"""What a message may have beside its role."""
SYSTEM = ("system", "developer")
"""Roles that templates know as ``system``."""


def read_messages(given: Sequence[Any]) -> tuple[Message, ...]:
    """Read a conversation. Raises a `Refusal` that names the message and its field."""
    return tuple(_read_message(message, f"messages[{number}]") for number, message in enumerate(given))


def _read_message(given: Any, name: str) -> Message:
    if not isinstance(given, dict):
        raise Refusal(400, f"{name} is {shown(given)}, not an object", param=name, code="invalid_value")
    role = given.get("role")
    if not isinstance(role, str) or role not in ROLES:
        near = nearest(role, ROLES) if isinstance(role, str) else ""
        known = ", ".join(ROLES)
        words = f"{name}.role is {shown(role)}{near}; known: {known}"
        raise Refusal(400, words, param=f"{name}.role", code="invalid_value")
    message = _without_refused(given, name)
    if isinstance(message.get("content"), list):
        parts = enumerate(message["content"])
        message["content"] = "".join(_read_part(part, f"{name}.content[{number}]") for number, part in parts)
    try:
        ROLES[role].validate_python([message])
    except ValidationError as error:
        raise explained(error, message, list(KEYS), name, 1) from None
    if message.get("content") is None and not message.get("tool_calls"):
        raise Refusal(400, f"{name}.content is missing", param=f"{name}.content", code="missing_field")
    read = Message(role="system" if role in SYSTEM else role)
    for key in KEYS:
        if message.get(key) is not None:
            read[key] = message[key]  # type: ignore[literal-required]
    return read


def _read_part(given: Any, name: str) -> str:
    """The text of a part. Parts are joined without anything between them."""
    kind = given.get("type") if isinstance(given, dict) else None
    if kind != "text" and isinstance(kind, str):
        raise unsupported(f"{name}.type", kind, "messages are text")
    part = _without_refused(given, name) if isinstance(given, dict) else given
    try:
        return str(TEXT_PART.validate_python([part])[0]["text"])
    except ValidationError as error:
        raise explained(error, part, ["type", "text"], name, 1) from None


def _without_refused(given: dict[str, Any], name: str) -> dict[str, Any]:
    for key, why in REFUSED_IN_MESSAGES.items():
        if given.get(key) is not None:
            raise unsupported(f"{name}.{key}", given[key], why)
    return {key: value for key, value in given.items() if value is not None or key == "content"}
