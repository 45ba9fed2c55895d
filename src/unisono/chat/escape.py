"""Escape special tokens that a request contains as text, so that its text never becomes a special token."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unisono.errors import PromptError

_MARKS = [chr(code) for code in (*range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE))]
"""Private-use characters; one of them breaks up the special tokens that a user typed."""
_TEXTS = ("content", "tool_call_id", "name")


@dataclass(frozen=True, slots=True)
class Escaped:
    """Messages and tools with every special token in their text broken up by a mark."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    mark: str
    """Empty when nothing had to be escaped."""

    def plain(self, text: str) -> str:
        """Remove the marks from rendered text; a template may have written them as JSON escapes."""
        return text.replace(self.mark, "").replace(json.dumps(self.mark)[1:-1], "") if self.mark else text


def escape_special_tokens(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None, controls: Iterable[str]
) -> Escaped:
    """Break up every special token in the text of a request, so that only the template's own are left.

    Templates may change the case of a tool's schema, so with tools the case is ignored. ``messages`` and ``tools`` are
    in the form that the template expects; ``controls`` are the texts of the special tokens.
    """
    written = "\n".join(texts_of(messages, tools))
    plain = tools is None and not any(key in message for message in messages for key in ("tool_calls", "tool_call_id"))
    cases = [written] if plain else [written, written.lower(), written.upper()]
    typed = [control for control in controls if any(control in text for text in cases)]
    if not typed:
        return Escaped([dict(each) for each in messages], None if tools is None else [dict(t) for t in tools], "")
    mark = next((each for each in _MARKS if each not in written and json.dumps(each)[1:-1] not in written), None)
    if mark is None:
        raise PromptError("the prompt holds every private-use character there is", hint="remove some of them")
    longest_first = sorted(typed, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)), 0 if plain else re.IGNORECASE)

    def broken(text: str) -> str:
        return pattern.sub(lambda match: mark.join(match.group()) + mark, text)

    return Escaped(
        [_message(message, broken) for message in messages],
        None if tools is None else [{**t, "function": _everywhere(t["function"], broken, keys=False)} for t in tools],
        mark,
    )


def texts_of(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """Every text of a request that a template may write, except roles."""
    found: list[str] = []

    def kept(text: str) -> str:
        found.append(text)
        return text

    for message in messages:
        _message(message, kept)
    for tool in tools or ():
        _everywhere(tool["function"], kept, keys=False)
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


def _everywhere(value: Any, change: Callable[[str], str], *, keys: bool = True) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key) if keys else key: _everywhere(inner, change) for key, inner in value.items()}
    if isinstance(value, list):
        return [_everywhere(inner, change) for inner in value]
    return value
