"""How a chat template reads tools, their calls and the answers to them, found out by asking it.

Templates differ in how they want a call's arguments, as a mapping or as JSON text, and in what stands for the
content of a message that only calls: an empty text, nothing, or no such key. What a template writes for each
tells which it takes; one that writes a mapping as Python would, or JSON text with its quotes escaped, does not.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from unisono.chat.messages import Message, Tool, ToolCall, content_of, read_arguments
from unisono.chat.template import ChatTemplate, TemplateFailure

QUESTION = Message(role="user", content="Hi")
NAMES = ("probe_first", "probe_second")
ARGUMENTS: Mapping[str, Any] = {"probe_key": "probe value", "probe_number": 70717}
REPLY, RESULT, SPEAKER = "probe reply", "probe result", "probe_speaker"
IDS = ("probe0001", "probe0002")
"""Nine letters and digits, which the strictest templates want."""
_DESCRIPTION = "Probe described."

PROBE_TOOLS: tuple[Tool, ...] = tuple(
    Tool(
        type="function",
        function={
            "name": name,
            "description": _DESCRIPTION,
            "parameters": {
                "type": "object",
                "properties": {"probe_key": {"type": "string", "description": "Probe key."}},
                "required": ["probe_key"],
            },
        },
    )
    for name in NAMES
)


Empty = Literal["text", "none", "absent"]
_EMPTY: tuple[Empty, ...] = ("text", "none", "absent")


@dataclass(frozen=True, slots=True)
class CallStyle:
    """What a template is given for a message with calls."""

    arguments: Literal["mapping", "text"] = "mapping"
    empty: Empty = "text"
    """What stands for a content that is not there: an empty text, ``None``, or no key."""


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What a template makes of tools."""

    tools: bool
    """Whether it writes tools' names, descriptions and parameters."""
    style: CallStyle | None
    """How it takes calls; ``None`` where it does not write them."""
    results: bool
    """Whether it writes the answers to calls."""
    content_beside_calls: bool
    """Whether it writes both of a message that has content and calls."""

    @property
    def knows_tools(self) -> bool:
        """Whether a conversation with tools can be read whole."""
        return self.tools and self.style is not None and self.results


def probe_tool_use(template: ChatTemplate, *, with_tools: bool = True) -> ToolUse:
    """Render short conversations with tools, calls and results, and look for what stood in them.

    Args:
        template: to be asked.
        with_tools: whether tools are given when it is asked for calls and results: some templates
            write those only then.
    """
    tools = PROBE_TOOLS if with_tools else None
    style = next((style for style in _STYLES if _written_call(template, style, tools)), None)
    exchange = "" if style is None else _rendered(template, [QUESTION, *exchange_of(1)], style, tools)
    talking = "" if style is None else _written_call(template, style, tools, REPLY)
    listed = _rendered(template, [QUESTION], CallStyle(), PROBE_TOOLS)
    return ToolUse(
        tools=all(word in listed for word in (*NAMES, _DESCRIPTION, "probe_key")),
        style=style,
        results=RESULT in exchange,
        content_beside_calls=REPLY in talking,
    )


def writes_name(template: ChatTemplate, role: str) -> bool:
    """Whether a template writes the name of who speaks in a role."""
    named = Message(role=role, content=REPLY, name=SPEAKER)
    asked = [QUESTION] if role in ("assistant", "system") else []
    messages = [named, *asked] if role == "system" else [*asked, named]
    return SPEAKER in _rendered(template, messages, CallStyle(), None)


def as_given(messages: Sequence[Message], style: CallStyle | None) -> list[dict[str, Any]]:
    """Messages as a template is given them.

    A message without calls and no answer to one stays as it is. Answers stand in the order of the calls, which
    is all that some templates write of what belongs to what, and have the name of the function.
    """
    given: list[dict[str, Any]] = []
    place, calls = 0, list[ToolCall]()
    while place < len(messages):
        if messages[place]["role"] == "tool":
            answers = list(itertools.takewhile(lambda message: message["role"] == "tool", messages[place:]))
            given += _answers_in_order(answers, calls)
            place += len(answers)
            continue
        calls = list(messages[place].get("tool_calls", ()))
        given.append(_calling(messages[place], calls, style or CallStyle()) if calls else dict(messages[place]))
        place += 1
    return given


def exchange_of(count: int, content: str = "") -> list[Message]:
    """A message with as many calls, one or two, and the answers to them."""
    calls = [
        ToolCall(id=identity, type="function", function={"name": name, "arguments": json.dumps(ARGUMENTS)})
        for identity, name in list(zip(IDS, NAMES, strict=True))[:count]
    ]
    return [
        Message(role="assistant", content=content, tool_calls=calls),
        *(Message(role="tool", content=RESULT, tool_call_id=call["id"]) for call in calls),
    ]


_STYLES = (
    *(CallStyle("mapping", empty) for empty in _EMPTY),
    *(CallStyle("text", empty) for empty in _EMPTY),
)


def _written_call(template: ChatTemplate, style: CallStyle, tools: Sequence[Tool] | None, content: str = "") -> str:
    """What a template writes of a conversation with a call, empty where the call is not in it as it should be."""
    before = _rendered(template, [QUESTION], style, tools)
    text = _rendered(template, [QUESTION, *exchange_of(1, content)], style, tools)
    called = text.count(NAMES[0]) > before.count(NAMES[0])
    whole = all(word in text for word in ("probe_key", "probe value", "70717"))
    spoiled = any(text.count(quoted) > before.count(quoted) for quoted in ("'probe_key'", '\\"probe_key\\"'))
    return text if called and whole and not spoiled else ""


def _rendered(template: ChatTemplate, messages: list[Message], style: CallStyle, tools: Sequence[Tool] | None) -> str:
    try:
        return template.render(as_given(messages, style), tools=tools)
    except TemplateFailure:
        return ""


def _calling(message: Message, calls: Sequence[ToolCall], style: CallStyle) -> dict[str, Any]:
    given: dict[str, Any] = {**message, "content": content_of(message)}
    if not given["content"] and style.empty == "none":
        given["content"] = None
    if not given["content"] and style.empty == "absent":
        del given["content"]
    given["tool_calls"] = [
        {
            **call,
            "function": {
                **call["function"],
                "arguments": read_arguments(call["function"]["arguments"])
                if style.arguments == "mapping"
                else call["function"]["arguments"],
            },
        }
        for call in calls
    ]
    return given


def _answers_in_order(answers: Sequence[Message], calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    names = {call["id"]: call["function"]["name"] for call in calls}
    order = list(names)
    return [
        {"name": names[answer["tool_call_id"]], **answer}
        for answer in sorted(answers, key=lambda answer: order.index(answer["tool_call_id"]))
    ]
