"""What a conversation may hold: messages, the tools that may be called, their calls and the results.

The shapes are those of OpenAI's chat API. Whether a member can read a field depends on its chat template.
"""

from __future__ import annotations

import json
import math
import secrets
import string
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict, TypeGuard

from unisono.chat.continuation import check_last_message
from unisono.config.compact import known_keys, unique_keys
from unisono.errors import SpecError, shown
from unisono.user_files import short_float

LONGEST_TOOL_NAME = 128
SWITCHES = ("enable_thinking", "thinking")
"""Variables of templates that are true or false: Qwen's, and that of Granite, DeepSeek and Kimi."""
_MESSAGE_HINT = 'each message is {"role": "user", "content": "…"}'
_TOOL_HINT = 'each tool is {"type": "function", "function": {"name": "…", "description": "…", "parameters": {…}}}'
_CALL_HINT = 'each call is {"id": "…", "type": "function", "function": {"name": "…", "arguments": "{…}"}}'
_DEEPEST = 200
"""Levels of a schema, or of arguments; what is much deeper could not be written as JSON."""


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


RESERVED = ("role", "content", "tool_calls", "tool_call_id", "extra")
"""What no further key of a message may be."""
TEMPLATE_VARIABLES = (
    *("messages", "tools", "documents", "add_generation_prompt"),
    *("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"),
    "additional_special_tokens",
    *("raise_exception", "strftime_now", "namespace", "dict", "range", "cycler", "joiner", "lipsum"),
)
"""What every chat template is given, and so cannot be given beside it: the conversation, special tokens, functions."""


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
            checked = _checked_variables("template_kwargs", self.template_kwargs, TEMPLATE_VARIABLES)
            _check_truths("template_kwargs", checked)
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


def read_arguments(text: str) -> dict[str, Any]:
    """Read the JSON text of a call's arguments. Raises a `ValueError` where it is not that of an object, a key stands
    twice, or a number cannot be expressed in JSON.
    """
    try:
        value = json.loads(text, object_pairs_hook=unique_keys, parse_float=short_float)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("not an object")
    plain: dict[str, Any] = _plain("it", value)
    return plain


def past_arguments(text: str) -> Any:
    """What a past call gave, as templates are passed it: a value of JSON, or the text where it is none.

    A model may have written anything, or have been cut off; a text is what transformers would pass. No text is no
    arguments.
    """
    try:
        value = _plain("it", json.loads(text.strip() or "{}", object_pairs_hook=unique_keys, parse_float=short_float))
    except (ValueError, RecursionError):
        return text
    return text if value is None or isinstance(value, str) else value


def _check_message(what: str, message: object) -> None:
    calls = message.get("tool_calls") if isinstance(message, Mapping) else None
    texts = ("role",) if calls is not None and message.get("content") is None else ("role", "content")  # type: ignore[attr-defined]
    if not isinstance(message, Mapping) or not all(isinstance(message.get(key), str) for key in texts):
        raise SpecError(f"{what} has no role and content that are text", hint=_MESSAGE_HINT)
    known_keys(what, message, ("role", "content", "tool_calls", "tool_call_id", "name", "extra"))
    if "extra" in message:
        _checked_variables(f"extra of {what}", message["extra"], RESERVED)
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


def _checked_variables(what: str, given: object, reserved: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise SpecError(f"{what} is {shown(given)}, not a mapping of names to values", hint='write {"name": value}')
    if taken := next((key for key in given if key in reserved), None):
        raise SpecError(f"{what} holds {taken!r}, which has a place of its own", hint="leave it out there")
    plain: Mapping[str, Any] = _plain(what, given)
    return plain


def _check_truths(what: str, variables: Mapping[str, Any]) -> None:
    """Refuse text in the place of a truth value: a template takes every text that is not empty for true."""
    for name, value in variables.items():
        if not isinstance(value, str):
            continue
        if name in SWITCHES or value.strip().lower() in ("true", "false"):
            raise SpecError(
                f"{what} holds {name}: {shown(value)}, a text, which templates take for true",
                hint="write true or false, without quotation marks",
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
    plain: Tool = _plain(f"{what} ({function['name']})", tool)
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


def _plain(what: str, value: object, depth: int = 0) -> Any:
    if depth > _DEEPEST:
        raise SpecError(f"{what} is nested more than {_DEEPEST} levels deep", hint="give a flatter schema")
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(what, inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(what, inner, depth + 1) for inner in value]
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise SpecError(f"{what} holds {shown(value)}, which is not a JSON value", hint="give a JSON schema")
