"""The grammar of answers that have to call tools, in the dialect of Lark that llguidance reads.

Its ``%json {…}`` stands for a value by a JSON schema (llguidance's own pages on its syntax and on JSON Schema). The
schema of a tool's parameters is one by itself, so that what it refers to by ``#/…`` is found.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from unisono.chat.call_form import CallForm
from unisono.chat.parameter_grammar import parameter_rules
from unisono.chat.tools import Tool
from unisono.chat.value_schemas import moved, without
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
    """Write the grammar, for a constraint of the kind ``lark``, of an answer that calls tools.

    Args:
        form: how calls are written, from `Ensemble.call_form`.
        tools: the tools that may be called.
        chosen: the only tool that may be called; ``None`` for all.
        several: whether there may be several calls, if the form can write them.
        free: whether any text may stand before the calls, or instead of them.
        answer: the JSON schema of an answer without a call; ``None`` if there has to be a call.

    Raises:
        SpecError: ``chosen`` is not one of the tools, or no grammar can enforce a tool's schema.
    """
    allowed = _allowed(form, tools, chosen)
    opening, between, closing = (_around(form, mark) for mark in ("call_begin", "call_next", "call_end"))
    other = "" if answer is None else f" | {_literal(form.recipient)} answer"
    lines = _freely(form) if free else [f"start: {opening} calls{other}"]
    if answer is not None:
        lines.append(f"answer: %json {json.dumps({**answer, OPTIONS: {**JSON_OPTIONS, **SPACING}})}")
    more = f" ({between} call)*" if several and form.between is not None else ""
    lines.append(f"calls: call{more} {closing}")
    lines.append("call: " + " | ".join(f"call_{number}" for number in range(len(allowed))))
    for number, tool in enumerate(allowed):
        lines += _rules_of(tool, number, form, beside_an_answer=answer is not None)
    return "\n".join(lines) + "\n"


def _allowed(form: CallForm, tools: Sequence[Tool], chosen: str | None) -> list[Tool]:
    """The tools that may be called. Raises a `SpecError` where there is none, or two cannot be told apart."""
    names = [tool["function"]["name"] for tool in tools]
    if chosen is not None and chosen not in names:
        raise SpecError(
            f"the tool {shown(chosen)} is to be called, and there is none of that name{nearest(chosen, names)}",
            hint=f"choose one of {', '.join(names)}",
        )
    if form.recipient and (reply := form.recipient.removesuffix(form.seams.middle)) in names:
        raise SpecError(
            f"the tool {shown(reply)} cannot be called: the lead's answers that call nothing begin with that name",
            hint="give it another name",
        )
    allowed = [tool for tool in tools if chosen in (None, tool["function"]["name"])]
    if form.by_seams:
        _check_ends(form, [tool["function"]["name"] for tool in allowed])
    return allowed


def _rules_of(tool: Tool, number: int, form: CallForm, *, beside_an_answer: bool) -> list[str]:
    """The rules of a call of one tool, ``call_0`` of the first; an answer in JSON may stand in its place."""
    call, arguments = f"call_{number}", f"arguments_{number}"
    name = _literal(tool["function"]["name"])
    if form.parameters is not None:
        write = partial(_marked, form)
        rules = parameter_rules(arguments, form.parameters, parameters_of(tool), _options(form), write)
        return [f"{call}: {name} {arguments}", *rules]
    if form.segments is None and beside_an_answer and not form.opening.strip():
        return [f"{call}: %json {json.dumps(_whole(form, tool))}"]
    if form.by_seams:
        written = f"{name} <|call_arguments|> {arguments} <|call_end|>"
    else:
        before, behind = form.framed(tool["function"]["name"])
        written = f"{_literal(before)} {arguments} {_literal(behind)}"
    return [f"{call}: {written}", f"{arguments}: %json {json.dumps(_schema(form, tool))}"]


def _freely(form: CallForm) -> list[str]:
    """Any text without a call's mark; with it, a call follows. Where a call has no mark, it is all of the answer."""
    mark = form.sign
    if form.recipient:
        reply = _literal(form.recipient)
        return [
            f"start: calls | {reply} TEXT | {reply} | {reply} before calls |",
            f"before[suffix={json.dumps(mark)}]: /(?s:.*)/",
            _text_without(mark),
        ]
    if form.begin_token is not None:  # it is no text, and text that reads like it is none of the answer's
        before = "" if form.only_first else "before "
        opening = "<|call_begin|>" if form.by_seams else _marked(form, form.opening.lstrip())  # text may end with space
        return [
            f"start: {before}{opening} calls | TEXT |",
            *([] if form.only_first else ["before: TEXT |"]),
            _text_without(form.begin_token, *([] if form.begin_token in mark or form.by_seams else [mark])),
        ]
    if not mark:
        return ["start: calls | TEXT |", r"TEXT: /(?s:.+)/ & ~/\s*\{(?s:.*)/"]
    return [
        "start: before calls | TEXT |" if form.opening.endswith(mark) else "start: before begin calls | TEXT |",
        f"before[suffix={json.dumps(mark)}]: /(?s:.*)/",
        f"begin: {json.dumps(form.opening.partition(mark)[2])}",
        _text_without(mark),
    ]


def _check_ends(form: CallForm, names: Sequence[str]) -> None:
    """Refuse a name that goes on from another one's end as the form does: members could not say which they mean."""
    behind, known = form.seams.middle[:1], set(names)
    for longer in names:
        ends = (place for place in range(len(longer)) if longer.startswith(behind, place))
        if (end := next((place for place in ends if longer[:place] in known), None)) is not None:
            raise SpecError(
                f"the tool {shown(longer)} cannot be told from {shown(longer[:end])}: "
                f"calls have {shown(behind)} behind a name",
                hint="give one of them another name",
            )


def _around(form: CallForm, mark: Literal["call_begin", "call_next", "call_end"]) -> str:
    """What stands before, between and behind calls: of a form by seams, nothing behind what ends each call."""
    if form.by_seams:
        return "" if mark == "call_end" else f"<|{mark}|>"
    texts = {"call_begin": form.opening, "call_next": form.between or "", "call_end": form.closing}
    return _marked(form, texts[mark])


def _marked(form: CallForm, text: str) -> str:
    """What stands around calls, as literals and, in the place of control tokens, marks."""
    marks = {token: mark for mark, token in reversed(form.tokens.items())}
    parts = cut_controls(text, {token: 0 for token in marks if token is not None})
    return " ".join(_literal(part) if control is None else f"<|{marks[part]}|>" for part, control in parts)


def no_call_grammar(form: CallForm) -> str | None:
    """Any text without a call's mark; ``None`` where calls have none, and so cannot be told from JSON."""
    mark = form.sign
    head = _literal(form.recipient)
    return f"start: {head} TEXT | {head}\n{_text_without(mark)}\n" if mark else None


def _text_without(*marks: str) -> str:
    return "TEXT: /(?s:.+)/" + "".join(map(without, marks))


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
    schema = moved(parameters_of(tool), f"/properties/{form.arguments_key}")
    arguments = (form.arguments_key, {"type": "object", **schema})
    return {
        "type": "object",
        "properties": dict([named, arguments] if form.name_first else [arguments, named]),
        "required": [form.name_key, form.arguments_key],
        "additionalProperties": False,
        OPTIONS: _options(form),
    }


def parameters_of(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments: only the empty object, where it names none. Raises a `SpecError`."""
    parameters = tool["function"].get("parameters")
    schema = {"properties": {}, "additionalProperties": False} if parameters is None else dict(parameters)
    check_schema(schema)
    return schema
