"""The messages of a chat, as the OpenAPI document shows them, and what may be chosen of its tools.

`unisono.server.messages` checks each message by its role.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema
from typing_extensions import TypedDict

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


class AllowedTools(TypedDict):
    mode: Literal["auto", "required"]
    tools: Annotated[list[dict[str, Any]], Field(min_length=1)]
    """Functions by their names. The others are shown to the members and not called."""


class AllowedToolChoice(TypedDict):
    """OpenAI's; its own type has an iterator in the place of the list."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


ToolChoice = Literal["none", "auto", "required"] | AllowedToolChoice
