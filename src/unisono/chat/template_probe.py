"""What a chat template does, found by rendering short conversations: how answers begin and end, and how tools are used.

Templates differ in the arguments they expect, a mapping or JSON text, and in the content they expect of a message that
only calls tools: an empty text, ``None``, or no such key. Each combination is rendered; one whose output shows a Python
mapping or escaped quotes is rejected.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from unisono.chat.json_values import past_arguments
from unisono.chat.messages import Message, ToolCall, content_of
from unisono.chat.template import ChatTemplate, TemplateFailure
from unisono.chat.tools import Tool
from unisono.vocab.controls import cut_controls
from unisono.vocab.pieces import token_bytes
from unisono.vocab.tokenizer import Tokenizer

QUESTION = Message(role="user", content="Hi")
NAMES = ("probe_first", "probe_second")
ARGUMENTS: Mapping[str, Any] = {"probe_key": "probe value", "probe_number": 70717}
REPLY, RESULT, SPEAKER = "probe reply", "probe result", "probe_speaker"
IDS = ("probe0001", "probe0002")
"""Nine letters and digits, as the strictest templates require."""
_DESCRIPTION = "Probe described."
_LONGEST_CONTROL = 80

_PROPERTIES = {"probe_key": {"type": "string", "description": "Probe key."}}
_PARAMETERS = {"type": "object", "properties": _PROPERTIES, "required": ["probe_key"]}
PROBE_TOOLS: tuple[Tool, ...] = tuple(
    Tool(type="function", function={"name": name, "description": _DESCRIPTION, "parameters": _PARAMETERS})
    for name in NAMES
)
_ARGUMENTS: tuple[Literal["mapping", "text"], ...] = ("mapping", "text")
_EMPTY: tuple[Literal["text", "none", "absent"], ...] = ("text", "none", "absent")
_REPLIES = ("Hello", "Yes", "The", "I")


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """How a member's answers begin and end, by its template."""

    leading_space: bool
    """Whether an answer's first piece carries a space that is no part of the answer."""
    turn_end_ids: tuple[int, ...]
    """The control token that closes an answer, if the template writes one."""


def probe_answer_form(template: ChatTemplate | None, tokenizer: Tokenizer) -> AnswerForm:
    """Render short conversations with known replies and look at the tokens around each reply.

    A template that refuses the conversation, or does not write replies, gives the default form.
    """
    forms = [] if template is None else [_probe(template, tokenizer, reply) for reply in _REPLIES]
    others = (
        []
        if template is None or not template.for_tools
        else [_probe(template, tokenizer, reply, PROBE_TOOLS) for reply in _REPLIES]
    )
    ends = {token for form in (*forms, *others) for token in form.turn_end_ids}
    return AnswerForm(
        leading_space=any(form.leading_space for form in forms),
        turn_end_ids=tuple(sorted(ends | _result_openings(template, tokenizer.table.controls))),
    )


def _result_openings(template: ChatTemplate | None, controls: Mapping[str, int]) -> set[int]:
    """The control token that a template writes behind calls, and before each result (Gemma 4): models write it, and
    whoever has the results goes on.
    """
    if template is None or "tool" not in template.source:
        return set()
    style, (one, two) = probe_tool_use(template).style or CallStyle(), map(exchange_of, (1, 2))
    called, twice, answered = (
        _rendered(template, [QUESTION, *answer], style, PROBE_TOOLS, add_generation_prompt=False).rstrip()
        for answer in (one[:1], two[:1], two)
    )
    [(text, token)] = cut_controls(called[-_LONGEST_CONTROL:], controls)[-1:] or [("", None)]
    counts = [written.count(text) for written in (called, twice, answered)] if token is not None else []
    return {token} if token is not None and counts == [1, 1, 2] else set()


def _probe(template: ChatTemplate, tokenizer: Tokenizer, reply: str, tools: Sequence[Tool] | None = None) -> AnswerForm:
    unknown = AnswerForm(leading_space=False, turn_end_ids=())
    try:
        opening = template.probe([QUESTION], tools=tools)
        answered = [QUESTION, Message(role="assistant", content=reply)]
        whole = template.probe(answered, tools=tools, add_generation_prompt=False)
    except TemplateFailure:
        return unknown
    table, ids = tokenizer.table, tokenizer.encode_rendered(whole)
    pieces = [token_bytes(table.texts[token], table.kinds[token], table.scheme) for token in ids]
    edges = list(itertools.accumulate((len(piece or b"") for piece in pieces), initial=0))
    place = b"".join(piece or b"" for piece in pieces).rfind(reply.encode())
    if place < 0:
        return unknown
    begin = bisect.bisect_right(edges, place) - 1
    end = bisect.bisect_left(edges, place + len(reply.encode()))
    spaced = (pieces[begin] or b"").startswith(b" ") and whole.startswith(opening) and not opening.endswith(" ")
    # The first token after the reply that is not white space ends the turn, if it is a control token.
    after = [token for token, piece in zip(ids[end:], pieces[end:], strict=True) if not (piece or b"-").isspace()]
    ends = tuple(token for token in after[:1] if table.kinds[token] == "control")
    return AnswerForm(leading_space=spaced, turn_end_ids=ends)


def probe_opening(
    template: ChatTemplate,
    controls: Mapping[str, int],
    *,
    with_tools: bool = False,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """What a template writes between the prompt's end and an answer, where that has control tokens; mostly nothing.

    These are channels and the like, which no ensemble could write. As part of the prompt they leave the answer to be
    written. ``variables`` are those of the prompt: some decide what is written there.
    """
    tools = PROBE_TOOLS if with_tools else None
    found = {_between(template, reply, tools, variables) for reply in (REPLY, "Zounds")}
    [between] = found if len(found) == 1 else [""]
    return between if any(control is not None for _, control in cut_controls(between, controls)) else ""


def _between(
    template: ChatTemplate, reply: str, tools: Sequence[Tool] | None, variables: Mapping[str, Any] | None
) -> str:
    """What stands between a prompt that ends where an answer begins, and the answer."""
    answered = [QUESTION, Message(role="assistant", content=reply)]
    write = template.render if variables else template.probe  # variables are a client's, of which there is no end
    try:
        asked, prompt = (
            write([QUESTION], tools=tools, variables=variables, add_generation_prompt=add) for add in (False, True)
        )
        whole = write(answered, tools=tools, variables=variables, add_generation_prompt=False)
    except TemplateFailure:
        return ""
    place = whole.find(reply, len(prompt))
    return whole[len(prompt) : place] if prompt != asked and whole.startswith(prompt) and place >= 0 else ""


@dataclass(frozen=True, slots=True)
class CallStyle:
    """How a message with calls is passed to a template."""

    arguments: Literal["mapping", "text"] = "mapping"
    empty: Literal["text", "none", "absent"] = "text"
    """How missing content is passed: as an empty text, as ``None``, or without the key."""


@dataclass(frozen=True, slots=True)
class ToolUse:
    """How a template handles tools."""

    tools: bool
    style: CallStyle | None
    """How calls are passed to it; ``None`` where it does not write them."""
    results: bool
    """Whether it writes the results of calls."""
    content_beside_calls: bool
    """Whether it writes both the content and the calls of one message."""

    @property
    def knows_tools(self) -> bool:
        """Whether it writes every part of a conversation with tools."""
        return self.tools and self.style is not None and self.results


@functools.lru_cache(64)
def probe_tool_use(template: ChatTemplate, *, with_tools: bool = True) -> ToolUse:
    """Render short conversations with tools, calls and results, and look for each of them in the output.

    Some templates write calls and results only ``with_tools``, when tools are passed as well.
    """
    tools = PROBE_TOOLS if with_tools else None
    styles = itertools.starmap(CallStyle, itertools.product(_ARGUMENTS, _EMPTY))
    style = next((style for style in styles if _written_call(template, style, tools)), None)
    exchange = "" if style is None else _rendered(template, [QUESTION, *exchange_of(1)], style, tools)
    talking = "" if style is None else _written_call(template, style, tools, REPLY)
    listed = _rendered(template, [QUESTION], CallStyle(), PROBE_TOOLS)
    return ToolUse(
        tools=all(word in listed for word in (*NAMES, _DESCRIPTION, "probe_key")),
        style=style,
        results=RESULT in exchange,
        content_beside_calls=REPLY in talking,
    )


@functools.lru_cache(64)
def writes_name(template: ChatTemplate, role: str, *, with_tools: bool = False) -> bool:
    """Whether a template writes the ``name`` of a message with this role; ``with_tools`` where those have another."""
    named = Message(role=role, content=REPLY, name=SPEAKER)
    asked = [QUESTION] if role in ("assistant", "system") else []
    messages = [named, *asked] if role == "system" else [*asked, named]
    return SPEAKER in _rendered(template, messages, CallStyle(), PROBE_TOOLS if with_tools else None)


@functools.lru_cache(64)
def writes_users(template: ChatTemplate, *, with_tools: bool = False) -> bool:
    """Whether a template writes what a user says; true where it refuses the question."""
    try:
        text = template.probe([Message(role="user", content=REPLY)], tools=PROBE_TOOLS if with_tools else None)
    except TemplateFailure:
        return True
    return REPLY.casefold() in text.casefold()


def as_given(messages: Sequence[Message], style: CallStyle | None) -> list[dict[str, Any]]:
    """Convert messages to the form that a template expects. Only calls and their results change.

    Results follow the order of the calls, because some templates write nothing else that links the two, and carry the
    function's name. Those whose call does not stand right before them follow.
    """
    given: list[dict[str, Any]] = []
    place, calls = 0, list[ToolCall]()
    names = dict[str, str]()
    while place < len(messages):
        if messages[place]["role"] == "tool":
            answers = list(itertools.takewhile(lambda message: message["role"] == "tool", messages[place:]))
            given += [_named(answer, names) for answer in _in_order(answers, calls)]
            place += len(answers)
            continue
        calls = list(messages[place].get("tool_calls", ()))
        names |= {call["id"]: call["function"]["name"] for call in calls}
        given.append(_calling(messages[place], calls, style or CallStyle()) if calls else dict(messages[place]))
        place += 1
    return [{**message.pop("extra", {}), **message} for message in given]


def exchange_of(count: int, content: str = "", arguments: Mapping[str, Any] = ARGUMENTS) -> list[Message]:
    calls = [
        ToolCall(id=identity, type="function", function={"name": name, "arguments": json.dumps(arguments)})
        for identity, name in list(zip(IDS, NAMES, strict=True))[:count]
    ]
    return [
        Message(role="assistant", content=content, tool_calls=calls),
        *(Message(role="tool", content=RESULT, tool_call_id=call["id"]) for call in calls),
    ]


def _written_call(template: ChatTemplate, style: CallStyle, tools: Sequence[Tool] | None, content: str = "") -> str:
    before = _rendered(template, [QUESTION], style, tools)
    text = _rendered(template, [QUESTION, *exchange_of(1, content)], style, tools)
    called = text.count(NAMES[0]) > before.count(NAMES[0])
    whole = all(word in text for word in ("probe_key", "probe value", "70717"))
    spoiled = any(text.count(quoted) > before.count(quoted) for quoted in ("'probe_key'", '\\"probe_key\\"'))
    return text if called and whole and not spoiled else ""


def _rendered(
    template: ChatTemplate,
    messages: list[Message],
    style: CallStyle,
    tools: Sequence[Tool] | None,
    *,
    add_generation_prompt: bool = True,
) -> str:
    try:
        return template.probe(as_given(messages, style), tools=tools, add_generation_prompt=add_generation_prompt)
    except TemplateFailure:
        return ""


def _calling(message: Message, calls: Sequence[ToolCall], style: CallStyle) -> dict[str, Any]:
    given: dict[str, Any] = {**message, "content": content_of(message)}
    if not given["content"] and style.empty == "none":
        given["content"] = None
    if not given["content"] and style.empty == "absent":
        del given["content"]
    given["tool_calls"] = [{**call, "function": dict(call["function"])} for call in calls]
    for call in given["tool_calls"]:
        text = call["function"]["arguments"]
        call["function"]["arguments"] = past_arguments(text) if style.arguments == "mapping" else text.strip() or "{}"
    return given


def _named(answer: Message, names: Mapping[str, str]) -> dict[str, Any]:
    identity = answer["tool_call_id"]
    return {"name": names[identity], **answer} if identity in names else {**answer}


def _in_order(answers: Sequence[Message], calls: Sequence[ToolCall]) -> list[Message]:
    ids = [call["id"] for call in calls]
    return sorted(answers, key=lambda answer: [*ids, answer["tool_call_id"]].index(answer["tool_call_id"]))
