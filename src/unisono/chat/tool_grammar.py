"""The grammar of answers that have to call tools, in the dialect of Lark that llguidance reads.

Its ``%json {…}`` stands for a value by a JSON schema (llguidance's own pages on its syntax and on JSON Schema). The
schema of a tool's parameters is one by itself, so that what it refers to by ``#/…`` is found.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from unisono.chat.call_form import CallForm
from unisono.chat.messages import Tool
from unisono.constraints.json_schema import JSON_OPTIONS, OPTIONS, check_schema
from unisono.errors import SpecError, nearest, shown


def call_grammar(form: CallForm, tools: Sequence[Tool], chosen: str | None = None, *, several: bool = False) -> str:
    """Write the grammar of an answer that is nothing but calls, spelled as the form spells them.

    With ``chosen``, only that tool may be called; ``several`` allows more calls where the form can write them. Raises a
    `SpecError` where ``chosen`` is none of the tools, or no grammar can keep a tool's schema.
    """
    names = [tool["function"]["name"] for tool in tools]
    if chosen is not None and chosen not in names:
        raise SpecError(
            f"the tool {shown(chosen)} is to be called, and there is none of that name{nearest(chosen, names)}",
            hint=f"choose one of {', '.join(names)}",
        )
    allowed = [tool for tool in tools if chosen in (None, tool["function"]["name"])]
    more = f" ({_literal(form.between)} call)*" if several and form.between is not None else ""
    lines = [f"start: {_literal(form.opening)} call{more} {_literal(form.closing)}"]
    lines.append("call: " + " | ".join(f"call_{number}" for number in range(len(allowed))))
    for number, tool in enumerate(allowed):
        before, behind = form.framed(tool["function"]["name"])
        lines.append(f"call_{number}: {_literal(before)} arguments_{number} {_literal(behind)}")
        lines.append(f"arguments_{number}: %json {json.dumps(_schema(form, tool))}")
    return "\n".join(lines) + "\n"


def _literal(text: str) -> str:
    return json.dumps(text) if text else ""


def _schema(form: CallForm, tool: Tool) -> dict[str, Any]:
    schema = {"type": "object", **parameters_of(tool)}
    if form.separators is not None:
        item, key = form.separators
        spacing: dict[str, Any] = {"whitespace_flexible": False, "item_separator": item, "key_separator": key}
    else:
        spacing = {"whitespace_flexible": True}
    return {**schema, OPTIONS: {**JSON_OPTIONS, **spacing}}


def parameters_of(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments: only the empty object, where it names none. Raises a `SpecError`."""
    parameters = tool["function"].get("parameters")
    schema = {"properties": {}, "additionalProperties": False} if parameters is None else dict(parameters)
    check_schema(schema)
    return schema
