"""OpenAI's form of tools before there were tools: ``functions`` and ``function_call``, in requests and messages.

An answer holds one call there, a call has no id, and a result names its function.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unisono.errors import shown
from unisono.server.errors import invalid
from unisono.server.fields import contradiction, unsupported

FUNCTIONS, CALL, ROLE = "functions", "function_call", "function"
WORDS = ("none", "auto")


def with_tools(given: Mapping[str, Any], *, strict: bool) -> dict[str, Any]:
    """A chat's fields with its functions as tools, and with what is to be called of them.

    The field ``functions`` stays, which says in what form an answer is. Raises a `Refusal` where tools are given, too.
    """
    functions, choice = given.get(FUNCTIONS), given.get(CALL)
    rest = {name: value for name, value in given.items() if name not in (FUNCTIONS, CALL)}
    if not isinstance(functions, list | None):
        return dict(given)  # which is refused as any field of another type
    if not functions:
        if choice is not None and choice not in WORDS:
            raise invalid(CALL, f"{CALL} is {shown(choice)}, but there are no functions")
        return rest
    if strict:
        raise unsupported(FUNCTIONS, functions, "it is deprecated: use tools")
    if rest.get("tools") is not None:
        raise contradiction(FUNCTIONS, functions, "tools", rest["tools"])
    named = isinstance(choice, dict) and choice.keys() == {"name"}
    if not named and choice is not None and choice not in WORDS:
        raise invalid(CALL, f'{CALL} is {shown(choice)}: write "none", "auto" or {{"name": …}}')
    tools = [{"type": "function", "function": function} for function in functions]
    chosen = {"type": "function", "function": choice} if named else choice
    if chosen is not None and rest.get("tool_choice") not in (None, chosen):
        raise contradiction(CALL, choice, "tool_choice", rest["tool_choice"])
    more = {} if chosen is None else {"tool_choice": chosen}
    return {**rest, FUNCTIONS: functions, "tools": tools, "parallel_tool_calls": False, **more}


def with_calls(message: Any) -> Any:
    """A past message with its call as a tool's, without an id, and a function's result as a tool's."""
    if not isinstance(message, dict):
        return message
    if message.get("role") == ROLE:
        return {**message, "role": "tool"}
    call, calls = message.get(CALL), message.get("tool_calls") or []
    if message.get("role") != "assistant" or not isinstance(call, dict) or not call:
        return message
    rest = {key: value for key, value in message.items() if key != CALL}
    if not calls:
        return {**rest, "tool_calls": [{"type": "function", "function": call}]}
    known = [each.get("function") for each in calls if isinstance(each, dict)] if isinstance(calls, list) else []
    return rest if call in known else message
