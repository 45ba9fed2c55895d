"""The values of a request's fields as they were meant, where clients write them in another way.

Whole numbers with a point, what is empty for what is absent, and the forms of other APIs than OpenAI's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from unisono.config.constraint import BYTE_ORDER_MARK
from unisono.constraints.json_schema import NULLABLE, plain_schema
from unisono.errors import nearest, shown
from unisono.server.errors import Refusal, invalid
from unisono.server.fields import NAMES_OF_ONE, STOPS, contradiction
from unisono.server.json_size import is_deeper
from unisono.user_files import short_float, unique_keys

TOOL_KEYS = ("name", "description", "parameters", "strict")
"""The keys of a tool's function."""
SCHEMA_KEYS = ("input_schema", "inputSchema")
"""What other APIs call its parameters."""
CHOICES = {"auto": "auto", "none": "none", "required": "required", "any": "required"}
"""The types of choices that are a word here."""
ALONE = "disable_parallel_tool_use"
ALLOWED = "allowed_tools"
"""The type of a choice among some of the tools, which OpenAI nests under this name in chats, and not in responses."""
LABELS = ("name", "description", "strict")
FORMAT_KEYS = (*LABELS, "schema")
"""The keys of a format's ``json_schema``."""
OBJECTS = ("logit_bias", "chat_template_kwargs", "stream_options", "metadata")
"""Fields that are no list. PHP writes an empty object as one."""
RECORDS = ("reasoning", "stream_options", "thinking", "unisono")
"""Fields whose keys are options, too: null stands for leaving one out."""
EMPTY = (
    *("reasoning_effort", "tool_choice", "response_format", "previous_response_id"),
    *("regex", "guided_regex", "json_schema", "guided_json", "guided_grammar"),
)
"""Fields that ask for nothing where they are empty text."""
LOGGED = ("user", "safety_identifier")
"""Fields that only the log has."""
COUNTED = ("prompt", "tokens", "stop_token_ids", "unisono", "stream_options", "reasoning", "thinking")
"""Fields within which there are whole numbers."""
_NUMBERS = (
    *("max_tokens", "min_tokens", "temperature", "top_p", "top_k", "min_p", "typical_p", "n", "seed"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty", "top_logprobs", "truncation_length"),
)
_SWITCHES = ("stream", "echo", "logprobs", "parallel_tool_calls", "ignore_eos")
NUMBERS, SWITCHES = (
    frozenset(known).union(*(names for names in NAMES_OF_ONE if names[0] in known)) for known in (_NUMBERS, _SWITCHES)
)
"""Fields that are a number, by all their names, of which settings in text and PHP make a text; true or false."""
NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,399})(\.[0-9]{1,400})?")  # as JSON writes it
FORBIDDEN = -100.0
"""The bias of what is not to be chosen, as in OpenAI's API."""


def plain_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a body, without those that ask for nothing. Raises a `Refusal` where two contradict."""
    plain = {name: _plain(name, value) for name, value in _one_call(dict(body)).items()}
    given = {name: value for name, value in plain.items() if value is not None}
    if isinstance(given.get("tools"), list):
        given["tools"] = [plain_tool(tool, f"tools[{number}]") for number, tool in enumerate(given["tools"])]
        names = [tool["function"].get("name") for tool in given["tools"] if _is_function(tool)]
        choice = given.get("tool_choice")
        if isinstance(choice, str) and choice not in CHOICES and choice in names:
            given["tool_choice"] = {"type": "function", "function": {"name": choice}}  # TGI's form
    return given


def _is_function(tool: Any) -> bool:
    return isinstance(tool, dict) and isinstance(tool.get("function"), dict)


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
    if isinstance(value, str):
        value = _unquoted(name, value)
    if isinstance(value, float) or name in COUNTED:
        value = _whole(value)
    if (value == [] and name in OBJECTS) or (value == "" and name in (*EMPTY, *LOGGED)):
        return None
    if name == "thinking" and isinstance(value, bool):
        return {"type": "enabled" if value else "disabled"}
    if name in STOPS and isinstance(value, list):
        return [each for each in value if each is not None]
    if name == "metadata" and isinstance(value, dict):
        pairs = ((key, each) for key, each in value.items() if each is not None)
        return {key: each if isinstance(each, str) else json.dumps(each, ensure_ascii=False) for key, each in pairs}
    if name == "reasoning_effort" and value == "default":  # Groq's
        return None
    if name == "logit_bias":
        return _plain_bias(value)
    if name in RECORDS and isinstance(value, dict):
        return {key: each for key, each in value.items() if each is not None}
    if name == "tool_choice":
        return _plain_choice(value)
    if name == "response_format" and isinstance(value, str):
        return _plain_format({"type": value})
    if name in LOGGED and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if name == "response_format" and isinstance(value, dict):
        return _plain_format(value)
    return value


def _unquoted(name: str, text: str) -> Any:
    """A number, or what is true or false, that is written as text."""
    is_known = (name in NUMBERS and NUMBER.fullmatch(text)) or (name in SWITCHES and text in ("true", "false"))
    return json.loads(text, parse_float=short_float) if is_known else text


def _plain_bias(given: Any) -> Any:
    """A bias by ids, where it is in llama.cpp's form: pairs of an id and its bias, of which false forbids it."""
    pairs = given.items() if isinstance(given, dict) else given if isinstance(given, list) else None
    if pairs is None or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        return given
    plain: dict[str, Any] = {}
    for token, bias in pairs:
        if isinstance(given, list) and isinstance(token, str):
            words = f"logit_bias holds {shown([token, bias])}, in which {shown(token)} is a text, as in llama.cpp"
            raise invalid("logit_bias", f"{words}: give ids, as numbers; /v1/pieces lists those of a text")
        wanted, key = FORBIDDEN if bias is False else bias, token if isinstance(token, str) else json.dumps(token)
        wanted = json.loads(wanted) if isinstance(wanted, str) and NUMBER.fullmatch(wanted) else wanted
        if plain.setdefault(key, wanted) != wanted:
            raise invalid("logit_bias", f"logit_bias has {shown(token)} twice, with different values: leave one out")
    return plain


def _plain_format(given: dict[str, Any]) -> dict[str, Any] | None:
    """A format without nulls, and with a name for its schema, which is a label."""
    plain = {key: value for key, value in given.items() if value is not None}
    if plain.get("type") in ("text", "json_object") and "schema" not in plain:
        plain = {key: value for key, value in plain.items() if key not in LABELS}
    if plain.get("type") == "regex" and "regex" not in plain:
        found = next((key for key in ("value", "pattern") if key in plain), None)  # TGI's form
        plain = plain if found is None else {"type": "regex", "regex": plain[found]}
    if plain == {"type": "json"}:
        return {"type": "json_object"}
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
    for holder in (plain, plain.get("json_schema")):
        if isinstance(holder, dict) and "schema" in holder:
            holder["schema"] = plain_schema(_parsed(holder["schema"]))
    return plain or None


def _parsed(schema: Any) -> Any:
    """A schema that is given as the text of its JSON."""
    try:
        text = schema.removeprefix(BYTE_ORDER_MARK) if isinstance(schema, str) else None
        found = schema if text is None else json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError):
        return schema  # which is refused as text
    return found if isinstance(found, dict) and not is_deeper(found) else schema


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
    if not given:
        return None
    if "type" not in given and given.keys() in ({"function"}, {"name"}):
        given = {"type": "function", **given}
    kind = given.get("type")
    if kind == "function" and len(given) == 1:
        words = 'tool_choice has no function: write {"type": "function", "function": {"name": …}}'
        raise Refusal(400, words, param="tool_choice.function", code="missing_field")
    if isinstance(kind, str) and kind in CHOICES and len(given) == 1:
        return CHOICES[kind]
    if kind == "function" and isinstance(given.get("function"), str) and len(given) == 2:
        return {"type": "function", "function": {"name": given["function"]}}
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
    if key is not None:
        its, schema = function.get("parameters"), _plain_parameters(function[key])
        if its is None or _plain_parameters(its) == schema:
            function["parameters"] = schema
            del function[key]
    return {"type": "function", "function": function}


def _plain_parameters(given: Any) -> Any:
    """The schema of a function's arguments, which are an object: PHP writes an empty one as a list."""
    if not isinstance(given, dict):
        return {} if given == [] else given
    return plain_schema({word: value for word, value in given.items() if word not in NULLABLE})


def plain_tool(given: Any, name: str) -> Any:
    """A tool without what clients add to it and its function (``cache_control`` …), which no template is given.

    Raises a `Refusal` for a key that seems to be meant for one that is missing, or says something else than another.
    """
    given = _nested(given)
    if not isinstance(given, dict) or not isinstance(given.get("function"), dict):
        return given
    function = {key: value for key, value in given["function"].items() if key in TOOL_KEYS and value is not None}
    if "parameters" in function:
        function["parameters"] = _plain_parameters(function["parameters"])
    for key in TOOL_KEYS:  # some clients write a part of the function beside it
        beside = _plain_parameters(given.get(key)) if key == "parameters" else given.get(key)
        if beside is not None and function.setdefault(key, beside) != beside:
            words = (
                f"{name}.{key} is {shown(beside)}, and {name}.function.{key} is {shown(function[key])}: leave one out"
            )
            raise Refusal(400, words, param=f"{name}.{key}", code="invalid_value")
    missing = [key for key in TOOL_KEYS if key not in function]
    for key in sorted(given["function"].keys() - set(TOOL_KEYS)):
        path = f"{name}.function.{key}"
        its = _plain_parameters(given["function"][key]) if key in SCHEMA_KEYS else None
        if its is not None and function.get("parameters", its) != its:
            words = f"{path} and {name}.function.parameters are two schemas of one function: leave one out"
            raise Refusal(400, words, param=path, code="invalid_value")
        meant = "parameters" if key in SCHEMA_KEYS or nearest(key, SCHEMA_KEYS) else key
        if near := nearest(meant, missing):
            raise Refusal(400, f"unknown field {shown(path)}{near}", param=path, code="unknown_field")
    return {"type": given.get("type") or "function", "function": function}
