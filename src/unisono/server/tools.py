"""Tools: what a request lets an answer call, and how calls are told; `call_reader` finds them.

A call is sent when it is complete, or when the answer's limit cuts it off. One that is incomplete for another reason is
content, as it was written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from unisono.chat.call_form import CallForm
from unisono.chat.tool_grammar import call_grammar, no_call_grammar, parameters_of
from unisono.chat.tools import Tool, checked_tools
from unisono.config.constraint import LARK, REGEX, Constraint
from unisono.constraints.json_schema import DEFINED_FORMATS, FORMATS, is_kept, without_unknown_formats
from unisono.engine.beginning import Beginning
from unisono.engine.engine import Engine
from unisono.errors import PromptError, SpecError, nearest, shown
from unisono.server.call_reader import Calling, CallReader, NumberedCall
from unisono.server.errors import invalid, refusal_of
from unisono.server.functions import CALL
from unisono.server.schemas import ChatRequest
from unisono.vocab.marks import OF_CALLS

OPENAI_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


def read_calling(
    request: ChatRequest, engine: Engine, lead: str, answer: Constraint | None, *, strict: bool = False
) -> Calling | None:
    """Read a request's ``tools``, ``tool_choice`` and ``parallel_tool_calls``; ``None`` where no call can be made.

    Args:
        request: a chat.
        engine: of its model.
        lead: writes the calls.
        answer: what an answer has to be that is no call.
        strict: whether a choice without tools is refused.

    Raises:
        Refusal: a field is wrong, or asks for what cannot be kept.
    """
    tools, choice, parallel = request.tools, request.tool_choice, request.parallel_tool_calls
    if not tools:
        if choice not in (None, "none") and (strict or choice != "auto"):
            raise invalid("tool_choice", f"tool_choice is {shown(choice)}, but there are no tools")
        return None
    try:
        called = "functions[{}]" if request.functions else "tools[{}]"
        offered = checked_tools([_without_nulls(tool) for tool in tools], called, first=0)
        if strict:
            _check_names(offered)
        if choice == "none":
            return None
        form = next(member for member in engine.members if member.name == lead).encoder.call_form()
    except (SpecError, PromptError) as error:
        raise refusal_of(error, param="tools") from None
    several, names, old = parallel is not False, None, bool(request.functions)
    if isinstance(choice, dict) and choice["type"] == "allowed_tools":
        names = _allowed_names(choice["allowed_tools"]["tools"], offered)
        choice = choice["allowed_tools"]["mode"]
    if choice in (None, "auto"):
        calling = _free(form, offered, names, engine, answer, several=several)
        return replace(calling, tools=offered, as_function=old)
    chosen = None if choice == "required" else choice["function"]["name"]  # type: ignore[index]
    told = offered if strict else tuple(_without_formats(tool, DEFINED_FORMATS) for tool in offered)
    calling = _restricted(form, told, "tool_choice", names, chosen=chosen, several=several and chosen is None)
    return replace(calling, tools=offered, as_function=old)


def _free(
    form: CallForm,
    offered: tuple[Tool, ...],
    names: Sequence[str] | None,
    engine: Engine,
    answer: Constraint | None,
    *,
    several: bool,
) -> Calling:
    """The tools of an answer that may call them or not, of which only those of some ``names`` can be called."""
    field = _restricting(offered, several=several) if names is None else "tool_choice"
    if field is None and (form.begin_token is not None or set(engine.union.marks) & set(OF_CALLS)):
        field = "tools"  # no text that reads like the token is to begin a call, and no mark where the lead has none
    if answer is not None and answer.kind == REGEX:
        words = "is a regular expression beside tools: give a JSON schema, or tool_choice none"
        raise invalid("response_format", f"response_format {words}")
    if answer is not None:
        kept = [_kept(tool) for tool in offered]
        return _restricted(form, kept, "response_format", names, answer=answer, several=several)
    if field is not None:
        kept = [_loosened(tool) for tool in offered]
        return _restricted(form, kept, field, names, free=True, several=several)
    return Calling(offered, form, None)


def check_begun(begin: Beginning | None, calling: Calling | None) -> None:
    """Refuse an answer that begins with a call, or with what may become one. Raises a `Refusal`."""
    if begin is None or calling is None:
        return
    text = begin.shown.rstrip()
    content, calls = CallReader(calling).read(text)
    if calls or content != text or set(begin.marks) & set(OF_CALLS):
        words = "prefill has a call of a tool, or the beginning of one"
        raise invalid("prefill", f"{words}: end it before the call, or let tool_choice ask for one")


def told_calls(calls: Sequence[NumberedCall], calling: Calling | None, *, part: bool = False) -> dict[str, Any]:
    """The fields of a message with calls, or of the ``part`` of a stream that has them; none where there are none."""
    if calls and calling is not None and calling.as_function:
        [(_, _, call)] = calls
        return {CALL: {"name": call.name, "arguments": call.arguments}}
    told = [
        {
            **({"index": number} if part else {}),
            "id": identity,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for number, identity, call in calls
    ]
    return {"tool_calls": told} if told else {}


def _allowed_names(given: Sequence[dict[str, Any]], offered: Sequence[Tool]) -> list[str]:
    """The names of tools that may be called, as OpenAI writes them in chats, or beside their type as in responses."""
    known = [tool["function"]["name"] for tool in offered]
    names = []
    for number, tool in enumerate(given):
        path = f"tool_choice.allowed_tools.tools[{number}]"
        function = tool.get("function", tool)
        name = function.get("name") if isinstance(function, dict) else None
        if tool.get("type", "function") != "function" or not isinstance(name, str):
            raise invalid(
                "tool_choice", f'{path} is {shown(tool)}: write {{"type": "function", "function": {{"name": …}}}}'
            )
        if name not in known:
            words = f"{path} names {shown(name)}, and there is no such tool{nearest(name, known)}"
            raise invalid("tool_choice", f"{words}; known: {', '.join(known)}")
        names.append(name)
    return names


def read_silence(request: ChatRequest, engine: Engine, lead: str) -> Constraint | None:
    """The constraint of an answer that may call nothing, after messages with calls: members repeat what they read.

    ``None`` where nothing is forbidden, or nobody can tell calls from text.
    """
    calls = any(isinstance(message, dict) and message.get("tool_calls") for message in request.messages)
    if not (calls and request.tools and request.tool_choice == "none" and find_spec("llguidance")):
        return None
    try:
        form = next(member for member in engine.members if member.name == lead).encoder.call_form()
    except PromptError:
        return None
    grammar = no_call_grammar(form)
    return None if grammar is None else Constraint(LARK, grammar)


def _check_names(tools: Sequence[Tool]) -> None:
    for number, tool in enumerate(tools):
        if not OPENAI_NAME.fullmatch(name := tool["function"]["name"]):
            words = f"tools[{number}] has the name {shown(name)}: a name is up to 64 letters, digits, _ and -"
            raise invalid(f"tools[{number}].function.name", words)


def _without_nulls(tool: Any) -> Any:
    return {**tool, "function": {key: value for key, value in tool["function"].items() if value is not None}}


def _restricting(tools: Sequence[Tool], *, several: bool) -> str | None:
    """The field because of which calls in a free answer are restricted by a grammar."""
    strict = (number for number, tool in enumerate(tools) if tool["function"].get("strict"))
    return next((f"tools[{number}].function.strict" for number in strict), None if several else "parallel_tool_calls")


def _loosened(tool: Tool) -> Tool:
    """A tool whose arguments are any object, where it is not strict."""
    function = tool["function"]
    if function.get("strict"):
        return _without_formats(tool)
    return {**tool, "function": {**function, "parameters": {"type": "object"}}}


def _kept(tool: Tool) -> Tool:
    """A tool as it is, or loosened where it is not strict and a grammar might not keep to its schema."""
    plain = _without_formats(tool)
    try:
        return plain if tool["function"].get("strict") or is_kept(parameters_of(plain)) else _loosened(tool)
    except SpecError:
        return _loosened(tool)


def _without_formats(tool: Tool, known: Sequence[str] = FORMATS) -> Tool:
    """A tool that need not be called: no format that the grammar lacks keeps it from being offered."""
    function = tool["function"]
    return {**tool, "function": {**function, "parameters": without_unknown_formats(function.get("parameters"), known)}}


def _restricted(
    form: CallForm, tools: Sequence[Tool], field: str, names: Sequence[str] | None = None, **how: Any
) -> Calling:
    """Tools whose calls a grammar restricts, because of a field; only those of some ``names`` can be called."""
    for number, tool in enumerate(tools):
        try:
            parameters_of(tool)
        except SpecError as error:
            raise refusal_of(error, param=f"tools[{number}].function.parameters") from None
    try:
        answer = how.pop("answer", None)
        callable_ = [tool for tool in tools if names is None or tool["function"]["name"] in names]
        grammar = call_grammar(form, callable_, answer=None if answer is None else answer.schema, **how)
    except SpecError as error:
        raise refusal_of(error, param=field) from None
    whole = tools if isinstance(tools, tuple) else tuple(tools)
    return Calling(whole, form, Constraint(LARK, grammar), "tools" if field == "tool_choice" else field)
