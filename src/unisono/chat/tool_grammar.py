"""The grammar of answers that have to call tools, in the dialect of Lark that llguidance reads.

Its ``%json {…}`` stands for a value by a JSON schema (llguidance's own pages on its syntax and on JSON Schema). The
schema of a tool's parameters is one by itself, so that what it refers to by ``#/…`` is found.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from unisono.chat.call_form import CallForm
from unisono.chat.messages import Tool
from unisono.constraints.json_schema import JSON_OPTIONS, OPTIONS, SPACING, check_schema
from unisono.errors import SpecError, nearest, shown
from unisono.vocab.controls import cut_controls


def call_grammar(
    form: CallForm,
    tools: Sequence[Tool],
    chosen: str | None = None,
    *,
    several: bool = False,
    free: bool = False,
    answer: Any = None,
) -> str:
    """Write the grammar of an answer that calls tools, spelled as the form spells calls.

    Args:
        form: of the calls.
        tools: that may be called.
        chosen: the only one that may be.
        several: whether there may be more calls than one, where the form can write them.
        free: whether any text may stand before the calls, or instead of them.
        answer: the JSON schema of an answer that is no call; ``None`` where it has to be one.

    Raises:
        SpecError: ``chosen`` is none of the tools, or no grammar can keep a tool's schema.
    """
    names = [tool["function"]["name"] for tool in tools]
    if chosen is not None and chosen not in names:
        raise SpecError(
            f"the tool {shown(chosen)} is to be called, and there is none of that name{nearest(chosen, names)}",
            hint=f"choose one of {', '.join(names)}",
        )
    allowed = [tool for tool in tools if chosen in (None, tool["function"]["name"])]
    if free:
        lines = _freely(form)
    else:
        lines = [f"start: {_marked(form, form.opening)} calls" + ("" if answer is None else " | answer")]
    if answer is not None:
        lines.append(f"answer: %json {json.dumps({**answer, OPTIONS: {**JSON_OPTIONS, **SPACING}})}")
    more = f" ({_marked(form, form.between)} call)*" if several and form.between is not None else ""
    lines.append(f"calls: call{more} {_marked(form, form.closing)}")
    lines.append("call: " + " | ".join(f"call_{number}" for number in range(len(allowed))))
    for number, tool in enumerate(allowed):
        if answer is not None and not form.opening.strip():
            lines.append(f"call_{number}: %json {json.dumps(_whole(form, tool))}")
            continue
        before, behind = form.framed(tool["function"]["name"])
        lines.append(f"call_{number}: {_literal(before)} arguments_{number} {_literal(behind)}")
        lines.append(f"arguments_{number}: %json {json.dumps(_schema(form, tool))}")
    return "\n".join(lines) + "\n"


def _freely(form: CallForm) -> list[str]:
    """Any text without a call's mark; with it, a call follows. Where a call has no mark, it is all of the answer."""
    mark = form.opening.strip()
    if form.begin_token is not None:  # it is no text, and text that reads like it is none of the answer's
        return [
            f"start: before {_marked(form, form.opening)} calls | TEXT |",
            "before: TEXT |",
            _text_without(form.begin_token),
        ]
    if not mark:
        return ["start: calls | TEXT |", r"TEXT: /(?s:.+)/ & ~/\s*\{(?s:.*)/"]
    return [
        "start: before calls | TEXT |" if form.opening.endswith(mark) else "start: before begin calls | TEXT |",
        f"before[suffix={json.dumps(mark)}]: /(?s:.*)/",
        f"begin: {json.dumps(form.opening.partition(mark)[2])}",
        _text_without(mark),
    ]


def _marked(form: CallForm, text: str) -> str:
    """What stands around calls, as literals and, in the place of control tokens, marks."""
    marks = {form.begin_token: "call_begin", form.end_token: "call_end"}
    parts = cut_controls(text, {token: 0 for token in marks if token is not None})
    return " ".join(_literal(part) if control is None else f"<|{marks[part]}|>" for part, control in parts)


def no_call_grammar(form: CallForm) -> str | None:
    """Any text without a call's mark; ``None`` where calls have none, and so cannot be told from JSON."""
    mark = form.opening.strip()
    return f"start: TEXT |\n{_text_without(mark)}\n" if mark else None


def _text_without(mark: str) -> str:
    return f"TEXT: /(?s:.+)/ & ~/(?s:.*){re.escape(mark).replace('/', chr(92) + '/')}(?s:.*)/"


def _literal(text: str) -> str:
    return json.dumps(text) if text else ""


def _schema(form: CallForm, tool: Tool) -> dict[str, Any]:
    return {"type": "object", **parameters_of(tool), OPTIONS: _options(form)}


def _options(form: CallForm) -> dict[str, Any]:
    if form.separators is None:
        return {**JSON_OPTIONS, "whitespace_flexible": True}
    item, key = form.separators
    return {**JSON_OPTIONS, "whitespace_flexible": False, "item_separator": item, "key_separator": key}


def _whole(form: CallForm, tool: Tool) -> dict[str, Any]:
    """The schema of a call without marks: one grammar of JSON cannot be told from another by its first character."""
    named = (form.name_key, {"const": tool["function"]["name"]})
    moved = _moved(parameters_of(tool), f"/properties/{form.arguments_key}")
    arguments = (form.arguments_key, {"type": "object", **moved})
    return {
        "type": "object",
        "properties": dict([named, arguments] if form.name_first else [arguments, named]),
        "required": [form.name_key, form.arguments_key],
        "additionalProperties": False,
        OPTIONS: _options(form),
    }


def _moved(schema: Any, place: str) -> Any:
    """A schema whose references hold where it is a part of another."""
    if isinstance(schema, list):
        return [_moved(inner, place) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: f"#{place}{inner[1:]}" if key == "$ref" and str(inner).startswith("#") else _moved(inner, place)
        for key, inner in schema.items()
    }


def parameters_of(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments: only the empty object, where it names none. Raises a `SpecError`."""
    parameters = tool["function"].get("parameters")
    schema = {"properties": {}, "additionalProperties": False} if parameters is None else dict(parameters)
    check_schema(schema)
    return schema
