"""Read a request's body: bytes, within the server's limits, into a checked record; and the messages of a chat.

Fields of the OpenAI API that are not supported are refused by name, with the reason; values that ask for nothing pass.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from unisono.chat.messages import Message
from unisono.config.compact import unique_keys
from unisono.errors import nearest, shown
from unisono.server.errors import Refusal
from unisono.server.limits import ServerLimits
from unisono.server.schemas import ROLES, TEXT_PART, Record

R = TypeVar("R", bound=Record)

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class UnsupportedField:
    """A field that is refused, and why."""

    why: str
    neutral: tuple[object, ...] = ()
    """Values, beside null, that are accepted because they change nothing."""


STORED = "nothing is stored here"
CACHED = "prompts that begin alike are read once without being asked to, and kept as long as slots are free"
REFUSED_IN_CHATS: dict[str, UnsupportedField] = {
    "audio": UnsupportedField("answers are text"),
    "modalities": UnsupportedField("answers are text", (["text"],)),
    "function_call": UnsupportedField("it is deprecated: use tools and tool_choice", ("none",)),
    "functions": UnsupportedField("it is deprecated: use tools", ([],)),
    "metadata": UnsupportedField(STORED, ({},)),
    "store": UnsupportedField(STORED, (False,)),
    "moderation": UnsupportedField("nothing is moderated here"),
    "prediction": UnsupportedField("nothing is predicted for a request; to draft, use unisono.speculate"),
    "prompt_cache_key": UnsupportedField(CACHED),
    "prompt_cache_options": UnsupportedField(CACHED),
    "prompt_cache_retention": UnsupportedField(CACHED),
    "reasoning_effort": UnsupportedField("models write as their templates let them", ("none",)),
    "service_tier": UnsupportedField(
        "all requests are served alike, in the order in which they come", ("auto", "default")
    ),
    "verbosity": UnsupportedField("models write as much as they do", ("medium",)),
    "web_search_options": UnsupportedField("nothing is searched for"),
}
REFUSED_IN_COMPLETIONS: dict[str, UnsupportedField] = {
    "best_of": UnsupportedField("ask for n texts and choose", (1,)),
    "suffix": UnsupportedField("texts are continued, not filled in", ("",)),
}
REFUSED_IN_MESSAGES = {
    "audio": "messages are text",
    "refusal": "write it as content",
    "function_call": "it is deprecated: use tool_calls",
    "prompt_cache_breakpoint": "prompts that begin alike are read once without being asked to",
}
KEYS = ("content", "tool_calls", "tool_call_id", "name")
"""The other keys of a message, beside its role."""
SYSTEM = ("system", "developer")
"""Roles that chat templates call ``system``."""


async def read_body(headers: Mapping[str, str], chunks: AsyncIterator[bytes], limits: ServerLimits) -> dict[str, Any]:
    """Read a JSON object, which has to be declared as JSON: browsers send that to another site only with permission.

    Raises:
        Refusal: the body is too large, too slow, of another type, or not a JSON object.
    """
    declared = headers.get("content-type", "")
    if declared.partition(";")[0].strip().lower() != JSON:
        words = f"the content-type is {shown(declared)}: send JSON, declared as {JSON}"
        raise Refusal(415, words, code="unsupported_media_type")
    length = headers.get("content-length", "")
    if length.isdigit() and int(length) > limits.body:
        raise _too_large(limits.body)
    try:
        async with asyncio.timeout(limits.reading):
            data = bytearray()
            async for chunk in chunks:
                data += chunk
                if len(data) > limits.body:
                    raise _too_large(limits.body)
    except TimeoutError:
        words = f"the request did not arrive within {limits.reading:g} seconds"
        raise Refusal(408, words, code="request_timeout") from None
    body = parse(data)
    if _is_more(body, limits.values):
        words = f"the request has more than {limits.values} values, which is what this server takes"
        raise Refusal(413, words, code="too_large")
    return body


def parse(data: bytes | bytearray) -> dict[str, Any]:
    """Read a JSON object strictly: UTF-8, no duplicate keys, no NaN. Raises a `Refusal`."""
    try:
        body = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise _no_json(f"it is not UTF-8, at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise _no_json(f"{error.msg} at character {error.pos}") from None
    except RecursionError:
        raise _no_json("it is nested too deeply") from None
    except ValueError:
        raise _no_json("it has a number that is too long") from None
    if not isinstance(body, dict):
        raise _no_json(f"it is {shown(body)}, not an object")
    return body


def _is_more(body: dict[str, Any], most: int) -> bool:
    count, inside = 0, [list(body.values())]
    while inside and count <= most:
        values = inside.pop()
        count += len(values)
        inside += [each for each in values if isinstance(each, list)]
        inside += [[*each.values()] for each in values if isinstance(each, dict)]
    return count > most


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"the request has more than {most} bytes, which is what this server takes", code="too_large")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    try:
        return unique_keys(pairs)
    except ValueError as error:
        raise _no_json(f"{error} in an object") from None


def _refuse_constant(name: str) -> Any:
    raise _no_json(f"{name} is no number of JSON")


def _no_json(why: str) -> Refusal:
    return Refusal(400, f"the body cannot be read as JSON: {why}", code="invalid_json")


def read_record(record: type[R], body: Mapping[str, Any], refused: Mapping[str, UnsupportedField]) -> R:
    """Validate a request's body. Raises a `Refusal` that names the first wrong, unknown or unsupported field."""
    given = dict(body)
    for name, field in refused.items():
        value = given.pop(name, None)
        if value is not None and (type(value), value) not in [(type(each), each) for each in field.neutral]:
            raise unsupported(name, value, field.why)
    try:
        return record.model_validate(given)
    except ValidationError as error:
        raise explained(error, given, [*record.model_fields, *refused]) from None


def unsupported(name: str, value: object, why: str) -> Refusal:
    return Refusal(400, f"{name} is {shown(value)}, which is not supported: {why}", param=name, code="unsupported")


def explained(error: ValidationError, given: object, known: list[str], within: str = "", depth: int = 0) -> Refusal:
    """Turn the first of pydantic's errors into a refusal.

    ``within`` precedes the field's name; ``depth`` is that of the record in ``given``.
    """
    problems = error.errors(include_url=False, include_context=False)
    problems.sort(key=lambda each: each["type"] != "literal_error")  # a wrong kind explains the other errors
    paths = [_path(each["loc"][depth:], given, lacks=each["type"] == "missing") for each in problems]
    # Of a union, the type that came closest counts.
    path = max((each for each in paths if each[: len(paths[0])] == paths[0]), key=len)
    first = problems[paths.index(path)]
    name = _named(path, within)
    if first["type"] == "extra_forbidden":
        key = str(path[-1])
        near = nearest(key, known) if len(path) == 1 else ""
        return Refusal(400, f"unknown field {shown(name)}{near}", param=name, code="unknown_field")
    if first["type"] == "missing":
        return Refusal(400, f"the field {name!r} is missing", param=name, code="missing_field")
    messages = (each["msg"] for each, its in zip(problems, paths, strict=True) if its == path)
    words = dict.fromkeys(message[:1].lower() + message[1:] for message in messages)
    return Refusal(400, f"{name} is {shown(first['input'])}: {', or '.join(words)}", param=name, code="invalid_value")


def _path(loc: tuple[int | str, ...], given: Any, *, lacks: bool) -> tuple[int | str, ...]:
    path: list[int | str] = []
    for place, step in enumerate(loc):
        inside = isinstance(given, Mapping) and step in given
        if inside or (isinstance(given, list) and isinstance(step, int) and step < len(given)):
            given = given[step]
            path.append(step)
        elif lacks and isinstance(given, Mapping) and place == len(loc) - 1:
            path.append(step)
    return tuple(path)


def _named(path: tuple[int | str, ...], within: str) -> str:
    name = within
    for step in path:
        name += f"[{step}]" if isinstance(step, int) else f".{step}" if name else step
    return name or "the body"


def read_messages(given: Sequence[Any]) -> tuple[Message, ...]:
    """Validate a conversation. Raises a `Refusal` that names the message and its field."""
    return tuple(_read_message(message, f"messages[{number}]") for number, message in enumerate(given))


def _read_message(given: Any, name: str) -> Message:
    if not isinstance(given, dict):
        raise Refusal(400, f"{name} is {shown(given)}, not an object", param=name, code="invalid_value")
    role = given.get("role")
    if not isinstance(role, str) or role not in ROLES:
        near = nearest(role, ROLES) if isinstance(role, str) else ""
        words = f"{name}.role is {shown(role)}{near}; known: {', '.join(ROLES)}"
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
    keys = {key: message[key] for key in KEYS if message.get(key) is not None}
    return cast(Message, {"role": "system" if role in SYSTEM else role, **keys})


def _read_part(given: Any, name: str) -> str:
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
