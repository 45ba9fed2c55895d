"""A conversation as one member hears it: with its own system message and prefix, and past reasoning in its place.

Clients send the reasoning of past answers under several names, or as text before an answer's content, as servers that
do not keep it apart return it. No text becomes a mark, so that what a template would write of it is given apart.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from unisono.chat.mark_probe import CONVENTIONAL, KEYS
from unisono.chat.messages import Message, content_of
from unisono.chat.template import ChatTemplate, TemplateFailure
from unisono.chat.template_faults import hears_system
from unisono.chat.template_probe import QUESTION, RESULT, probe_tool_use, writes_name, writes_users
from unisono.chat.tools import Tool
from unisono.errors import PromptError, shown
from unisono.vocab.marks import MarkForms
from unisono.vocab.tokenizer import TokenTable

KEY, *_ = KEYS
_OF_TOOLS = {"tool_calls", "tool_call_id"}
_LINES = 8
"""Of a message that are looked for in what a template wrote: a message may have as many as a prompt has characters."""


class Unwritten(PromptError):
    """A template refuses messages, or passes one over."""


def own_messages(messages: Sequence[Message], system: str | None, prefix: str | None) -> list[Message]:
    """A conversation with a member's own system message and prefix.

    The member's system text comes first, and that of the request follows in the same message, after a blank line. The
    prefix comes right before the content of the first user message.
    """
    own = list(messages)
    if prefix is not None:
        first = next((place for place, message in enumerate(own) if message["role"] == "user"), None)
        if first is not None:
            own[first] = {**own[first], "content": prefix + content_of(own[first])}
    if system is not None:
        if own and own[0]["role"] == "system":
            own[0] = {**own[0], "content": f"{system}\n\n{content_of(own[0])}"}
        else:
            own.insert(0, Message(role="system", content=system))
    return own


def check_messages(messages: Sequence[Message]) -> None:
    """Raise a `PromptError` where there is nothing to answer, or a role is no name."""
    if not any(content_of(message) or message["role"] == "tool" for message in messages):
        raise PromptError("the prompt is empty", hint="give some text to answer")
    for message in messages:
        if not re.fullmatch(r"[A-Za-z_]+", message["role"]):
            raise PromptError(f"{message['role']!r} is not the name of a role", hint="use system, user or assistant")


def check_conversation(
    name: str,
    template: ChatTemplate,
    messages: Sequence[Message],
    tools: Sequence[Tool] | None,
    variables: Mapping[str, Any] | None,
) -> None:
    """Raise a `PromptError` where the template of the member ``name`` cannot write all that is given, as it is."""
    if not template.fits(with_tools=tools is not None):
        raise PromptError(
            f"member {name!r} has the chat templates {', '.join(template.names)}, and none is the default",
            hint=f"name one in the ensemble file: chat_template: {template.names[0]}",
        )
    check_messages(messages)
    _check_known(name, template, messages, tools)
    if taken := template.special_names & (variables or {}).keys():
        raise PromptError(
            f"template_kwargs holds {min(taken)!r}, which is the name of a special token of member {name!r}",
            hint="leave it out there: the model's files say which token that is",
        )


def _check_known(name: str, template: ChatTemplate, messages: Sequence[Message], tools: Sequence[Tool] | None) -> None:
    if tools is not None and not probe_tool_use(template).tools:
        raise _unread(name, "tools", "does not write tools")
    own_tools = tools is not None and template.for_tools
    for message in messages:
        use = probe_tool_use(template, with_tools=tools is not None) if message.keys() & _OF_TOOLS else None
        if use is not None and "tool_calls" in message and use.style is None:
            only = tools is None and probe_tool_use(template).style is not None
            raise _unread(name, "tool_calls", "does not write calls" + (" where no tools are given" if only else ""))
        if use is not None and "tool_calls" in message and content_of(message) and not use.content_beside_calls:
            words = "does not write the content of a message with tool_calls"
            raise _unread(name, "content", words, kind=Unwritten)
        if use is not None and message["role"] == "tool" and not use.results:
            raise _unread(name, "role tool", "does not write the answers to calls")
        role = message["role"] if "name" in message else "tool"  # whose name is that of the function
        if role != "tool" and not writes_name(template, role, with_tools=own_tools):
            raise _unread(name, "name", f"does not write the name of a message of the role {role}")


def check_continued(name: str, message: Message, template: ChatTemplate, marks: MarkForms, table: TokenTable) -> None:
    """Raise a `PromptError` where a message that is to be continued ends within reasoning: no text becomes a mark."""
    pairs = _pairs(template, marks, table)
    content = content_of(_split(message, pairs)).lstrip()
    if begin := next((begin for begin, _ in pairs if begin and content.startswith(begin.strip())), None):
        raise PromptError(
            f"member {name!r} cannot continue reasoning: the last message begins with {begin.strip()!r} and no end",
            hint="end the reasoning there, or leave it out: the answer is continued",
        )


def check_arguments(name: str, messages: Sequence[Mapping[str, Any]], written: str) -> None:
    """Raise a `PromptError` where past arguments that are no object, as a template is given them, are not written."""
    calls = [call for message in messages for call in message.get("tool_calls", ())]
    odd = [value for call in calls if not isinstance(value := call["function"]["arguments"], Mapping)]
    bare = "".join(written.split()) if odd else ""
    for value in odd:
        if not any("".join(form.split()) in bare for form in _forms(value)):
            raise PromptError(
                f"member {name!r} cannot read the arguments {shown(value)} of a past call: its chat template writes an "
                "object alone",
                hint='send the call with arguments that are an object, such as {"input": "…"}, or leave it out',
            )


def _forms(value: Any) -> list[str]:
    """How a template may write a value: as JSON, and a text also as it is."""
    texts = [json.dumps(value, ensure_ascii=ascii_only) for ascii_only in (False, True)]
    return [value, *(text[1:-1] for text in texts)] if isinstance(value, str) else texts


def check_alike(name: str, text: str, rendered: str, apart: str) -> None:
    """Raise a `PromptError` where a template writes something else once texts are kept apart from its tokens.

    ``text`` is one that may be why.
    """
    if "".join(rendered.split()) != "".join(apart.split()):
        raise PromptError(
            f"member {name!r} cannot read a text such as {shown(text)}: beside what its chat template writes, it "
            "spells a special token, or the template compares it with words of its own",
            hint="write the text otherwise, or give the member another template (chat_template: …)",
        )


def check_rows(name: str, table: TokenTable, controls: Iterable[int]) -> None:
    """Raise a `PromptError` where a template writes a token for which the model of the member ``name`` has no row."""
    for token in controls:
        if token >= len(table.texts):
            raise PromptError(
                f"the chat template of member {name!r} writes {table.beyond[token - len(table.texts)][0]!r}, "
                f"token {token}, and its model knows only the ids below {len(table.texts)}",
                hint="take a model whose vocabulary was resized with its tokenizer's, "
                "or give the member a chat_template without that token",
            )


def _unread(name: str, field: str, words: str, *, kind: type[PromptError] = PromptError) -> PromptError:
    return kind(
        f"member {name!r} cannot read {field}: its chat template {words}",
        hint="leave that out, or give the member a chat_template in the ensemble file that writes it",
    )


def check_asked(name: str, template: ChatTemplate, messages: Sequence[Mapping[str, Any]], *, with_tools: bool) -> None:
    """Raise a `PromptError` where a user asks, and the template writes no user's words."""
    if any(message["role"] == "user" for message in messages) and not writes_users(template, with_tools=with_tools):
        raise _unread(name, "content", "does not write what a user says")


def check_heard(
    name: str, template: ChatTemplate, messages: Sequence[Mapping[str, Any]], rendered: str, *, with_tools: bool
) -> None:
    """Raise a `PromptError` where a template passes over a system message, as several do after the first message.

    One of its first lines that is written is enough, also as JSON or in another case: some templates change a message's
    ends, or take words out of it. Of a first one they may take all: whether it is read is found by asking the template.
    """
    first = next((message["content"] for message in messages[:1] if message["role"] == "system"), "")
    if str(first).strip() and not hears_system(template, with_tools=with_tools):
        raise PromptError(
            f"member {name!r} cannot read system messages: its chat template passes them over",
            hint="write it into the first question, or give the member a chat_template that writes it",
        )
    later = [message.get("content") for message in messages[1:] if message["role"] == "system"]
    contents = [content for content in later if isinstance(content, str) and content.strip()]
    written = rendered.casefold() if contents else ""
    for content in contents:
        lines = [line.strip() for line in content.strip().split("\n", _LINES)[:_LINES] if line.strip()]
        if not any(form.casefold() in written for line in lines for form in _forms(line)):
            raise Unwritten(
                f"member {name!r} cannot read the system message {shown(content)}: its chat template passes it over",
                hint="write it into the first message, or as a user, or give the member a chat_template that writes it",
            )


def check_results(
    name: str, messages: Sequence[Mapping[str, Any]], render: Callable[[Sequence[Mapping[str, Any]]], str]
) -> None:
    """Raise a `PromptError` where a template passes over a result that does not stand right behind its call.

    Results may be alike, so each gets a word of its own for this.
    """
    calls, words = set[str](), dict[int, str]()
    for place, message in enumerate(messages):
        if message["role"] != "tool":
            calls = {call["id"] for call in message.get("tool_calls", ())}
        elif message["tool_call_id"] in calls:
            calls.remove(message["tool_call_id"])
        elif message.get("content"):
            words[place] = f"{RESULT} {place} of {len(messages)}"
    if not words:
        return
    written = render([{**each, "content": words[n]} if n in words else each for n, each in enumerate(messages)])
    for place, word in words.items():
        if word not in written:
            raise PromptError(
                f"member {name!r} cannot read the result {shown(messages[place]['content'])}, before which no call "
                "stands: its chat template passes it over",
                hint="send the assistant's message with the call, too, or leave the result out",
            )


def with_past_reasoning(
    messages: Sequence[Message], template: ChatTemplate, marks: MarkForms, table: TokenTable
) -> list[Message]:
    """A conversation whose past reasoning stands under a key that a template reads, if it reads one.

    It is cut from the content of answers that begin with it, for a member that marks reasoning.
    """
    names = [key for key in KEYS if re.search(rf"""[.'"]{key}\b""", template.source)]
    pairs = _pairs(template, marks, table)
    return [_placed(_split(message, pairs), names) for message in messages]


def _pairs(template: ChatTemplate, marks: MarkForms, table: TokenTable) -> list[tuple[str, str]]:
    """The texts around reasoning: a member's own, and those of other models; none where it marks no reasoning.

    One begins nowhere, for answers of a template that writes the beginning into the prompt.
    """
    if "reasoning_end" not in marks.known:
        return []
    begin, end = (
        "".join(table.texts[token] for token in marks.anywhere.get(mark, ()))
        for mark in ("reasoning_begin", "reasoning_end")
    )
    own = [(begin, end)] if begin and end else []
    if own and _opens_reasoning(template, begin):
        own.append(("", end))
    return [*own, *CONVENTIONAL]


@functools.lru_cache(64)
def _opens_reasoning(template: ChatTemplate, begin: str) -> bool:
    """Whether a prompt ends inside reasoning by default."""
    try:
        return template.probe([QUESTION]).rstrip().endswith(begin.strip())
    except TemplateFailure:
        return False


def _split(message: Message, pairs: Sequence[tuple[str, str]]) -> Message:
    content, given = content_of(message).lstrip(), message.get("extra", {})
    if message["role"] != "assistant":
        return message
    for begin, end in pairs:
        thought, found, rest = content.removeprefix(begin).partition(end)
        thought = thought.strip()
        opens = content.startswith(begin) if begin else thought and pairs[0][0] not in content
        if opens and found and given.get(KEY, thought) in (thought, None):
            split: Message = {**message, "content": rest.lstrip()}
            return {**split, "extra": {**given, KEY: thought}} if thought else split
    return message


def _placed(message: Message, names: Sequence[str]) -> Message:
    given = message.get("extra", {})
    key = next((key for key in KEYS if given.get(key) and isinstance(given[key], str)), None)
    if message["role"] != "assistant" or key is None or not names or given.keys() & set(names):
        return message
    if names[0] == "thinking" and message.get("tool_calls") and content_of(message):
        return message  # gpt-oss takes one of them beside calls, and the content was said
    return {**message, "extra": {**given, names[0]: given[key]}}
