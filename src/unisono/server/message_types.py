"""The messages of a chat, as the OpenAPI document shows them; `unisono.server.body` checks each by its role."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

_TEXT = {"type": "string", "minLength": 1}
_NAME = {"anyOf": [_TEXT, {"type": "null"}]}
_PARTS = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["type", "text"],
        "properties": {"type": {"const": "text"}, "text": _TEXT},
    },
}


def _message(role: str, required: tuple[str, ...] = ("content",), **more: Any) -> dict[str, Any]:
    properties = {"role": {"const": role}, "content": {"anyOf": [_TEXT, _PARTS]}, "name": _NAME, **more}
    return {"type": "object", "required": ["role", *required], "properties": properties}


_MESSAGES = {
    "type": "array",
    "minItems": 1,
    "items": {
        "oneOf": [
            *(_message(role) for role in ("system", "developer", "user")),
            _message(
                "assistant",
                content={"anyOf": [_TEXT, _PARTS, {"type": "null"}]},
                tool_calls={"type": "array", "items": {"type": "object"}},
            ),
            _message("tool", ("content", "tool_call_id"), tool_call_id=_TEXT),
        ]
    },
}
Messages = Annotated[list[Any], Field(min_length=1), WithJsonSchema(_MESSAGES)]
