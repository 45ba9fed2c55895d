"""Read the messages of a chat: what clients add to them, and other forms of what they say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

from pydantic import ValidationError

from unisono.chat.json_values import read_arguments
from unisono.chat.messages import RESERVED, Message, checked_messages
from unisono.errors import SpecError, nearest, shown
from unisono.server.errors import Refusal, invalid, refusal_of
from unisono.server.field_tables import OF_MESSAGES
from unisono.server.fields import unsupported
from unisono.server.history import is_thought, plain_history
from unisono.server.invalid_fields import explained
from unisono.server.schemas import ROLES, TEXT_PART

KEYS = ("content", "tool_calls", "tool_call_id", "name")
"""The other keys of a message, beside its role."""
TEXT_KEYS = ("type", "text")
"""The keys of a part of a message. Others, such as ``cache_control``, are for other servers."""
CALL_KEYS = ("id", "type", "function", "custom")
FUNCTION_KEYS = ("name", "arguments")
"""The keys of a past call and its function. Others, such as ``parsed_arguments`` of openai's ``parse``, repeat them."""
PARTS = (
    *("text", "input_text", "output_text", "refusal", "thinking", "document", "file", "input_file"),
    *("image", "image_url", "input_image", "audio", "audio_url", "input_audio", "video", "video_url", "input_video"),
)
"""The types of parts in a tool's result. What has another type is a value of the tool."""
THOUGHTS = ("thinking", "reasoning", "text", "summary")
"""The keys of a part that was reasoned, of which one has its text."""
CONTINUING = ("prefix", "partial")
"""Keys by which some servers (DeepSeek, Mistral; Moonshot) are asked to continue the last message."""
SYSTEM = ("system", "developer")
"""Roles that chat templates call ``system``."""


def read_messages(
    given: Sequence[Any], *, strict: bool = False, names: Sequence[str] | None = None
) -> tuple[Message, ...]:
    """Validate a conversation. Raises a `Refusal` that names the message and its field.

    ``names`` are what messages are called, by default by their numbers. A key that is not OpenAI's, and a speaker's
    name, go to the members' templates as they are, which read them or not; ``strict`` refuses what is unknown, and
    names that a template does not write.
    """
    names = names or [f"messages[{number}]" for number in range(len(given))]
    numbered = list(zip(names, given, strict=True))
    named = numbered if strict else plain_history(numbered)
    read = tuple(_read_message(message, name, strict) for name, message in named)
    if strict and not read[-1].get("content") and read[-1]["role"] != "tool":
        raise Refusal(
            400, "the last message is empty: give some text to answer", param="messages", code="invalid_prompt"
        )
    try:
        return checked_messages(read, open_calls=not strict, names=[name for name, _ in named])
    except SpecError as error:
        raise refusal_of(error, param="messages") from None


def _read_message(given: Any, name: str, strict: bool) -> Message:
    if not isinstance(given, dict):
        raise Refusal(400, f"{name} is {shown(given)}, not an object", param=name, code="invalid_value")
    role = given.get("role")
    if not isinstance(role, str) or role not in ROLES:
        near = nearest(role, ROLES) if isinstance(role, str) else ""
        words = f"{name}.role is {shown(role)}{near}; known: {', '.join(ROLES)}"
        raise Refusal(400, words, param=f"{name}.role", code="invalid_value")
    message, extra = _split(given, name, strict)
    if not strict and "content" in message:
        message["content"] = plain_content(role, message["content"])
    _check_forms(message, name)
    if role == "assistant" and not strict:
        _take_thoughts(message, extra)
    if isinstance(message.get("content"), list):
        parts = [part if strict else _said(part) for part in message["content"]]
        texts = (_read_part(part, f"{name}.content[{number}]", strict) for number, part in enumerate(parts))
        message["content"] = "".join(texts)
    empty = role == "tool" or (role in (*SYSTEM, "user") and "content" in message)
    if not strict and empty and message.get("content") is None:
        message["content"] = ""
    called = message.pop("name", None) if role == "tool" else None
    calls: Any = message.get("tool_calls")
    for number, call in enumerate(calls if strict and isinstance(calls, list) else ()):
        _check_arguments(call, f"{name}.tool_calls[{number}].function.arguments")
    try:
        ROLES[role].validate_python([message])
    except ValidationError as error:
        raise explained(error, message, list(KEYS), name, 1) from None
    if message.get("content") is None and not message.get("tool_calls"):
        if strict or role != "assistant":
            raise Refusal(400, f"{name}.content is missing", param=f"{name}.content", code="missing_field")
        message["content"] = ""  # an answer that was empty
    if called not in (None, ""):
        message["name"] = called
    elif not strict and "name" in message:
        extra["name"] = message.pop("name")
    keys = {key: message[key] for key in KEYS if message.get(key) is not None}
    further = {"extra": extra} if extra else {}
    return cast(Message, {"role": "system" if role in SYSTEM else role, **keys, **further})


def plain_content(role: str, given: Any) -> Any:
    """A message's content as text or parts: one part alone, lists of parts in a list, and a tool's value of JSON."""
    if _is_part(role, given):
        return [given]
    if isinstance(given, list) and any(isinstance(each, list) for each in given):
        flat = [part for each in given for part in (each if isinstance(each, list) else [each])]
        given = flat if all(_is_part(role, part) for part in flat) else given
    if role != "tool" or given is None or isinstance(given, str):
        return given
    if isinstance(given, list) and all(part is None or isinstance(part, str) or _is_part(role, part) for part in given):
        return given
    return json.dumps(given, ensure_ascii=False)


def _is_part(role: str, given: Any) -> bool:
    """Whether a value is a part of a content: it has nothing but text, or a type; a tool's values may have one, too."""
    if not isinstance(given, dict) or given.keys() == {"text"}:
        return isinstance(given, dict)
    kind = given.get("type")
    return isinstance(kind, str) and (role != "tool" or kind in PARTS)


def _check_forms(message: dict[str, Any], name: str) -> None:
    """Refuse what openai's types let pass, for they are checked when somebody iterates over it."""
    content, calls = message.get("content"), message.get("tool_calls")
    if not isinstance(content, str | list | None):
        more = ", such as the object as JSON" if isinstance(content, dict) else ""
        words = f"{name}.content is {shown(content)}: it must be text{more}, or a list of parts"
        raise invalid(f"{name}.content", words)
    if not isinstance(calls, list | None):
        raise invalid(f"{name}.tool_calls", f"{name}.tool_calls is {shown(calls)}: it must be a list of calls")


def _split(given: dict[str, Any], name: str, strict: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """A message without what says nothing, and its further keys."""
    given = given if strict else _with_refusal(given)
    for key, field in OF_MESSAGES.items():
        if field.asks(given.get(key)):
            raise unsupported(f"{name}.{key}", given[key], field.why)
    message = {key: value for key, value in given.items() if value is not None or key == "content"}
    extra: dict[str, Any] = {}
    for key in () if strict else [key for key in message if key not in ("role", *KEYS)]:
        value = message.pop(key)
        if key not in OF_MESSAGES and key not in RESERVED and (key not in CONTINUING or not isinstance(value, bool)):
            extra[key] = value
    if isinstance(extra.get("reasoning"), str):  # its name in vLLM's answers; templates read the other
        extra.setdefault("reasoning_content", extra["reasoning"])
    if not strict and type(message.get("tool_call_id")) is int:
        message["tool_call_id"] = str(message["tool_call_id"])
    if not strict and message.get("tool_calls") == []:
        del message["tool_calls"]
    if not strict and isinstance(message.get("tool_calls"), list):
        message["tool_calls"] = [_plain_call(call) for call in message["tool_calls"]]
    return message, extra


def _with_refusal(given: dict[str, Any]) -> dict[str, Any]:
    """A message whose refusal is its content where it has no other: it is what the assistant said."""
    said, content = given.get("refusal"), given.get("content")
    if given.get("role") != "assistant" or not isinstance(said, str) or content not in (None, "", [], said):
        return given
    return {**given, "content": said, "refusal": None}


def _plain_call(given: Any) -> Any:
    """A past call without the keys that clients add to it."""
    if not isinstance(given, dict):
        return given
    call = {key: value for key, value in given.items() if key in CALL_KEYS and value is not None}
    if isinstance(call.get("function"), dict):
        call["function"] = {key: value for key, value in call["function"].items() if key in FUNCTION_KEYS}
        arguments = call["function"].get("arguments")
        if arguments in ("", "null", None):
            call["function"]["arguments"] = "{}"
        elif isinstance(arguments, dict | list):
            call["function"]["arguments"] = json.dumps(arguments, ensure_ascii=False)
        call.setdefault("type", "function")
    if type(call.get("id")) is int:
        call["id"] = str(call["id"])
    return call


def _check_arguments(call: Any, name: str) -> None:
    """Refuse a past call whose arguments are text and no JSON of an object."""
    function = call.get("function") if isinstance(call, dict) else None
    arguments = function.get("arguments") if isinstance(function, dict) else None
    try:
        read_arguments(arguments if isinstance(arguments, str) else "{}")
    except ValueError as error:
        words = f"{name} is {shown(arguments)}, not the JSON of an object: {error}"
        raise Refusal(400, words, param=name, code="invalid_value") from None


def _take_thoughts(message: dict[str, Any], extra: dict[str, Any]) -> None:
    """Move the parts of a past answer that were reasoned, as Anthropic's and Mistral's clients keep them, apart."""
    parts = message.get("content")
    if not isinstance(parts, list) or not any(map(is_thought, parts)):
        return
    thoughts = [part for part in parts if is_thought(part)]
    message["content"] = [part for part in parts if not is_thought(part)] or ""
    texts = (next((part[key] for key in THOUGHTS if part.get(key)), "") for part in thoughts)
    if thought := "".join(_thought_of(text) for text in texts):
        extra.setdefault("reasoning_content", thought)


def _thought_of(given: Any) -> str:
    """A thought as text; Mistral has a list of parts there."""
    parts = given if isinstance(given, list) else [given]
    texts = (part.get("text") if isinstance(part, dict) else part for part in parts)
    return "".join(text for text in texts if isinstance(text, str))


def _said(part: Any) -> Any:
    """A part of a message's content, where a string, what other APIs call text, and a refusal are text."""
    if part is None or isinstance(part, str):
        return {"type": "text", "text": part or ""}
    if isinstance(part, dict) and part.get("type") in (None, "text") and "text" in part:
        return {**part, "type": "text", "text": "" if part["text"] is None else part["text"]}
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "refusal":
        return {"type": "text", "text": part.get("refusal")}
    return {**part, "type": "text"} if kind in ("input_text", "output_text") else part


def _read_part(given: Any, name: str, strict: bool) -> str:
    kind = given.get("type") if isinstance(given, dict) else None
    if kind != "text" and isinstance(kind, str):
        raise unsupported(f"{name}.type", kind, "messages are text")
    part = given
    if isinstance(given, dict):
        part = {key: value for key, value in given.items() if value is not None and (strict or key in TEXT_KEYS)}
    try:
        return str(TEXT_PART.validate_python([part])[0]["text"])
    except ValidationError as error:
        raise explained(error, part, list(TEXT_KEYS), name, 1) from None
