"""Whether a chat template reads a message's content as a list of parts alone, as those of models that see images do.

Such a template loops over ``{"type": "text", "text": …}`` and writes nothing of a text, without an error. So a message
of each role is rendered in both forms.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

ROLES = ("system", "user", "assistant", "tool")
_READS_PARTS = re.compile(r"\btext\b")
_SAID = "probe words"
_CALL = {"id": "probe0001", "type": "function", "function": {"name": "probe", "arguments": {}}}


def may_read_parts(source: str) -> bool:
    """Whether a template names the text of a part at all."""
    return _READS_PARTS.search(source) is not None


def parts_of(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def reads_parts_alone(role: str, rendered: Callable[[Sequence[Mapping[str, Any]]], str]) -> bool:
    """Whether text in a message of a role is written where it is given in parts, and not otherwise.

    ``rendered`` gives the empty text where the template refuses a conversation.
    """

    def written(content: object) -> bool:
        return any(_SAID in rendered(_around(role, content, others)) for others in ("Hi", parts_of("Hi")))

    return not written(_SAID) and written(parts_of(_SAID))


def _around(role: str, content: object, others: object) -> list[dict[str, Any]]:
    """A short conversation that has a message of a role in its place."""
    user = {"role": "user", "content": others}
    if role == "system":
        return [{"role": role, "content": content}, user]
    if role == "tool":
        calling = {"role": "assistant", "content": others, "tool_calls": [_CALL]}
        return [user, calling, {"role": role, "content": content, "name": "probe", "tool_call_id": "probe0001"}]
    return [user, {"role": role, "content": content}] if role == "assistant" else [{"role": role, "content": content}]
