"""The tools of a response's request as functions of a chat, and calls of these as they were offered.

A namespace groups functions; a custom tool takes text. Models know functions alone: they are offered these by names of
their own, and what they call is told by the names that the request has. What no model here can call, such as a search
by the server, is left out beside other tools, and the answer's headers say so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unisono.errors import nearest, shown
from unisono.server.errors import Refusal, invalid
from unisono.server.fields import unsupported

Json = dict[str, Any]
FUNCTION, CUSTOM, NAMESPACE = "function", "custom", "namespace"
ELSEWHERE = (
    *("web_search", "web_search_preview", "file_search", "code_interpreter", "image_generation", "mcp"),
    *("computer", "computer_use", "computer_use_preview", "local_shell", "shell", "apply_patch", "tool_search"),
    "programmatic_tool_calling",
)
"""Tools that OpenAI's server runs, or that its models alone were taught to call."""
INPUT = "input"
"""The argument that is a custom tool's text."""
WHY = "functions, custom tools and namespaces of these can be called, by the client"


@dataclass(frozen=True, slots=True)
class Origin:
    """What a function was offered as."""

    path: str
    name: str
    namespace: str | None = None
    is_custom: bool = False


@dataclass(frozen=True, slots=True)
class OfferedTools:
    """The tools of a request."""

    functions: tuple[Json, ...] = ()
    """In a chat's form."""
    told: tuple[Json, ...] = ()
    """As the response repeats them: without those that are left out."""
    origins: Mapping[str, Origin] = field(default_factory=dict)
    """By the name of a function, what it was offered as."""
    left_out: tuple[str, ...] = ()
    """The types of the tools that are left out."""

    @property
    def paths(self) -> tuple[str, ...]:
        """By function, where it stands in the request."""
        return tuple(origin.path for origin in self.origins.values())

    def item(self, name: str, arguments: str) -> Json:
        """The keys of a call's item that say what is called."""
        origin = self.origins.get(name, Origin("", name))
        namespace = {} if origin.namespace is None else {"namespace": origin.namespace}
        if origin.is_custom:
            return {"type": "custom_tool_call", "name": origin.name, **namespace, INPUT: _input_of(arguments)}
        return {"type": "function_call", "name": origin.name, **namespace, "arguments": arguments}


def joined(namespace: Any, name: str) -> str:
    """The name by which a model calls a function of a namespace: as in ``mcp__server__tool``."""
    return f"{namespace.removesuffix('__')}__{name}" if isinstance(namespace, str) and namespace else name


def read_tools(tools: Sequence[Any] | None, *, strict: bool) -> OfferedTools:
    """Read the tools of a request. Raises a `Refusal` for one that is none, and where nothing is left to call."""
    functions, told, origins, left_out = [], [], {}, []
    for number, tool in enumerate(tools or ()):
        path = f"tools[{number}]"
        kind = tool.get("type", FUNCTION) if isinstance(tool, dict) else None
        if kind is None:
            raise invalid(path, f"{path} is {shown(tool)}: write an object")
        if kind in ELSEWHERE or _has_grammar(tool):
            if strict:
                raise unsupported(f"{path}.type", kind, WHY)
            left_out.append(str(kind))
            continue
        told.append(_told(tool) if kind == FUNCTION else tool)
        for function, origin in _offered(tool, path):
            inside = function.get(FUNCTION)
            name = inside.get("name") if isinstance(inside, dict) else function.get("name")
            if name in origins:
                words = f"{origin.path} has the name of an earlier one, {shown(name)}; rename one of them"
                raise invalid("tools", words)
            functions.append(function)
            origins[name if isinstance(name, str) else origin.path] = origin
    if left_out and not functions:
        raise unsupported("tools[0].type", (tools or ())[0].get("type"), WHY)
    return OfferedTools(tuple(functions), tuple(told), origins, tuple(dict.fromkeys(left_out)))


def _has_grammar(tool: Json) -> bool:
    """Whether a custom tool's text has to follow a grammar, which no model writes within the JSON of a call."""
    form = tool.get("format") if tool.get("type") == CUSTOM else None
    return isinstance(form, dict) and form.get("type") == "grammar"


def _offered(tool: Json, path: str) -> Iterator[tuple[Json, Origin]]:
    """A tool, or those of a namespace, as functions of a chat."""
    kind = tool.get("type", FUNCTION)
    if kind == NAMESPACE:
        inside = tool.get("tools")
        if not isinstance(tool.get("name"), str) or not tool["name"] or not isinstance(inside, list):
            raise invalid(path, f"{path} is {shown(tool)}: a namespace has a name and a list of tools")
        for number, each in enumerate(inside):
            within = f"{path}.tools[{number}]"
            if not isinstance(each, dict) or each.get("type", FUNCTION) not in (FUNCTION, CUSTOM) or _has_grammar(each):
                raise unsupported(within, each, "a namespace has functions, and custom tools without a grammar")
            yield _function(each, within, tool)
    elif kind in (FUNCTION, CUSTOM):
        yield _function(tool, path, {})
    else:
        near = nearest(kind, (FUNCTION, CUSTOM, NAMESPACE)) if isinstance(kind, str) else ""
        raise unsupported(f"{path}.type", kind, WHY + near)


def _function(tool: Json, path: str, namespace: Json) -> tuple[Json, Origin]:
    """A function in a chat's form, and where it comes from."""
    is_custom = tool.get("type") == CUSTOM
    holder = tool.get(CUSTOM if is_custom else FUNCTION)
    own = holder if isinstance(holder, dict) else {key: value for key, value in tool.items() if key != "type"}
    name, space = own.get("name"), namespace.get("name")
    if not namespace and not is_custom:  # chats read all its forms
        is_flat = "type" in tool and FUNCTION not in tool
        return {"type": FUNCTION, FUNCTION: own} if is_flat else tool, Origin(path, str(name))
    if not isinstance(name, str) or not name:
        raise Refusal(400, f"{path}.name is missing", param=f"{path}.name", code="missing_field")
    if is_custom:
        text = {"type": "string", "description": "The whole input of the tool, as plain text."}
        schema = {"type": "object", "properties": {INPUT: text}, "required": [INPUT], "additionalProperties": False}
        own = {"description": own.get("description"), "parameters": schema}
    return {"type": FUNCTION, FUNCTION: {**own, "name": joined(space, name)}}, Origin(path, name, space, is_custom)


def _input_of(arguments: str) -> str:
    """The text for a custom tool in the arguments of its call; all of them where a model wrote others."""
    cut_off = (arguments[: len(arguments) - left] + '"}' for left in range(7))  # within the text, or an escape of it
    for whole in (arguments, *cut_off):
        try:
            value = json.loads(whole)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and value.keys() == {INPUT} and isinstance(value[INPUT], str):
            return str(value[INPUT])
    return arguments


def arguments_of(text: str) -> str:
    """The arguments of a past call of a custom tool."""
    return json.dumps({INPUT: text}, ensure_ascii=False)


def read_choice(given: Any, offered: OfferedTools) -> Any:
    """A choice of tools in a chat's form. Raises a `Refusal` for one that is left out, or is not known."""
    if not isinstance(given, dict):
        return given
    kind = given.get("type")
    if kind in ELSEWHERE:
        raise unsupported("tool_choice", given, WHY)
    if kind == "allowed_tools":
        some = given[kind] if isinstance(given.get(kind), dict) else given
        listed = some.get("tools")
        if isinstance(listed, list):
            kept = [each for each in listed if not (isinstance(each, dict) and each.get("type") in ELSEWHERE)]
            some = {"mode": some.get("mode"), "tools": [_chosen(each, offered) for each in kept]}
        return {"type": kind, kind: some}
    return _chosen(given, offered)


def _chosen(given: Any, offered: OfferedTools) -> Any:
    """One tool of a choice as the function of a chat that it is."""
    kind = given.get("type") if isinstance(given, dict) else None
    if kind not in (FUNCTION, CUSTOM):
        return given
    own = given[kind] if isinstance(given.get(kind), dict) else given
    name, space = own.get("name"), given.get("namespace")
    if not isinstance(name, str):
        return given
    names = [each for each, origin in offered.origins.items() if origin.name == name and origin.namespace == space]
    return {"type": FUNCTION, FUNCTION: {"name": names[0] if names else joined(space, name)}}


def _told(given: Json) -> Json:
    """A function as OpenAI's types read it: with its parameters, and whether these are strict."""
    function = given.get(FUNCTION, given)
    return {"type": FUNCTION, **{key: function.get(key) for key in ("name", "description", "parameters", "strict")}}
