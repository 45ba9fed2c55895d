"""What a conversation may hold: messages, calls of tools and the results.

The shapes are those of OpenAI's chat API. Whether a member can read a field depends on its chat template.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

from unisono.chat.continuation import check_last_message
from unisono.chat.json_values import is_list
from unisono.chat.template_variables import TEMPLATE_VARIABLES, check_truths, checked_variables
from unisono.chat.tools import Tool, check_tool_name, checked_tools, function_of
from unisono.config.compact import known_keys
from unisono.errors import SpecError, shown

RESERVED = ("role", "content", "tool_calls", "tool_call_id", "extra")
"""What no further key of a message may be."""
_MESSAGE_HINT = 'each message is {"role": "user", "content": "…"}'
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
    """Messages that were found right: a prompt that is made of another one does not look at all of them again."""

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
    if not is_list(messages):
        raise SpecError(f"messages is {type(messages).__name__}, not a list of messages", hint=_MESSAGE_HINT)
    names = names or [f"message {number}" for number in range(1, len(messages) + 1)]
    for name, message in zip(names, messages, strict=True):
        _check_message(name, message)
    _check_answers(messages, names, open_calls)
    found = _Checked(messages)
    found.open_calls = open_calls
    return found


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
        if not is_list(calls) or not calls:
            raise SpecError(f"the tool_calls of {what} are {shown(calls)}, not a list of calls", hint=_CALL_HINT)
        for number, call in enumerate(calls, 1):
            _check_call(f"call {number} of {what}", call)
    if answers != (role == "tool"):
        raise SpecError(
            f"{what} has the role {role!r} and {'a' if answers else 'no'} tool_call_id",
            hint="a message of the role tool answers a call, whose id is its tool_call_id",
        )


def _check_call(what: str, call: object) -> None:
    function = function_of(call)
    if not isinstance(call, Mapping) or function is None:
        raise SpecError(f"{what} is {shown(call)}, not the call of a function", hint=_CALL_HINT)
    known_keys(what, call, ("id", "type", "function"))
    known_keys(f"the function of {what}", function, ("name", "arguments"))
    if not _is_text(call.get("id")):
        raise SpecError(f"{what} has no id that is text", hint=_CALL_HINT)
    check_tool_name(f"the function of {what}", function.get("name"))
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


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)
