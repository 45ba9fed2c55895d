"""Past answers that hold their reasoning as text, as clients send back what other servers gave them."""

from __future__ import annotations

from collections.abc import Sequence

from unisono.chat.messages import Message, content_of
from unisono.vocab.marks import MarkForms


def set_apart(messages: Sequence[Message], marks: MarkForms, texts: Sequence[str]) -> list[Message]:
    """Move reasoning at the beginning of past answers to where chat templates look for it, which keep or drop it.

    As text it would be spelled in letters, as nothing that a client sends becomes a mark. A template that opens
    reasoning in its prompts makes answers that hold the end alone. ``texts`` are those of tokens.
    """
    begin, end = (marks.anywhere.get(mark, ()) for mark in ("reasoning_begin", "reasoning_end"))
    if marks.at_opening or len(begin) != 1 or len(end) != 1:
        return list(messages)
    return [_split(message, texts[begin[0]], texts[end[0]]) for message in messages]


def _split(message: Message, begin: str, end: str) -> Message:
    content = content_of(message)
    if message["role"] != "assistant" or end not in content:
        return message
    thought, _, answer = content.partition(end)
    opened = thought.lstrip().startswith(begin)
    if not opened and begin in content:
        return message
    thought = thought.lstrip().removeprefix(begin).strip()
    extra = {**({"reasoning_content": thought} if thought else {}), **message.get("extra", {})}
    changed: Message = {**message, "content": answer.lstrip("\n")}
    return {**changed, "extra": extra} if extra else changed
