"""Escape special tokens that a request contains as text, so that its text never becomes a special token."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unisono.constraints.json_schema import KEYWORDS, REMARKS, TYPES
from unisono.errors import PromptError
from unisono.vocab.controls import Controls, folded

_MARKS = [chr(code) for code in (*range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE))]
"""Private-use characters; one of them breaks up the special tokens that a user typed."""
_OF_MESSAGES = {"role", "content", "tool_calls", "tool_call_id", "name"}
_OF_FUNCTIONS = {"name", "description", "parameters", "strict"}
_OF_CALLS = {"name", "arguments"}
"""Keys that are not the client's words. All others are, and templates may write them."""
_WORDS = {*KEYWORDS, *REMARKS, "nullable"}
_SIMPLE = {"role", "content", "name"}
"""Keys whose text templates write as it is."""


@dataclass(frozen=True, slots=True)
class Escaped:
    """Messages and tools with every special token in their text broken up by a mark."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    variables: dict[str, Any]
    mark: str
    """Empty when nothing had to be escaped."""

    def plain(self, text: str) -> str:
        """Remove the marks from rendered text; a template may have written them as JSON escapes."""
        return text.replace(self.mark, "").replace(json.dumps(self.mark)[1:-1], "") if self.mark else text


def escape_special_tokens(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    controls: Controls,
    variables: Mapping[str, Any] | None = None,
    *,
    apart: Callable[[str], bool] | None = None,
    any_case: bool = False,
) -> Escaped:
    """Break up every special token in the text of a request, so that only the template's own are left.

    Templates may change the case of a tool's schema, so the case counts only where a conversation is plain text, and
    not there either in ``any_case``, for a template that may change the case of any text. The
    names of ``variables`` stay as they are: a template reads one by its name, and cannot list them.
    ``messages`` and ``tools`` are in the form that the template expects, ``variables`` what it is given beside them.
    ``apart`` says before and behind which texts a mark stands as well, so that none joins what a template writes beside
    it to a special token (`Edges`). Words of JSON Schema stay as they are: templates look for them.
    """
    variables = dict(variables or {})
    written = "\n".join(texts_of(messages, tools, variables))
    plain = not any_case and tools is None and not variables and all(message.keys() <= _SIMPLE for message in messages)
    pattern = controls.spelled if plain else controls.spelled_in_any_case
    typed = pattern.search(written) or (not plain and controls.folded.search(folded(written)))
    if not typed and not apart:
        kept = None if tools is None else [dict(tool) for tool in tools]
        return Escaped([dict(each) for each in messages], kept, variables, "")
    mark = unused_mark(written)
    growing = [] if plain else [letter for letter in sorted(set(written)) if len(folded(letter)) > 1]  # such as ﬁ

    def broken(text: str) -> str:
        if typed:
            text = pattern.sub(lambda match: mark.join(match.group()) + mark, text)
            for letter in growing:
                text = text.replace(letter, f"{mark}{letter}{mark}")
        return f"{mark}{text}{mark}" if apart is not None and text and apart(text) else text

    return Escaped(
        [_message(message, broken) for message in messages],
        None if tools is None else [_tool(tool, broken) for tool in tools],
        _record(variables, broken, variables.keys()),
        mark,
    )


def unused_mark(written: str) -> str:
    """A character that a text has in no form. Raises a `PromptError` where there is none."""
    mark = next((each for each in _MARKS if each not in written and json.dumps(each)[1:-1] not in written), None)
    if mark is None:
        raise PromptError("the prompt holds every private-use character there is", hint="remove some of them")
    return mark


class Edges:
    """Parts of special tokens: whether a text may become one together with what stands beside it."""

    def __init__(self, controls: Iterable[str]) -> None:
        lower = [folded(control) for control in controls]  # templates may change the case of a text
        self._heads = {control[:size] for control in lower for size in range(1, len(control))}
        self._tails = {control[-size:] for control in lower for size in range(1, len(control))}
        self._all = "\0".join(lower)
        self._longest = max(map(len, lower), default=0)

    def may_join(self, text: str) -> bool:
        """Whether a text begins as a special token ends, ends as one begins, or is the middle of one."""
        text = folded(text)
        sizes = range(1, min(len(text) + 1, self._longest))
        joins = any(text[-size:] in self._heads or text[:size] in self._tails for size in sizes)
        return joins or (text != "" and text in self._all)


def texts_of(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    variables: Mapping[str, Any] | None = None,
) -> list[str]:
    """Every text of a request that a template may write, except roles."""
    found: list[str] = []

    def kept(text: str) -> str:
        found.append(text)
        return text

    for message in messages:
        _message(message, kept)
    for tool in tools or ():
        _record(tool["function"], kept, _OF_FUNCTIONS)
    _record(variables or {}, kept, ())
    return found


def _message(message: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    apart = {key: message[key] for key in ("role", "tool_calls") if key in message}
    changed = _record({**message, **dict.fromkeys(apart)}, change, _OF_MESSAGES) | apart
    if "tool_calls" in message:
        changed["tool_calls"] = [
            {**call, "id": change(call["id"]), "function": _record(call["function"], change, _OF_CALLS)}
            for call in message["tool_calls"]
        ]
    return changed


def _tool(tool: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    function = tool["function"]
    changed = _record(function, change, _OF_FUNCTIONS)
    if "parameters" in function:
        changed["parameters"] = _schema(function["parameters"], change)
    return {**tool, "function": changed}


def _schema(schema: Any, change: Callable[[str], str]) -> Any:
    """A schema with every text changed but the words of JSON Schema."""
    if isinstance(schema, Mapping):
        kept = {key: value for key, value in schema.items() if key == "type" and _is_type(value)}
        changed = {key if key in _WORDS else change(key): _schema(value, change) for key, value in schema.items()}
        return changed | kept
    if isinstance(schema, list | tuple):
        return [_schema(inner, change) for inner in schema]
    return change(schema) if isinstance(schema, str) else schema


def _is_type(value: object) -> bool:
    return value in TYPES if isinstance(value, str) else isinstance(value, list) and all(map(_is_type, value))


def _record(record: Mapping[str, Any], change: Callable[[str], str], known: Collection[str]) -> dict[str, Any]:
    """A record with every text changed, and every key but the known ones."""
    return {key if key in known else change(key): _everywhere(value, change) for key, value in record.items()}


def _everywhere(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return _record(value, change, ())
    if isinstance(value, list | tuple):
        return [_everywhere(inner, change) for inner in value]
    return value
