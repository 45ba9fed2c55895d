"""Continuing the last message of a conversation: its prompt ends behind that message's content.

Templates write an END and more behind a message, and may trim it. So a character that no text has is put behind the
content, and what is rendered is cut there, as transformers does with a word (``continue_final_message`` of
`apply_chat_template`). White space at the content's end is kept for every member, also where a template trims it and
transformers would leave it out: all members go on from the same text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unisono.chat.escape import unused_mark
from unisono.errors import PromptError, SpecError, shown


def check_last_message(messages: Sequence[Mapping[str, Any]] | None, wanted: object) -> None:
    """Raise a `SpecError` where ``continue_final_message`` is no truth, or there is no such message."""
    if wanted is not True:
        raise SpecError(f"continue_final_message is {shown(wanted)}", hint="write true or false")
    if messages is None:
        raise SpecError("raw text is continued anyway", hint="give messages, or leave continue_final_message out")
    if not messages or messages[-1]["role"] != "assistant":
        last = f"one of the role {messages[-1]['role']!r}" if messages else "none"
        raise SpecError(
            f"the last message is to be continued, and it is {last}",
            hint="end with the assistant's message that is continued, or leave continue_final_message out",
        )


def with_end_marked(messages: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> tuple[list[dict[str, Any]], str]:
    """The messages with a mark behind the last one's content, and the mark, which none of a request's texts has."""
    mark = unused_mark("\n".join(texts))
    marked = [dict(message) for message in messages]
    marked[-1]["content"] = (marked[-1].get("content") or "") + mark
    return marked, mark


def up_to_mark(name: str, rendered: str, mark: str, marked: str) -> str:
    """A rendered conversation up to the end of the last message, whose content was ``marked``.

    Raises a `PromptError` where the template of the member ``name`` does not write it whole.
    """
    before, found, _ = rendered.rpartition(mark)
    content = marked.partition(mark)[0].lstrip()
    if not found or not before.endswith(content):
        raise PromptError(
            f"member {name!r} cannot continue the last message: its chat template does not write it as it is",
            hint="leave continue_final_message out, or give the member a chat_template in the ensemble file that "
            "writes it",
        )
    return before
