"""The tools that an answer may call, and what a function may be named.

Their shape is that of OpenAI's chat API.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict

from unisono.chat.json_values import is_list, plain_value
from unisono.config.compact import known_keys
from unisono.errors import SpecError, shown

LONGEST_TOOL_NAME = 128
_TOOL_HINT = 'each tool is {"type": "function", "function": {"name": "…", "description": "…", "parameters": {…}}}'


class FunctionTool(TypedDict):
    """The function of a tool."""

    name: str
    description: NotRequired[str]
    parameters: NotRequired[Mapping[str, Any]]
    """A JSON schema of an object; absent for no parameters."""
    strict: NotRequired[bool | None]
    """On the server, whether a grammar enforces the schema in a free answer."""


class Tool(TypedDict):
    """A tool that an answer may call, in the shape of OpenAI's chat API."""

    type: Literal["function"]
    function: FunctionTool


class _Checked(tuple[Any, ...]):
    """Tools that were found right: a prompt that is made of another one does not look at them again."""


def checked_tools(tools: object, called: str = "tool {}", first: int = 1) -> tuple[Tool, ...]:
    """Return the tools, made of plain lists and mappings, when their shapes are right.

    Raises a `SpecError`, which names a tool as ``called``, by its number; the ``first`` has that one.
    """
    if isinstance(tools, _Checked):
        return tools
    if not is_list(tools):
        raise SpecError(f"tools is {type(tools).__name__}, not a list of tools", hint=_TOOL_HINT)
    if not tools:
        raise SpecError("tools is empty", hint="leave it out, or name a function")
    checked = _Checked(_checked_tool(called.format(number), tool) for number, tool in enumerate(tools, first))
    names = set[str]()
    for number, tool in enumerate(checked, first):
        if (name := tool["function"]["name"]) in names:
            words = f"{called.format(number)} has the name of an earlier one, {name!r}"
            raise SpecError(words, hint="rename one of them")
        names.add(name)
    return checked


def _checked_tool(what: str, tool: object) -> Tool:
    function = function_of(tool)
    if not isinstance(tool, Mapping) or function is None:
        raise SpecError(f"{what} is {shown(tool)}, not a function", hint=_TOOL_HINT)
    known_keys(what, tool, ("type", "function"))
    known_keys(f"the function of {what}", function, ("name", "description", "parameters", "strict"))
    check_tool_name(what, function.get("name"))
    if not isinstance(function.get("description", ""), str):
        raise SpecError(f"the description of {what} is {shown(function['description'])}", hint="give text")
    if not isinstance(function.get("strict"), bool | None):
        raise SpecError(f"strict of {what} is {shown(function['strict'])}", hint="true or false")
    parameters = function.get("parameters", {})
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        raise SpecError(
            f"the parameters of {what} are {shown(parameters)}",
            hint="give the JSON schema of an object, or leave them out",
        )
    plain: Tool = plain_value(f"{what} ({function['name']})", tool)
    return plain


def check_tool_name(what: str, name: object) -> None:
    if not isinstance(name, str) or not is_tool_name(name):
        raise SpecError(
            f"{what} has the name {shown(name)}",
            hint=f"a name is up to {LONGEST_TOOL_NAME} letters (of any script), digits and the characters _ - . / :",
        )


def is_tool_name(name: str) -> bool:
    """Whether a tool may have a name: OpenAI's, those of the Model Context Protocol (SEP-986), which have dots and
    slashes, and those of any script, whose vowels and accents may be marks of their own (category M of Unicode).
    """
    known = all(character in "_./:-" or unicodedata.category(character)[0] in "LMN" for character in name)
    return known and 0 < len(name) <= LONGEST_TOOL_NAME


def function_of(record: object) -> Mapping[str, Any] | None:
    """The function of a tool, or of a call."""
    function = record.get("function") if isinstance(record, Mapping) and record.get("type") == "function" else None
    return function if isinstance(function, Mapping) else None
