"""Text of a request stays text: control texts in it are broken up before a template sees them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unisono.errors import PromptError

_MARKS = [chr(code) for code in (*range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE))]
"""Private-use characters, one of which marks control texts that a user typed."""
_TEXTS = ("content", "tool_call_id", "name")


@dataclass(frozen=True, slots=True)
class Disguised:
    """What a template is given, with every control text of the request broken up."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    mark: str
    """What breaks them; empty when nothing had to be broken."""

    def plain(self, text: str) -> str:
        """A text that the template wrote, without the marks. A template may have escaped them, as JSON allows."""
        return text.replace(self.mark, "").replace(json.dumps(self.mark)[1:-1], "") if self.mark else text


def disguise(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None, controls: Iterable[str]
) -> Disguised:
    """Break up every control text that a request contains, so that only the template's own are left.

    Templates change the case of what stands in a tool's schema, so that in a conversation with tools a
    control text is broken up in whatever case it is written.

    Args:
        messages: as the template is to be given them.
        tools: as the template is to be given them.
        controls: the texts of the control tokens.
    """
    written = "\n".join(texts_of(messages, tools))
    plain = tools is None and not any(key in message for message in messages for key in ("tool_calls", "tool_call_id"))
    cases = [written] if plain else [written, written.lower(), written.upper()]
    typed = [control for control in controls if any(control in text for text in cases)]
    if not typed:
        return Disguised([dict(each) for each in messages], None if tools is None else [dict(t) for t in tools], "")
    mark = next((each for each in _MARKS if each not in written and json.dumps(each)[1:-1] not in written), None)
    if mark is None:
        raise PromptError("the prompt holds every private-use character there is", hint="remove some of them")
    pattern = re.compile(alternatives(typed), 0 if plain else re.IGNORECASE)

    def broken(text: str) -> str:
        return pattern.sub(lambda match: mark.join(match.group()) + mark, text)

    return Disguised(
        [_message(message, broken) for message in messages],
        None if tools is None else [_tool(tool, broken) for tool in tools],
        mark,
    )


def alternatives(texts: Iterable[str]) -> str:
    """A pattern of any of some texts, the longest that fits."""
    return "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True))


def texts_of(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """Every text of a request that a template may write, but for the roles."""
    found: list[str] = []

    def kept(text: str) -> str:
        found.append(text)
        return text

    for message in messages:
        _message(message, kept)
    for tool in tools or ():
        _tool(tool, kept)
    return found


def _message(message: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    changed = dict(message)
    changed |= {key: change(message[key]) for key in _TEXTS if isinstance(message.get(key), str)}
    if "tool_calls" in message:
        changed["tool_calls"] = [
            {**call, "id": change(call["id"]), "function": _everywhere(call["function"], change, keys=False)}
            for call in message["tool_calls"]
        ]
    return changed


def _tool(tool: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    return {**tool, "function": _everywhere(tool["function"], change, keys=False)}


def _everywhere(value: Any, change: Callable[[str], str], *, keys: bool = True) -> Any:
    """A value of JSON with every text in it changed, those that are keys too, but for the outermost."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key) if keys else key: _everywhere(inner, change) for key, inner in value.items()}
    if isinstance(value, list):
        return [_everywhere(inner, change) for inner in value]
    return value
