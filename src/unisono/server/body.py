"""Read a request's body: bytes, within the server's limits, into a checked record; and the messages of a chat.

What becomes of the fields that no record has, `fields` says.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from unisono.chat.messages import RESERVED, Message
from unisono.config.compact import unique_keys
from unisono.errors import nearest, shown
from unisono.server.errors import Refusal
from unisono.server.fields import NAMES_OF_ONE, OF_MESSAGES, Field, read_fields, unsupported
from unisono.server.limits import ServerLimits
from unisono.server.schemas import ROLES, TEXT_PART, Record

R = TypeVar("R", bound=Record)

JSON = "application/json"


KEYS = ("content", "tool_calls", "tool_call_id", "name")
"""The other keys of a message, beside its role."""
TEXT_KEYS = ("type", "text")
"""The keys of a part of a message. Others, such as ``cache_control``, are for other servers."""
CALL_KEYS = ("id", "type", "function", "custom")
FUNCTION_KEYS = ("name", "arguments")
"""The keys of a past call and its function. Others, such as ``parsed_arguments`` of openai's ``parse``, repeat them."""
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
    """Whether a body has more values than a number. Token ids of a prompt do not count: its tokens have a limit."""
    count, inside = 0, [list(body.values())]
    if isinstance(prompt := body.get("prompt"), list):
        ids = [each for each in (prompt, *prompt) if isinstance(each, list) and all(type(id_) is int for id_ in each)]
        count -= sum(map(len, ids))
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


def read_record(record: type[R], body: Mapping[str, Any], table: Mapping[str, Field], *, strict: bool = False) -> R:
    """Validate a request's body. Raises a `Refusal` that names the first wrong, unknown or unsupported field."""
    given = read_fields(body, table, strict=strict)
    if not strict and isinstance(given.get("tools"), list):
        given = {**given, "tools": [_plain_tool(tool) for tool in given["tools"]]}
    try:
        return record.model_validate(given)
    except ValidationError as error:
        known = [*record.model_fields, *(name for names in NAMES_OF_ONE for name in names), *table]
        raise explained(error, given, known) from None


def _plain_tool(given: Any) -> Any:
    """A tool without what clients add beside its function (``cache_control`` …), which no template is given."""
    if not isinstance(given, dict) or not isinstance(given.get("function"), dict):
        return given
    return {key: value for key, value in given.items() if key in ("type", "function")}


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
        unknown = f"unknown field {shown(name)}" + (nearest(key, known) if len(path) == 1 else "")
        said = f"{name} is given, but has no place there" if key in known else unknown
        return Refusal(400, said, param=name, code="unknown_field")
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


def read_messages(given: Sequence[Any], *, strict: bool = False) -> tuple[Message, ...]:
    """Validate a conversation. Raises a `Refusal` that names the message and its field.

    A key that is not OpenAI's, and a speaker's name, go to the members' templates as they are, which read them or not;
    ``strict`` refuses what is unknown, and names that a template does not write.
    """
    return tuple(_read_message(message, f"messages[{number}]", strict) for number, message in enumerate(given))


def _read_message(given: Any, name: str, strict: bool) -> Message:
    if not isinstance(given, dict):
        raise Refusal(400, f"{name} is {shown(given)}, not an object", param=name, code="invalid_value")
    role = given.get("role")
    if not isinstance(role, str) or role not in ROLES:
        near = nearest(role, ROLES) if isinstance(role, str) else ""
        words = f"{name}.role is {shown(role)}{near}; known: {', '.join(ROLES)}"
        raise Refusal(400, words, param=f"{name}.role", code="invalid_value")
    message, extra = _split(given, name, strict)
    if isinstance(message.get("content"), list):
        parts = enumerate(message["content"])
        message["content"] = "".join(_read_part(part, f"{name}.content[{number}]", strict) for number, part in parts)
    if not strict and role == "tool" and message.get("content") is None:
        message["content"] = ""
    called = message.pop("name", None) if role == "tool" else None
    try:
        ROLES[role].validate_python([message])
    except ValidationError as error:
        raise explained(error, message, list(KEYS), name, 1) from None
    if message.get("content") is None and not message.get("tool_calls"):
        if strict or role != "assistant" or ("content" not in message and not extra):
            raise Refusal(400, f"{name}.content is missing", param=f"{name}.content", code="missing_field")
        message["content"] = ""  # an answer that was empty
    if called not in (None, ""):
        message["name"] = called
    elif not strict and "name" in message:
        extra["name"] = message.pop("name")
    keys = {key: message[key] for key in KEYS if message.get(key) is not None}
    further = {"extra": extra} if extra else {}
    return cast(Message, {"role": "system" if role in SYSTEM else role, **keys, **further})


def _split(given: dict[str, Any], name: str, strict: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """A message without what says nothing, and its further keys."""
    for key, field in OF_MESSAGES.items():
        if given.get(key) is not None and given[key] not in field.neutral:
            raise unsupported(f"{name}.{key}", given[key], field.why)
    message = {key: value for key, value in given.items() if value is not None or key == "content"}
    extra: dict[str, Any] = {}
    for key in () if strict else [key for key in message if key not in ("role", *KEYS)]:
        value = message.pop(key)
        if key not in OF_MESSAGES and key not in RESERVED:
            extra[key] = value
    if not strict and message.get("tool_calls") == []:
        del message["tool_calls"]
    if not strict and isinstance(message.get("tool_calls"), list):
        message["tool_calls"] = [_plain_call(call) for call in message["tool_calls"]]
    return message, extra


def _plain_call(given: Any) -> Any:
    """A past call without the keys that clients add to it."""
    if not isinstance(given, dict):
        return given
    call = {key: value for key, value in given.items() if key in CALL_KEYS and value is not None}
    if isinstance(call.get("function"), dict):
        call["function"] = {key: value for key, value in call["function"].items() if key in FUNCTION_KEYS}
        if call["function"].get("arguments") in ("", None):
            call["function"]["arguments"] = "{}"
        call.setdefault("type", "function")
    return call


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
