"""What a chat template does not do that chats need: open an answer, read a system message, go on after an answer.

It is found by rendering short conversations, so that `doctor` and loading can say it before anybody asks.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from unisono.chat.messages import Message
from unisono.chat.template import WORDS, ChatTemplate, TemplateFailure
from unisono.chat.template_probe import PROBE_TOOLS, QUESTION, REPLY
from unisono.chat.tools import Tool
from unisono.errors import shown

FIRST, LAST = "Probe question.", "Probe follows."


def template_faults(template: ChatTemplate) -> tuple[str, ...]:
    """What a template refuses or leaves out, in words that follow "the chat template of NAME"."""
    if template.faults:
        return tuple(f"is at fault, and not used: {fault}" for fault in template.faults)
    if not template.fits(with_tools=False):
        return ()  # none was chosen, which is said in other words
    if (refused := _refusal(template, [QUESTION])) is not None:
        if _refusal(template, [QUESTION], PROBE_TOOLS) is None:
            return (f"refuses a question where no tools are given: {refused}",)
        return (f"refuses even a plain question, so that no message can be answered: {refused}",)
    found = list[str]()
    turns = [_user(FIRST), Message(role="assistant", content=REPLY), _user(LAST)]
    if (refused := _refusal(template, [_system(), QUESTION])) is not None:
        found.append(f"refuses a system message, and so do requests that have one: {refused}")
    elif not hears_system(template):
        found.append("leaves out a system message")
    if (refused := _refusal(template, turns)) is not None:
        found.append(f"refuses a conversation of two turns: {refused}")
    elif lost := [
        what for what, text in (("question", FIRST), ("answer", REPLY)) if not _writes(template, turns, text)
    ]:
        found.append(f"leaves the first {' and '.join(lost)} out of a conversation of two turns")
    if unopened := _unopened(template):
        found.append(
            f"writes {shown(unopened)} before answers, and not where one is asked for (it ignores "
            "add_generation_prompt): members would have to write it, and control tokens they cannot"
        )
    return tuple(found)


def _unopened(template: ChatTemplate) -> str:
    """What a template writes between a question and an answer, and not at the end of a prompt, asked for or not."""
    try:
        asked, prompt = (template.probe([QUESTION], add_generation_prompt=add) for add in (False, True))
        answered = [QUESTION, Message(role="assistant", content=REPLY)]
        whole = template.probe(answered, add_generation_prompt=False)
    except TemplateFailure:
        return ""
    between, found, _ = whole.removeprefix(prompt).partition(REPLY)
    return between if found and asked == prompt and whole.startswith(prompt) and between.strip() else ""


@functools.lru_cache(64)
def hears_system(template: ChatTemplate, *, with_tools: bool = False) -> bool:
    """Whether a template writes a system message that comes first; true where it refuses one."""
    return _writes(template, [_system(), QUESTION], REPLY, PROBE_TOOLS if with_tools else None)


def _writes(
    template: ChatTemplate, messages: Sequence[Message], text: str, tools: Sequence[Tool] | None = None
) -> bool:
    try:
        return text.casefold() in template.probe(messages, tools=tools).casefold()
    except TemplateFailure:
        return True


def _refusal(template: ChatTemplate, messages: Sequence[Message], tools: Sequence[Tool] | None = None) -> str | None:
    try:
        template.probe(messages, tools=tools)
    except TemplateFailure as failure:
        return " ".join(str(failure).split())[:WORDS]
    return None


def _user(text: str) -> Message:
    return Message(role="user", content=text)


def _system() -> Message:
    return Message(role="system", content=REPLY)
