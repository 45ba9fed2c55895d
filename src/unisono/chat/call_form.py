"""How a chat template writes calls of tools, cut out of what it writes of known ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from unisono.chat.messages import Message
from unisono.chat.template import ChatTemplate, TemplateFailure
from unisono.chat.tool_format import ARGUMENTS, IDS, NAMES, PROBE_TOOLS, QUESTION, REPLY, ToolUse, as_given, exchange_of

SEPARATORS = ((", ", ": "), (",", ":"))
"""Between the entries of a mapping, and between a key and its value: as Python writes JSON, and without spaces."""


class FormUnknown(Exception):
    """Calls are written in no form that is understood, or in one that cannot be written. The message says why."""


@dataclass(frozen=True, slots=True)
class CallForm:
    """How an answer writes calls: each is a JSON object with a name and arguments, among texts that mark it."""

    opening: str
    """Before the first call; empty where a call is nothing but its object."""
    between: str | None
    """Between two calls; ``None`` where there is never more than one."""
    closing: str
    """Behind the last call."""
    name_key: str
    arguments_key: str
    name_first: bool = True
    separators: tuple[str, str] | None = SEPARATORS[0]
    """As in `SEPARATORS`; ``None`` where the object is laid out in another way."""
    other_keys: tuple[str, ...] = ()
    """What else the object has, such as an id. Read over, and not written."""

    def framed(self, name: str) -> tuple[str, str]:
        """The text of a call's object before its arguments, and behind them."""
        item, key = self.separators or SEPARATORS[0]
        named = f"{json.dumps(self.name_key)}{key}{json.dumps(name)}"
        arguments = f"{json.dumps(self.arguments_key)}{key}"
        return ("{" + named + item + arguments, "}") if self.name_first else ("{" + arguments, item + named + "}")

    def written(self, name: str, arguments: str) -> str:
        """An answer that is one call."""
        before, behind = self.framed(name)
        return f"{self.opening}{before}{arguments}{behind}{self.closing}"


def find_call_form(template: ChatTemplate, use: ToolUse, controls: Iterable[str], ends: Iterable[str]) -> CallForm:
    """Let a template write one call, two calls and a reply, and cut the texts around the calls out of them.

    Args:
        template: to be asked.
        use: what it makes of tools.
        controls: the texts of the member's control tokens, which no answer can hold.
        ends: those of them that are END, and so no part of an answer.

    Raises:
        FormUnknown: the template does not write calls, or not as JSON objects of which one key is the name and
            one the arguments, or marks them by control tokens.
    """
    if not use.knows_tools:
        raise FormUnknown("its chat template does not know tools")
    controls = tuple(control for control in controls if control)
    ends = tuple(end for end in ends if end)
    reply = _render(template, use, [Message(role="assistant", content=REPLY)])
    opening, first, closing = _around_object(_answer(_render(template, use, exchange_of(1)[:1]), reply, controls, ends))
    for text in (opening, closing):
        _check_text(text, controls)
    name_key, arguments_key = _keys(first)
    return CallForm(
        opening=opening,
        between=_between(template, use, reply, opening, closing, controls, ends),
        closing=closing,
        name_key=name_key,
        arguments_key=arguments_key,
        name_first=list(first.read).index(name_key) < list(first.read).index(arguments_key),
        separators=next((pair for pair in SEPARATORS if json.dumps(first.read, separators=pair) == first.text), None),
        other_keys=tuple(key for key in first.read if key not in (name_key, arguments_key)),
    )


@dataclass(frozen=True, slots=True)
class _Object:
    """A call's object, as it was written and as it reads."""

    text: str
    read: dict[str, Any]


def _render(template: ChatTemplate, use: ToolUse, answer: Sequence[Message]) -> str:
    assert use.style is not None
    try:
        return template.render(as_given([QUESTION, *answer], use.style), tools=PROBE_TOOLS, add_generation_prompt=False)
    except TemplateFailure as failure:
        raise FormUnknown(f"its chat template refuses a conversation that ends with an answer: {failure}") from failure


def _answer(whole: str, reply: str, controls: Sequence[str], ends: Sequence[str]) -> str:
    """What a conversation has as its answer, where another has a plain reply; without the end of the turn.

    Marks may begin or end as those of the reply do, so a cut inside a control text or an opened bracket goes
    back to where that begins, or forward to where it ends.
    """
    begin = _common(whole, reply)
    behind = len(whole) - min(_common(whole[::-1], reply[::-1]), len(whole) - begin)
    if bracket := re.search(r"[<\[][^\s<>\[\]]*$", whole[:begin]):
        begin = bracket.start()
    if bracket := re.match(r"[^\s<>\[\]]*[>\]]", whole[behind:]):
        behind += bracket.end()
    for control in controls:
        for match in re.finditer(re.escape(control), whole):
            begin = match.start() if match.start() < begin < match.end() else begin
            behind = match.end() if match.start() < behind < match.end() else behind
    answer = whole[begin:behind]
    while end := next((end for end in ends if answer.rstrip().endswith(end)), None):
        answer = answer.rstrip().removesuffix(end)
    return answer


def _common(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def _around_object(text: str, name: str = NAMES[0]) -> tuple[str, _Object, str]:
    """Find the call of a name: the text before its object, the object, and what is behind it."""
    for match in re.finditer(r"\{", text):
        try:
            read, behind = json.JSONDecoder().raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        if name in read.values() and ARGUMENTS in read.values():
            before, rest = text[: match.start()], text[behind:]
            return before, _Object(text[match.start() : behind], read), rest
    raise FormUnknown("its chat template does not write a call as a JSON object with a name and arguments")


def _keys(found: _Object) -> tuple[str, str]:
    name_key = next(key for key, value in found.read.items() if value == NAMES[0])
    return name_key, next(key for key, value in found.read.items() if value == ARGUMENTS)


def _check_text(text: str, controls: Sequence[str]) -> None:
    """Refuse a text around calls that is not the same for all calls, or cannot be written."""
    if any(changing in text for changing in (*IDS, *NAMES)):
        raise FormUnknown("its chat template writes a call's name or id outside of its JSON object")
    for control in controls:
        if control in text:
            raise FormUnknown(
                f"its chat template marks a call by the control token {control!r}, which is no text that members share"
            )


def _between(
    template: ChatTemplate,
    use: ToolUse,
    reply: str,
    opening: str,
    closing: str,
    controls: Sequence[str],
    ends: Sequence[str],
) -> str | None:
    """What stands between two calls; ``None`` where the template writes no two in one answer, or in another form."""
    try:
        both = _answer(_render(template, use, exchange_of(2)[:1]), reply, controls, ends)
        before, _, rest = _around_object(both)
        between, _, behind = _around_object(rest, NAMES[1])
        _check_text(between, controls)
    except FormUnknown:
        return None
    return between if (before, behind) == (opening, closing) else None
