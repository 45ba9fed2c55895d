"""Read a request of the Responses API as a chat."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

from unisono.chat.messages import Message
from unisono.engine.service import Service
from unisono.server.api_call import ApiCall
from unisono.server.body import read_record
from unisono.server.errors import Refusal, invalid
from unisono.server.fields import unsupported
from unisono.server.json_size import has_more
from unisono.server.limits import ServerLimits
from unisono.server.reasoning import REASONING as THOUGHT
from unisono.server.requests import engine_of, read_chat
from unisono.server.responses_api.items import TOOLS, Conversation, text_of, tools_of
from unisono.server.responses_api.schemas import ResponseRequest
from unisono.server.responses_api.store import ResponseStore
from unisono.server.responses_api.tools import Offered, read_offered
from unisono.server.schemas import ChatRequest, GenerationFields

NOT_OF_CHATS = ("n", "model", "max_tokens", "max_completion_tokens")
"""Shared fields that are read apart."""
RENAMED = (
    (re.compile(r"\b(tools\[\d+\])\.function\b"), r"\1"),
    (re.compile(r"\bresponse_format\.json_schema\b"), "text.format"),
    (re.compile(r"\bresponse_format\b"), "text.format"),
    (re.compile(r"(?<![.\w])max_tokens\b"), "max_output_tokens"),
)
"""What errors of a chat call fields that have another name here."""


@dataclass(frozen=True, slots=True)
class ResponseCall(ApiCall):
    """A chat, and what its response repeats of the request."""

    asked: ResponseRequest | None = None
    owner: bytes = b""
    """Whose the response will be."""
    continued: str | None = None
    """The text of the last item, where that is continued."""
    own: Sequence[Any] = ()
    """Its own input items, with those that they refer to."""
    offered: Offered = field(default_factory=Offered)
    """Its tools."""


def read_response(
    request: ResponseRequest, service: Service, limits: ServerLimits, store: ResponseStore, owner: bytes
) -> ResponseCall:
    """Read a response. Raises a `Refusal` that names the wrong field."""
    engine_of(service, request.model)
    if request.n not in (None, 1):
        raise unsupported("n", request.n, "a response is one text")
    if request.n_probs:
        words = "use include: ['message.output_text.logprobs'], and top_logprobs"
        raise unsupported("n_probs", request.n_probs, words)
    if request.top_logprobs and request.likeliest is None:
        words = f"top_logprobs is {request.top_logprobs}, but include lacks message.output_text.logprobs"
        raise invalid("top_logprobs", words)
    own = store.resolve(own_items(request), owner, limits.body)
    items = _items(request, own, limits, store, owner)
    read = Conversation(request.instructions, strict=limits.strict)
    for name, item in items:
        read.add(name, item)
    if not read.messages or read.messages[-1][0] == "instructions":
        raise Refusal(400, "input is missing: give a question", param="input", code="missing_field")
    further = tools_of(items, request.tools or (), strict=limits.strict)
    offered = read_offered(request.tools, request.tool_choice, further=further, strict=limits.strict)
    names, given = [name for name, _ in read.messages], [message for _, message in read.messages]
    if not limits.strict:
        for place, thought in read.thoughts.items():
            given[place].setdefault(THOUGHT, thought)
    wanted = _chat_fields(request, given, offered)
    try:
        chat = read_record(ChatRequest, wanted, {}, strict=limits.strict)
        call = read_chat(chat, service, limits, names)
    except Refusal as refusal:
        raise renamed(refusal, offered) from None
    if limits.strict:  # which takes no such key of a client's
        call = _with_thoughts(call, read.thoughts)
    prompt = call.first.prompt
    last: Any = next((item for _, item in reversed(items) if item.get("type") not in ("reasoning", TOOLS)), {})
    continued = text_of(last.get("content")) if prompt.continue_final_message else None
    call = replace(
        call,
        constraint_field=_in_responses(call.constraint_field, offered),
        left_out=offered.left_out,
    )
    known = {key.name: getattr(call, key.name) for key in fields(call)}
    return ResponseCall(**known, asked=request, owner=owner, continued=continued, own=own, offered=offered)


def _with_thoughts(call: ApiCall, thoughts: Mapping[int, str]) -> ApiCall:
    """A call whose messages have what was reasoned before them, by their places."""
    [request] = call.requests
    messages = [
        {**message, "extra": {THOUGHT: thoughts[place]}} if place in thoughts else message
        for place, message in enumerate(request.prompt.messages or ())
    ]
    prompt = replace(request.prompt, messages=cast(list[Message], messages))
    return replace(call, requests=(replace(request, prompt=prompt),))


def _items(
    request: ResponseRequest, own: Sequence[Any], limits: ServerLimits, store: ResponseStore, owner: bytes
) -> list[tuple[str, Any]]:
    """The items of the conversation, those that are stored first, with their names."""
    previous = request.previous_response_id
    before = [] if previous is None else store.conversation(previous, owner, limits.body)
    if has_more([before, own], limits.values):
        words = f"the conversation has more than {limits.values} values, which is what this server takes"
        param = "input" if previous is None else "previous_response_id"
        raise Refusal(400, words, param=param, code="context_length_exceeded")
    named = [(f"previous_response_id.items[{place}]", item) for place, item in enumerate(before)]
    return named + [(f"input[{place}]", item) for place, item in enumerate(own)]


def own_items(request: ResponseRequest) -> Sequence[Any]:
    """The items of a request's own input."""
    if isinstance(request.input, str):
        name = {"type": "message", "role": "user", "content": request.input}
        return [name] if request.input else []
    return request.input or []


def _chat_fields(request: ResponseRequest, messages: list[Any], offered: Offered) -> dict[str, Any]:
    """A chat's fields that ask for the same."""
    shared = [name for name in GenerationFields.model_fields if name not in NOT_OF_CHATS]
    text = request.text
    more = {
        "model": request.model,
        "messages": messages,
        "max_tokens": _most(request),
        "response_format": None if text is None else _chat_format(text.format),
        "tools": [*offered.functions] or None,
        "tool_choice": offered.choice,
        "parallel_tool_calls": request.parallel_tool_calls,
        "logprobs": True if request.likeliest is not None else None,
        "top_logprobs": request.likeliest,
        "reasoning": _dumped(request.reasoning, leave_out=("generate_summary", "context", "mode")),
        "chat_template_kwargs": request.chat_template_kwargs,
    }
    given = {name: _dumped(getattr(request, name)) for name in shared} | more
    return {name: value for name, value in given.items() if value is not None}


def _chat_format(given: Any) -> Any:
    """A format whose schema stands beside its type, as chats have it."""
    if given is None or given.get("type") != "json_schema" or "json_schema" in given or "schema" not in given:
        return given
    return {"type": "json_schema", "json_schema": {key: value for key, value in given.items() if key != "type"}}


def _most(request: ResponseRequest) -> int | None:
    given = {name: getattr(request, name) for name in ("max_output_tokens", "max_tokens", "max_completion_tokens")}
    values = {name: value for name, value in given.items() if value is not None}
    if len(set(values.values())) > 1:
        first, *others = values
        raise invalid(others[0], f"{first} is {values[first]}, but {others[0]} is {values[others[0]]}: leave one out")
    return next(iter(values.values()), None)


def _dumped(value: Any, leave_out: Sequence[str] = ()) -> Any:
    if not hasattr(value, "model_dump"):
        return value
    return {name: each for name, each in value.model_dump(exclude_none=True).items() if name not in leave_out}


def renamed(refusal: Refusal, offered: Offered) -> Refusal:
    """A refusal of a chat in the words of responses."""
    refusal.message = _in_responses(refusal.message, offered)
    if refusal.param is not None:
        refusal.param = _in_responses(refusal.param, offered)
    if refusal.param == "messages":
        refusal.param = "input"
    return refusal


def _in_responses(words: str, offered: Offered) -> str:
    """Words in which fields have a chat's names, with those of a response."""
    for pattern, name in RENAMED:
        words = pattern.sub(name, words)
    return offered.in_request(words)
