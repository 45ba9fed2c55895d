"""What a conversation may hold: messages, the tools that may be called, their calls and the results.

The shapes are those of OpenAI's chat API. Whether a member can read a field depends on its chat template.
"""

from __future__ import annotations

import secrets
import string
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict, TypeGuard

from unisono.chat.continuation import check_last_message
from unisono.chat.json_values import plain_value
from unisono.chat.template_variables import TEMPLATE_VARIABLES, check_truths, checked_variables
from unisono.config.compact import known_keys
from unisono.errors import SpecError, shown

LONGEST_TOOL_NAME = 128
RESERVED = ("role", "content", "tool_calls", "tool_call_id", "extra")
"""What no further key of a message may be."""
_MESSAGE_HINT = 'each message is {"role": "user", "content": "…"}'
_TOOL_HINT = 'each tool is {"type": "function", "function": {"name": "…", "description": "…", "parameters": {…}}}'
_CALL_HINT = 'each call is {"id": "…", "type": "function", "function": {"name": "…", "arguments": "{…}"}}'


class FunctionCall(TypedDict):
    """The function of a call, in the shape of OpenAI's chat API."""

    name: str
    arguments: str
    """The JSON text of an object; in a past call, any text that a model wrote."""


class ToolCall(TypedDict):
    """A call of a tool, in the shape of OpenAI's chat API."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class Message(TypedDict):
    """A message of a conversation, in the shape of OpenAI's chat API."""

    role: str
    """``system``, ``user``, ``assistant`` or ``tool``."""
    content: NotRequired[str | None]
    """The text. Only a message with tool calls may have none."""
    tool_calls: NotRequired[Sequence[ToolCall]]
    """The calls of an assistant's message."""
    tool_call_id: NotRequired[str]
    """The call that a message of the role ``tool`` answers."""
    name: NotRequired[str]
    """The name of the speaker, or for the role ``tool`` of the function that was called."""
    extra: NotRequired[Mapping[str, Any]]
    """Further keys with JSON values, for templates that read them, such as ``reasoning_content``."""


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


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt: raw text to continue, or a conversation to answer.

    Exactly one of ``text``, ``messages`` and ``ids`` is set.

    Raises:
        SpecError: none or several of them are set, or one of them is malformed.
    """

    text: str | None = None
    """Raw text, without a chat template."""
    messages: Sequence[Message] | None = None
    """A conversation; each member reads it through its own chat template."""
    tools: Sequence[Tool] | None = None
    """The tools that the answer to messages may call."""
    template_kwargs: Mapping[str, Any] | None = None
    """Further variables of the members' chat templates, with JSON values. Templates ignore those that they do not
    read."""
    ids: Sequence[int] | None = None
    """Raw text as token ids of one member."""
    continue_final_message: bool = False
    """Whether the last message, an assistant's, is continued and not answered."""
    open_calls: bool = False
    """Whether past calls may lack results, and results their calls, as in histories that a client has cut."""

    @property
    def begins_answer(self) -> bool:
        """Whether the text is an answer from its beginning on."""
        return self.messages is not None and not self.continue_final_message

    def __post_init__(self) -> None:
        given = [each for each in (self.text, self.messages, self.ids) if each is not None]
        if len(given) != 1:
            raise SpecError(
                "give either a prompt or messages" + (", not both" if given else ""),
                hint="a prompt is raw text to continue, or its token ids; messages are a conversation to answer",
            )
        if self.text is not None and not isinstance(self.text, str):
            raise SpecError(f"the prompt is {type(self.text).__name__}, not str", hint="decode bytes first")
        if self.messages is not None:
            object.__setattr__(self, "messages", checked_messages(self.messages, self.open_calls))
        if self.tools is not None:
            if self.messages is None:
                raise SpecError("raw text calls no tools", hint="give messages, or leave the tools out")
            object.__setattr__(self, "tools", checked_tools(self.tools))
        if self.continue_final_message is not False:
            check_last_message(self.messages, self.continue_final_message)
        if self.template_kwargs:
            if self.messages is None:
                raise SpecError("raw text has no chat template", hint="give messages, or leave template_kwargs out")
            checked = checked_variables("template_kwargs", self.template_kwargs, TEMPLATE_VARIABLES)
            check_truths("template_kwargs", checked)
            object.__setattr__(self, "template_kwargs", checked)


class _Checked(tuple[Any, ...]):
    """What was found right: a prompt that is made of another one does not look at all of it again."""

    open_calls = False


def new_call_id() -> str:
    """An id for a call: nine letters and digits, which is all that some chat templates take."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))


def content_of(message: Message) -> str:
    return message.get("content") or ""


def checked_messages(messages: object, open_calls: bool = False, names: Sequence[str] = ()) -> tuple[Message, ...]:
    """Return the messages when shapes are right and calls answered, see `Prompt.open_calls`.

    ``names`` are what a `SpecError`, which is raised where they are not, calls them; by default by their numbers.
    """
    if isinstance(messages, _Checked) and messages.open_calls in (False, open_calls):
        return messages
    if not _is_list(messages):
        raise SpecError(f"messages is {type(messages).__name__}, not a list of messages", hint=_MESSAGE_HINT)
    names = names or [f"message {number}" for number in range(1, len(messages) + 1)]
    for name, message in zip(names, messages, strict=True):
        _check_message(name, message)
    _check_answers(messages, names, open_calls)
    found = _Checked(messages)
    found.open_calls = open_calls
    return found


def checked_tools(tools: object, called: str = "tool {}", first: int = 1) -> tuple[Tool, ...]:
    """Return the tools, made of plain lists and mappings, when their shapes are right.

    Raises a `SpecError`, which names a tool as ``called``, by its number; the ``first`` has that one.
    """
    if isinstance(tools, _Checked):
        return tools
    if not _is_list(tools):
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


def _check_message(what: str, message: object) -> None:
    calls = message.get("tool_calls") if isinstance(message, Mapping) else None
    texts = ("role",) if calls is not None and message.get("content") is None else ("role", "content")  # type: ignore[attr-defined]
    if not isinstance(message, Mapping) or not all(isinstance(message.get(key), str) for key in texts):
        raise SpecError(f"{what} has no role and content that are text", hint=_MESSAGE_HINT)
    known_keys(what, message, ("role", "content", "tool_calls", "tool_call_id", "name", "extra"))
    if "extra" in message:
        checked_variables(f"extra of {what}", message["extra"], RESERVED)
    for key in ("tool_call_id", "name"):
        if key in message and not _is_text(message[key]):
            raise SpecError(f"the {key} of {what} is {shown(message[key])}", hint="give a text that is not empty")
    role, answers = message["role"], "tool_call_id" in message
    if "tool_calls" in message:
        if role != "assistant":
            raise SpecError(f"{what} has tool_calls and the role {role!r}", hint="only an assistant calls tools")
        if not _is_list(calls) or not calls:
            raise SpecError(f"the tool_calls of {what} are {shown(calls)}, not a list of calls", hint=_CALL_HINT)
        for number, call in enumerate(calls, 1):
            _check_call(f"call {number} of {what}", call)
    if answers != (role == "tool"):
        raise SpecError(
            f"{what} has the role {role!r} and {'a' if answers else 'no'} tool_call_id",
            hint="a message of the role tool answers a call, whose id is its tool_call_id",
        )


def _check_call(what: str, call: object) -> None:
    function = _function_of(call)
    if not isinstance(call, Mapping) or function is None:
        raise SpecError(f"{what} is {shown(call)}, not the call of a function", hint=_CALL_HINT)
    known_keys(what, call, ("id", "type", "function"))
    known_keys(f"the function of {what}", function, ("name", "arguments"))
    if not _is_text(call.get("id")):
        raise SpecError(f"{what} has no id that is text", hint=_CALL_HINT)
    _check_name(f"the function of {what}", function.get("name"))
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        raise SpecError(f"the arguments of {what} are {shown(arguments)}, not text", hint=_CALL_HINT)


def _check_answers(messages: Sequence[Message], names: Sequence[str], open_calls: bool) -> None:
    unanswered: dict[str, str] = {}
    for name, message in zip((*names, ""), (*messages, None), strict=True):
        if message is not None and message["role"] == "tool":
            if not open_calls or message["tool_call_id"] in unanswered:
                _answer(unanswered, name, message)
            continue
        if open_calls and message is not None:
            unanswered = {}
        if unanswered:
            where = f"before {name}" if name else "in these messages"
            raise SpecError(
                f"the call {next(iter(unanswered))!r} is not answered {where}",
                hint="a message of the role tool with that tool_call_id answers it",
            )
        for call in message.get("tool_calls", ()) if message else ():
            if call["id"] in unanswered:
                raise SpecError(f"two calls of {name} have the id {call['id']!r}", hint="each has its own")
            unanswered[call["id"]] = call["function"]["name"]


def _answer(unanswered: dict[str, str], what: str, message: Message) -> None:
    identity = message["tool_call_id"]
    if identity not in unanswered:
        raise SpecError(
            f"{what} answers the call {identity!r}, which no assistant's message right before it holds",
            hint="the answers follow the message with the calls, one each",
        )
    called = unanswered.pop(identity)
    if message.get("name", called) != called:
        raise SpecError(
            f"{what} has the name {message['name']!r} and answers a call of {called!r}", hint="leave the name out"
        )


def _checked_tool(what: str, tool: object) -> Tool:
    function = _function_of(tool)
    if not isinstance(tool, Mapping) or function is None:
        raise SpecError(f"{what} is {shown(tool)}, not a function", hint=_TOOL_HINT)
    known_keys(what, tool, ("type", "function"))
    known_keys(f"the function of {what}", function, ("name", "description", "parameters", "strict"))
    _check_name(what, function.get("name"))
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


def _function_of(record: object) -> Mapping[str, Any] | None:
    function = record.get("function") if isinstance(record, Mapping) and record.get("type") == "function" else None
    return function if isinstance(function, Mapping) else None


def _check_name(what: str, name: object) -> None:
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


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)
