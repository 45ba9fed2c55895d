"""The tools of a response as functions of a chat: those of namespaces, and those that take text; and their calls."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unisono.errors import nearest, shown
from unisono.server.errors import Refusal, invalid
from unisono.server.fields import unsupported

ELSEWHERE = (
    *("web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11", "file_search"),
    *("code_interpreter", "image_generation", "mcp", "tool_search", "programmatic_tool_calling", "computer"),
    *("computer_use", "computer_use_preview", "local_shell", "shell", "apply_patch"),
)
"""Types of tools that OpenAI's server runs, or that its models know without a definition."""
FUNCTION, CUSTOM, NAMESPACE = KINDS = ("function", "custom", "namespace")
ALLOWED = "allowed_tools"
INPUT = "input"
"""The argument of a function that stands for a tool which takes text."""
TOOL = re.compile(r"(?<![.\w])tools\[(\d+)\](\.strict)?")
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CallName:
    """How a response calls what is a function of its chat."""

    name: str
    namespace: str | None = None
    is_custom: bool = False

    @property
    def key(self) -> str:
        """The key of an item that has what the tool is given."""
        return INPUT if self.is_custom else "arguments"

    @property
    def event(self) -> str:
        """The events that tell it begin with this."""
        return f"response.{'custom_tool_call_input' if self.is_custom else 'function_call_arguments'}"

    @property
    def own(self) -> Json:
        return {"name": self.name, **({} if self.namespace is None else {"namespace": self.namespace})}

    def item(self, identity: str, unique: str) -> Json:
        """An item without what the tool is given; its own id ends with what is ``unique``."""
        kind, prefix = ("custom_tool_call", "ctc") if self.is_custom else ("function_call", "fc")
        return {"type": kind, "id": f"{prefix}_{unique}", "call_id": identity, **self.own}

    def given(self, arguments: str) -> str:
        """What the tool is given, from the arguments of its function, which may be cut off."""
        return _input_of(arguments) if self.is_custom else arguments


@dataclass(frozen=True, slots=True)
class Offered:
    """What a response's members are offered."""

    functions: Sequence[Any] = ()
    """Tools of a chat."""
    paths: Sequence[str] = ()
    """How errors name each: as the request has it."""
    calls: Mapping[str, CallName] = field(default_factory=dict)
    """By the name of a function, how it is called."""
    choice: Any = None
    """What is to be called, in a chat's form."""
    told: Sequence[Json] = ()
    """The request's tools that members are offered, as the response repeats them."""
    left_out: Sequence[str] = ()
    """The types of those that they are not."""

    def call(self, name: str) -> CallName:
        return self.calls.get(name, CallName(name))

    def in_request(self, words: str) -> str:
        """Words that name functions of the chat by their numbers, with where the request has their tools."""
        return TOOL.sub(self._placed, words)

    def _placed(self, found: re.Match[str]) -> str:
        number, strict = int(found[1]), found[2] or ""
        if number >= len(self.paths):
            return found[0]
        is_custom = [*self.calls.values()][number].is_custom if len(self.calls) == len(self.paths) else False
        return self.paths[number] + (".format" if is_custom and strict else strict)


def read_offered(
    tools: Sequence[Any] | None, choice: Any, *, further: Sequence[tuple[str, Any]] = (), strict: bool = False
) -> Offered:
    """Read a response's tools, and what is to be called of them; ``further`` ones have names for errors.

    Tools that would be run elsewhere, and custom ones whose grammar no member can follow within the JSON of a call, are
    left out beside others, unless ``strict``. Raises a `Refusal` where nothing else is there, or one of them is to be
    called.
    """
    functions: list[tuple[str, CallName, Json]] = []
    told, left_out = [], []
    for path, tool in [*((f"tools[{number}]", tool) for number, tool in enumerate(tools or ())), *further]:
        kind = _kind_of(path, tool, (*KINDS, *ELSEWHERE))
        refusals = [refusal] if (refusal := _not_offered(path, kind, tool)) is not None else []
        if kind == NAMESPACE:
            found, refusals = _of_namespace(path, tool)
        else:
            found = [] if refusals else [_function(path, tool)]
        if refusals and strict:
            raise refusals[0]
        left_out += [(CUSTOM if kind == NAMESPACE else kind, refusal) for refusal in refusals]
        functions += found
        told += [_told(tool)] if found or not refusals else []
    calls = {flat(call.name, call.namespace): call for _, call, _ in functions}
    if left_out and not functions and choice != "none":
        raise left_out[0][1]
    return Offered(
        [function for _, _, function in functions],
        [path for path, _, _ in functions],
        calls,
        _chat_choice(choice, calls, {kind for kind, _ in left_out if kind in ELSEWHERE}),
        told,
        [*dict.fromkeys(kind for kind, _ in left_out)],
    )


def flat(name: Any, namespace: Any) -> Any:
    """The name of a function of a chat that stands for one of a namespace."""
    if not isinstance(namespace, str) or not namespace or not isinstance(name, str):
        return name
    return f"{namespace}{'' if namespace.endswith('__') else '__'}{name}"


def arguments_of(given: str) -> str:
    """The arguments of a function that stands for a tool which takes text."""
    return json.dumps({INPUT: given}, ensure_ascii=False)


def told_choice(given: str | Json | None) -> str | Json:
    """A choice in the form of responses; the body has it in that of chats."""
    if not isinstance(given, dict):
        return given or "auto"
    kind = str(given.get("type"))
    inside = given.get(kind)
    return {key: value for key, value in given.items() if key != kind} | (inside if isinstance(inside, dict) else {})


def _kind_of(path: str, tool: Any, known: Sequence[str]) -> str:
    kind = tool.get("type") or FUNCTION if isinstance(tool, dict) else None
    if kind is None:
        raise invalid(path, f"{path} is {shown(tool)}: write an object")
    if kind not in known:
        near = nearest(kind, known) if isinstance(kind, str) else ""
        raise unsupported(f"{path}.type", kind, f"known are {', '.join(KINDS)}{near}")
    return str(kind)


def _not_offered(path: str, kind: str, tool: Json) -> Refusal | None:
    """Why a tool cannot be offered to members, if it cannot."""
    form = tool.get("format") if kind == CUSTOM else None
    if isinstance(form, dict) and form.get("type") == "grammar" and form.get("syntax") != "regex":
        words = "a grammar of the syntax regex is followed: leave the format out, or offer a function"
        return unsupported(f"{path}.format.syntax", form.get("syntax"), words)
    return _not_run(f"{path}.type", kind) if kind in ELSEWHERE else None


def _not_run(param: str, kind: str) -> Refusal:
    words = "no tool is run here, and the client calls functions, also those of a namespace, and custom tools"
    return unsupported(param, kind, words)


def _function(path: str, tool: Json, namespace: str | None = None) -> tuple[str, CallName, Json]:
    """A tool as a function: where errors find it, how it is called, and the function."""
    custom = tool.get("type") == CUSTOM
    given = _of_custom(path, tool) if custom else tool.get("function", tool)
    name = given.get("name") if isinstance(given, dict) else None
    call = CallName(name if isinstance(name, str) else "", namespace, custom)
    if not isinstance(given, dict):
        return path, call, tool
    named = {"name": flat(name, namespace)} if "name" in given else {}
    function = {key: value for key, value in given.items() if key != "type"} | named
    return (
        path,
        call,
        {**tool, "function": function} if "function" in tool else {"type": FUNCTION, "function": function},
    )


def _of_namespace(path: str, tool: Json) -> tuple[list[tuple[str, CallName, Json]], list[Refusal]]:
    """The tools of a namespace, and why others cannot be offered; the first has the namespace's description, too."""
    name, tools, about = tool.get("name"), tool.get("tools"), tool.get("description")
    if not isinstance(name, str) or not name:
        raise invalid(f"{path}.name", f"{path}.name is {shown(name)}: give the namespace's name")
    if not isinstance(tools, list):
        raise invalid(f"{path}.tools", f"{path}.tools is {shown(tools)}: give a list of tools")
    found, refusals = [], []
    for place, each in ((f"{path}.tools[{number}]", each) for number, each in enumerate(tools)):
        if (refusal := _not_offered(place, _kind_of(place, each, (FUNCTION, CUSTOM)), each)) is not None:
            refusals.append(refusal)
        else:
            found.append(_function(place, each, name))
    if found and isinstance(about, str) and about.strip():
        function = found[0][2]["function"]
        function["description"] = "\n".join(filter(None, (f"[{name}: {about.strip()}]", function.get("description"))))
    return found, refusals


def _of_custom(path: str, tool: Json) -> Json:
    """A function with one argument, which is the text that the tool takes."""
    form = tool.get("format") or {"type": "text"}
    kind = form.get("type") if isinstance(form, dict) else None
    text: Json = {"type": "string"}
    if kind == "grammar" and form.get("syntax") == "regex" and isinstance(form.get("definition"), str):
        text["pattern"] = f"^(?:{form['definition']})$"
    elif kind != "text":
        raise invalid(f"{path}.format", f"{path}.format is {shown(form)}: its type is text or grammar")
    schema = {"type": "object", "properties": {INPUT: text}, "required": [INPUT], "additionalProperties": False}
    own = {key: tool[key] for key in ("name", "description") if tool.get(key) is not None}
    return {**own, "parameters": schema, "strict": True}


def _told(tool: Json) -> Json:
    """A tool as OpenAI's types read it; a function with its parameters, and whether these are strict."""
    kind = tool.get("type") or FUNCTION
    if kind == FUNCTION:
        function = tool.get("function", tool)
        return {"type": kind, **{key: function.get(key) for key in ("name", "description", "parameters", "strict")}}
    if kind == NAMESPACE:
        offered = [each for each in tool["tools"] if _not_offered("", each.get("type") or FUNCTION, each) is None]
        inside = [_told(each) for each in offered]
        return {"type": kind, "name": tool["name"], "description": tool.get("description") or "", "tools": inside}
    return {key: tool[key] for key in ("type", "name", "description", "format") if tool.get(key) is not None}


def _chat_choice(given: Any, calls: Mapping[str, CallName], left_out: set[str], path: str = "tool_choice") -> Any:
    """A choice in a chat's form, and by the names of its functions."""
    if not isinstance(given, dict):
        return given
    kind = given.get("type")
    if kind in ELSEWHERE:
        raise _not_run(f"{path}.type", str(kind))
    if kind in (FUNCTION, CUSTOM):
        inside = given.get(kind, given)
        name = inside.get("name") if isinstance(inside, dict) else None
        if isinstance(name, str) and not _more(given, kind, "name", "namespace"):
            return {"type": FUNCTION, FUNCTION: {"name": _called(name, inside.get("namespace"), calls)}}
    if kind == ALLOWED:
        among = given.get(kind, given)
        tools = among.get("tools") if isinstance(among, dict) else None
        if isinstance(tools, list) and not _more(given, kind, "mode", "tools"):
            is_left_out = [isinstance(each, dict) and each.get("type") in left_out for each in tools]
            if tools and all(is_left_out):
                raise _not_run(f"{path}.tools[0].type", tools[0]["type"])
            named = [
                _chat_choice(each, calls, left_out, f"{path}.tools[{number}]")
                for number, (each, out) in enumerate(zip(tools, is_left_out, strict=True))
                if not out
            ]
            rest = {key: value for key, value in among.items() if key != "type"}
            return {"type": kind, kind: {**rest, "tools": named}}
    return given


def _more(given: Json, kind: str, *known: str) -> set[str]:
    """The keys of a choice, or of what stands in it by its type, that nobody knows: one that has any is refused."""
    inside = given.get(kind)
    if isinstance(inside, dict):
        return (given.keys() - {"type", kind}) | (inside.keys() - {*known})
    return given.keys() - {"type", *known}


def _called(name: str, namespace: Any, calls: Mapping[str, CallName]) -> str:
    """The function of a tool that is to be called, which may be named without its namespace where that is plain."""
    if (wanted := str(flat(name, namespace))) in calls:
        return wanted
    found = [each for each, call in calls.items() if call.name == name and namespace is None]
    return found[0] if len(found) == 1 else wanted


def _input_of(arguments: str) -> str:
    """The text that is the argument of a function, as far as it was written; other arguments are told whole."""
    try:
        given = json.loads(arguments)
    except ValueError:
        given = {INPUT: _begun(arguments)}
    text = given[INPUT] if isinstance(given, dict) and given.keys() == {INPUT} else None
    return text if isinstance(text, str) else arguments


def _begun(arguments: str) -> str:
    """The beginning of a text whose JSON is cut off, maybe within an escaped character."""
    begun = arguments.partition(":")[2].strip().removeprefix('"')
    for cut in range(min(len(begun), 12) + 1):
        try:
            return str(json.loads(f'"{begun[: len(begun) - cut]}"', strict=False))
        except ValueError:
            continue
    return ""
