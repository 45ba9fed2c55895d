"""Read a request's body: bytes, within the server's limits, into a checked record.

What becomes of the fields that no record has, `fields` says; `messages` reads those of a chat.
"""

from __future__ import annotations

import asyncio
import json
import re
from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from unisono.config.compact import unique_keys
from unisono.errors import nearest, shown
from unisono.server.errors import Refusal, invalid
from unisono.server.fields import NAMES_OF_ONE, Field, contradiction, read_fields
from unisono.server.functions import FUNCTIONS, with_tools
from unisono.server.invalid_fields import explained
from unisono.server.limits import ServerLimits
from unisono.server.schemas import Record
from unisono.server.values import body_has_more
from unisono.user_files import short_float

R = TypeVar("R", bound=Record)

JSON = "application/json"
CHARSET = re.compile(r"""charset\s*=\s*["']?([^"';\s]+)""", re.IGNORECASE)
TOOL_KEYS = ("name", "description", "parameters", "strict")
"""The keys of a tool's function."""
SCHEMA_KEYS = ("input_schema", "inputSchema")
"""What other APIs call its parameters."""
CHOICES = {"auto": "auto", "none": "none", "required": "required", "any": "required"}
"""The types of choices that are a word here."""
ALONE = "disable_parallel_tool_use"
ALLOWED = "allowed_tools"
"""The type of a choice among some of the tools, which OpenAI nests under this name in chats, and not in responses."""
FORMAT_KEYS = ("name", "description", "strict", "schema")
"""The keys of a format's ``json_schema``."""
OBJECTS = ("logit_bias", "chat_template_kwargs", "stream_options", "metadata")
"""Fields that are no list. PHP writes an empty object as one."""
RECORDS = ("reasoning", "stream_options", "thinking", "unisono")
"""Fields whose keys are options, too: null stands for leaving one out."""
LOGGED = ("user", "safety_identifier")
"""Fields that only the log has."""
COUNTED = ("prompt", "stop_token_ids", "unisono", "stream_options", "reasoning", "thinking")
"""Fields within which there are whole numbers."""
FORBIDDEN = -100.0
"""The bias of what is not to be chosen, as in OpenAI's API."""
ASKED = {
    "messages": ("ChatRequest", "/v1/chat/completions"),
    "prompt": ("CompletionRequest", "/v1/completions"),
    "input": ("ResponseRequest", "/v1/responses"),
}
"""What the endpoints are asked with: by field, the name of the endpoint's record, and its path."""


async def read_body(headers: Mapping[str, str], chunks: AsyncIterator[bytes], limits: ServerLimits) -> dict[str, Any]:
    """Read a JSON object, which has to be declared as JSON: browsers send that to another site only with permission.

    Raises:
        Refusal: the body is too large, too slow, of another type, or not a JSON object.
    """
    declared = headers.get("content-type", "")
    if declared.partition(";")[0].strip().lower() != JSON:
        words = f"the content-type is {shown(declared)}: send JSON, declared as {JSON}"
        raise Refusal(415, words, code="unsupported_media_type")
    _check_coding(headers, declared)
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
    if not limits.strict:
        data = data.removeprefix(BOM_UTF8)  # which some clients on Windows write
    body = parse(data)
    if body_has_more(body, limits.values):
        words = f"the request has more than {limits.values} values, which is what this server takes"
        raise Refusal(413, words, code="too_large")
    return body


def _check_coding(headers: Mapping[str, str], declared: str) -> None:
    """Refuse a body that is said to be packed, or in another encoding than JSON's."""
    coding = headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity"):
        words = f"the content-encoding is {shown(coding)}: send the body as it is"
        raise Refusal(415, words, code="unsupported_media_type")
    charset = CHARSET.search(declared)
    if charset is not None and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        words = f"the charset is {shown(charset[1])}: JSON is sent in UTF-8"
        raise Refusal(415, words, code="unsupported_media_type")


def parse(data: bytes | bytearray) -> dict[str, Any]:
    """Read a JSON object strictly: UTF-8, no duplicate keys, no NaN. Raises a `Refusal`."""
    try:
        body = json.loads(
            data.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=short_float
        )
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
    _check_endpoint(record, body)
    given = read_fields(body, table, strict=strict)
    given = with_tools(given, strict=strict) if FUNCTIONS in record.model_fields else given
    given = given if strict else _one_call(given)
    given = given if strict else {name: _plain(name, value) for name, value in given.items()}
    given = {name: value for name, value in given.items() if value is not None}
    if not strict and isinstance(given.get("tools"), list):
        tools = [_plain_tool(tool, f"tools[{number}]") for number, tool in enumerate(given["tools"])]
        given = {**given, "tools": tools}
    try:
        return record.model_validate(given)
    except ValidationError as error:
        known = [*record.model_fields, *(name for names in NAMES_OF_ONE for name in names), *table]
        raise explained(error, given, known) from None


def _check_endpoint(record: type[Record], body: Mapping[str, Any]) -> None:
    """Refuse what another endpoint is asked with."""
    own = next((name for name, (its_record, _) in ASKED.items() if its_record == record.__name__), None)
    for other in ASKED:
        # A stored prompt of the Responses API is refused as that.
        if own not in (None, other) and (own, other) != ("input", "prompt") and body.get(other) is not None:
            words = f"{other} is for {ASKED[other][1]}, and {ASKED[own][1]} takes {own}: send {own}, or ask there"
            raise Refusal(400, words, param=other, code="unknown_field")


def _whole(value: Any, levels: int = 2) -> Any:
    """A value whose numbers are whole where they can be, down to some levels: JSON has one kind of numbers."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list) and levels and not all(type(each) is int or isinstance(each, str) for each in value):
        return [_whole(each, levels - 1) for each in value]
    if isinstance(value, dict) and levels:
        return {key: each if isinstance(each, dict | list) else _whole(each) for key, each in value.items()}
    return value


def _plain(name: str, value: Any) -> Any:
    """A field's value as it was meant where clients write it in another way."""
    if isinstance(value, float) or name in COUNTED:
        value = _whole(value)
    if (value == [] and name in OBJECTS) or (value == "" and name in ("reasoning_effort", *LOGGED)):
        return None
    if name == "reasoning_effort" and value == "default":  # Groq's
        return None
    if name == "logit_bias":
        return _plain_bias(value)
    if name in RECORDS and isinstance(value, dict):
        return {key: each for key, each in value.items() if each is not None}
    if name == "tool_choice":
        return _plain_choice(value)
    if name == "response_format" and isinstance(value, str):
        return {"type": value}
    if name in LOGGED and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if name == "response_format" and isinstance(value, dict):
        return _plain_format(value)
    return value


def _plain_bias(given: Any) -> Any:
    """A bias by ids, where it is in llama.cpp's form: pairs of an id and its bias, of which false forbids it."""
    pairs = given.items() if isinstance(given, dict) else given if isinstance(given, list) else None
    if pairs is None or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        return given
    plain: dict[str, Any] = {}
    for token, bias in pairs:
        wanted, key = FORBIDDEN if bias is False else bias, token if isinstance(token, str) else json.dumps(token)
        if plain.setdefault(key, wanted) != wanted:
            raise invalid("logit_bias", f"logit_bias has {shown(token)} twice, with different values: leave one out")
    return plain


def _plain_format(given: dict[str, Any]) -> dict[str, Any]:
    """A format without nulls, and with a name for its schema, which is a label."""
    plain = {key: value for key, value in given.items() if value is not None}
    if plain.get("type") in ("json", "json_object") and isinstance(plain.get("value"), dict) and len(plain) == 2:
        plain = {"type": "json_schema", "schema": plain["value"]}  # TGI's form
    if plain.get("type") == "json_schema" and "json_schema" not in plain and "schema" in plain:
        own = {key: plain.pop(key) for key in FORMAT_KEYS if key in plain}
        plain["json_schema"] = own  # the form of llama.cpp, and of the Responses API
    if plain.get("type") == "json_object" and "schema" not in plain and isinstance(plain.get("json_schema"), dict):
        plain["type"] = "json_schema"  # its schema is meant
    if isinstance(schema := plain.get("json_schema"), dict):
        named = {"name": "answer"} if "schema" in schema else {}
        plain["json_schema"] = named | {key: value for key, value in schema.items() if value is not None}
    return plain


def _one_call(given: dict[str, Any]) -> dict[str, Any]:
    """A body in which Anthropic's word for one call at a time, within the choice, is OpenAI's field."""
    choice = given.get("tool_choice")
    if not isinstance(choice, dict) or not isinstance(alone := choice.get(ALONE), bool):
        return given
    if given.get("parallel_tool_calls") is alone:
        raise contradiction("parallel_tool_calls", alone, f"tool_choice.{ALONE}", alone)
    rest = {key: value for key, value in choice.items() if key != ALONE}
    return {**given, "tool_choice": rest, "parallel_tool_calls": not alone}


def _plain_choice(given: Any) -> Any:
    """A choice of tools in OpenAI's form, where it is in Anthropic's or that of the Responses API."""
    if not isinstance(given, dict):
        return "required" if given == "any" else given  # Mistral's word
    kind = given.get("type")
    if isinstance(kind, str) and kind in CHOICES and len(given) == 1:
        return CHOICES[kind]
    if kind == ALLOWED and given.keys() <= {"type", "mode", "tools"}:
        return {"type": kind, kind: {key: value for key, value in given.items() if key != "type"}}
    if kind == ALLOWED and (unknown := sorted(given.keys() - {"type", ALLOWED})):
        path = f"tool_choice.{unknown[0]}"
        raise Refusal(400, f"unknown field {shown(path)}", param=path, code="unknown_field")
    if given.keys() == {"type", "name"} and kind in ("function", "tool"):
        return {"type": "function", "function": {"name": given["name"]}}
    return given


def _nested(given: Any) -> Any:
    """A tool in OpenAI's form, where its name stands beside its type: in that of the Responses API, or Anthropic's."""
    if not isinstance(given, dict) or "function" in given or not isinstance(given.get("name"), str):
        return given
    key = next((key for key in SCHEMA_KEYS if given.get(key) is not None), None)
    if given.get("type", "function") != "function" and (given["type"] != "custom" or key is None):
        return given
    function = {name: value for name, value in given.items() if name != "type"}
    if key is not None and function.get("parameters") in (None, function[key]):
        function["parameters"] = function.pop(key)
    return {"type": "function", "function": function}


def _plain_tool(given: Any, name: str) -> Any:
    """A tool without what clients add to it and its function (``cache_control`` …), which no template is given.

    Raises a `Refusal` for a key that seems to be meant for one that is missing, or says something else than another.
    """
    given = _nested(given)
    if not isinstance(given, dict) or not isinstance(given.get("function"), dict):
        return given
    function = {key: value for key, value in given["function"].items() if key in TOOL_KEYS and value is not None}
    for key in TOOL_KEYS:  # some clients write a part of the function beside it
        if (beside := given.get(key)) is not None and function.setdefault(key, beside) != beside:
            words = (
                f"{name}.{key} is {shown(beside)}, and {name}.function.{key} is {shown(function[key])}: leave one out"
            )
            raise Refusal(400, words, param=f"{name}.{key}", code="invalid_value")
    missing = [key for key in TOOL_KEYS if key not in function]
    for key in sorted(given["function"].keys() - set(TOOL_KEYS)):
        path = f"{name}.function.{key}"
        if key in SCHEMA_KEYS and given["function"][key] is not None and "parameters" in function:
            words = f"{path} and {name}.function.parameters are two schemas of one function: leave one out"
            raise Refusal(400, words, param=path, code="invalid_value")
        meant = "parameters" if key in SCHEMA_KEYS or nearest(key, SCHEMA_KEYS) else key
        if near := nearest(meant, missing):
            raise Refusal(400, f"unknown field {shown(path)}{near}", param=path, code="unknown_field")
    return {"type": given.get("type") or "function", "function": function}
