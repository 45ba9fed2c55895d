"""The items of a conversation as the messages of a chat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unisono.errors import shown
from unisono.server.errors import Refusal, invalid
from unisono.server.fields import unsupported
from unisono.server.messages import plain_content
from unisono.server.plain_fields import plain_tool
from unisono.server.responses_api.store import REFERENCE
from unisono.server.responses_api.tools import INPUT, NAMESPACE, arguments_of, flat

OWN = ("type", "id", "status", "phase")
"""Keys of an item that say nothing to a model."""
CALLS, OUTPUTS = ("function_call", "custom_tool_call"), ("function_call_output", "custom_tool_call_output")
TOOLS = "additional_tools"
"""The type of items that offer further tools, as Codex sends them."""
KINDS = ("message", *CALLS, *OUTPUTS, "reasoning", TOOLS)
TEXTS = ("input_text", "output_text", "text")
"""The types of parts that are text."""
Named = tuple[str, Any]
"""An item, and how errors name it."""


def tools_of(items: Sequence[Named], given: Sequence[Any], *, strict: bool = False) -> list[Named]:
    """The tools that items of a conversation add to those ``given``.

    Clients repeat them in every turn: of those with one name the last counts, and one that is given before all.
    """
    offered: list[Named] = []
    for name, item in items:
        tools = item.get("tools") if isinstance(item, dict) and item.get("type") == TOOLS else []
        if not isinstance(tools, list):
            raise invalid(f"{name}.tools", f"{name}.tools is {shown(tools)}: give a list of tools")
        for path, tool in ((f"{name}.tools[{number}]", tool) for number, tool in enumerate(tools)):
            offered.append((path, tool if strict else plain_tool(tool, path)))
    known = {name for tool in given for name in _names_of(tool)}
    kept: list[Named] = []
    for path, tool in reversed(offered):
        names = _names_of(tool)
        if fresh := [place for place, name in enumerate(names) if name not in known]:
            tools = {} if len(fresh) == len(names) else {"tools": [tool["tools"][place] for place in fresh]}
            kept.append((path, {**tool, **tools} if tools else tool))
        elif not names:  # which is told where it is read
            kept.append((path, tool))
        known.update(names)
    return kept[::-1]


def _names_of(tool: Any) -> list[tuple[str, ...]]:
    """What a tool is called by, or, of a namespace, each of its tools."""
    if not isinstance(tool, dict):
        return []
    if tool.get("type") == NAMESPACE and isinstance(tool.get("tools"), list):
        return [(str(tool.get("name")), *name) for each in tool["tools"] for name in _names_of(each) or [("",)]]
    function = tool.get("function")
    name = function.get("name") if isinstance(function, dict) else tool.get("name")
    return [(str(name if isinstance(name, str) else tool.get("type")),)]


class Conversation:
    """The messages that items of a conversation make.

    Calls that follow one another, or an answer, are those of one message, and so is what an answer says behind its
    calls. What was reasoned belongs to what follows, or, where that is no answer, to one that is empty.
    """

    def __init__(self, instructions: str | None, *, strict: bool = False) -> None:
        self.messages: list[Named] = []
        self.thoughts: dict[int, str] = {}
        """What was reasoned before a message, by its place."""
        self._thought, self._answers, self._strict = "", False, strict
        if instructions:
            self.messages.append(("instructions", {"role": "system", "content": instructions}))

    def add(self, name: str, item: Any) -> None:
        """Take the next item. Raises a `Refusal` that names it and its key."""
        kind = _kind_of(name, item)
        if kind == TOOLS:
            return
        if kind == "reasoning":
            self._thought, self._answers = "\n".join(filter(None, (self._thought, _thought_of(item)))), False
        elif kind in CALLS:
            self._call(name, _call_of(name, item))
        elif kind in OUTPUTS:
            output = item.get("output") if self._strict else plain_content("tool", item.get("output"))
            if not isinstance(output, str | list):
                raise invalid(f"{name}.output", f"{name}.output is {shown(output)}: give text, or a list of parts")
            called = _text(name, item, "call_id")
            self._append(name, {"role": "tool", "tool_call_id": called, "content": _content(output)})
        else:
            own = {key: value for key, value in item.items() if key not in OWN}
            own |= {"content": _content(own["content"])} if "content" in own else {}
            if not self._joins(own):
                self._append(name, own)

    def _call(self, name: str, call: Mapping[str, Any]) -> None:
        last = self.messages[-1][1] if self._answers else {}
        calls = last.get("tool_calls")
        if self._answers and isinstance(calls, list | None):
            last["tool_calls"] = [*(calls or ()), call]
        else:
            self._append(name, {"role": "assistant", "content": None, "tool_calls": [call]})

    def _joins(self, own: Mapping[str, Any]) -> bool:
        """Whether a message is the rest of the last one, which has calls, and joined to it."""
        last = self.messages[-1][1] if self._answers else {}
        before, content = last.get("content") or "", own.get("content")
        joins = own.get("role") == "assistant" and own.keys() == {"role", "content"} and last.get("tool_calls")
        if not joins or not isinstance(before, str | list) or not isinstance(content, str | list):
            return False
        if type(before) is type(content):
            last["content"] = before + content  # type: ignore[operator]
        else:
            last["content"] = [*_parts(before), *_parts(content)]
        return True

    def _append(self, name: str, message: dict[str, Any]) -> None:
        self._answers = message.get("role") == "assistant"
        if not self._answers:
            self._end_thought(name)
        elif self._thought:
            self.thoughts[len(self.messages)] = self._thought
        self._thought = ""
        self.messages.append((name, message))

    def _end_thought(self, name: str) -> None:
        """Let an answer that is empty follow what was reasoned last."""
        if self._thought:
            self.thoughts[len(self.messages)] = self._thought
            self.messages.append((name, {"role": "assistant", "content": ""}))
            self._thought = ""


def _kind_of(name: str, item: Any) -> str:
    if not isinstance(item, dict):
        raise Refusal(400, f"{name} is {shown(item)}, not an object", param=name, code="invalid_value")
    kind = item.get("type")
    if kind is None and "role" in item:
        kind = "message"
    if kind is None:
        raise Refusal(400, f"{name}.type is missing", param=f"{name}.type", code="missing_field")
    if kind not in KINDS:
        raise unsupported(f"{name}.type", kind, f"known are {', '.join((*KINDS, REFERENCE))}")
    return str(kind)


def _content(given: Any) -> Any:
    """The content of a message, its parts in the words of chats."""
    return [_part(part) for part in given] if isinstance(given, list) else given


def _parts(content: str | list[Any]) -> list[Any]:
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if content else []


def _part(given: Any) -> Any:
    kind = given.get("type") if isinstance(given, dict) else None
    if kind in TEXTS:
        return {"type": "text", "text": given.get("text")}
    return {"type": "text", "text": given.get("refusal")} if kind == "refusal" else given


def _call_of(name: str, item: Mapping[str, Any]) -> dict[str, Any]:
    custom = item["type"] == "custom_tool_call"
    called, given = _text(name, item, "name"), _text(name, item, INPUT if custom else "arguments", empty=True)
    function = {"name": flat(called, item.get("namespace")), "arguments": arguments_of(given) if custom else given}
    return {"id": _text(name, item, "call_id"), "type": "function", "function": function}


def _text(name: str, item: Mapping[str, Any], key: str, *, empty: bool = False) -> str:
    value = item.get(key)
    if value is None:
        raise Refusal(400, f"{name}.{key} is missing", param=f"{name}.{key}", code="missing_field")
    if not isinstance(value, str) or not (value or empty):
        raise invalid(f"{name}.{key}", f"{name}.{key} is {shown(value)}: give text")
    return value


def text_of(content: Any) -> str:
    """The text of a message's content, as far as it is text."""
    parts = _content(content) if isinstance(content, list) else [{"text": content}]
    texts = (part.get("text") if isinstance(part, dict) else part for part in parts)
    return "".join(text for text in texts if isinstance(text, str))


def _thought_of(item: Mapping[str, Any]) -> str:
    """What was reasoned: the whole of it, or else its summary."""
    for key in ("content", "summary"):
        value = item.get(key)
        parts = value if isinstance(value, list) else []
        texts = [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
        if text := "\n".join(texts):
            return text
    return ""
