"""How a chat template writes tool calls, found by rendering known calls."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from unisono.chat.messages import Message
from unisono.chat.template import ChatTemplate, TemplateFailure
from unisono.chat.template_probe import (
    ARGUMENTS,
    IDS,
    NAMES,
    PROBE_TOOLS,
    QUESTION,
    REPLY,
    ToolUse,
    as_given,
    exchange_of,
)
from unisono.vocab.controls import cut_controls

SEPARATORS = ((", ", ": "), (",", ":"))
"""Between the entries of a mapping, and between a key and its value: as Python writes JSON, and without spaces."""


class FormUnknown(Exception):
    """A template writes calls in no form that unisono can read and write. The message says why."""


@dataclass(frozen=True, slots=True)
class CallForm:
    """How an answer writes calls: as JSON objects with a name and arguments, between marks."""

    opening: str  # before the first call; empty where a call is nothing but its object
    between: str | None  # between two calls; ``None`` where there is never more than one
    closing: str
    name_key: str
    arguments_key: str
    name_first: bool = True
    separators: tuple[str, str] | None = SEPARATORS[0]
    """As in `SEPARATORS`; ``None`` where the object is laid out in another way."""
    other_keys: tuple[str, ...] = ()
    """Further keys of the object, such as an id. They are read and ignored, and not written."""
    begin_token: str | None = None
    """The control token in ``opening``, which is a mark and no text; ``None`` where all is text."""
    end_token: str | None = None
    """The same of ``closing``."""

    def framed(self, name: str) -> tuple[str, str]:
        """The text of a call's object before and after its arguments."""
        item, key = self.separators or SEPARATORS[0]
        named = f"{json.dumps(self.name_key)}{key}{json.dumps(name)}"
        arguments = f"{json.dumps(self.arguments_key)}{key}"
        return ("{" + named + item + arguments, "}") if self.name_first else ("{" + arguments, item + named + "}")

    def written(self, name: str, arguments: str) -> str:
        before, behind = self.framed(name)
        return f"{self.opening}{before}{arguments}{behind}{self.closing}"


def find_call_form(template: ChatTemplate, use: ToolUse, controls: Iterable[str], ends: Iterable[str]) -> CallForm:
    """Render one call, two calls and a reply, and take the call form from the texts around the calls.

    ``controls`` are the texts of the member's special tokens, which an answer contains only as marks, and ``ends``
    those that are END. Raises a `FormUnknown` where the template does not write calls, or not as JSON objects of which
    one key is the name and one the arguments, or marks them by more control tokens than one before and one behind.
    """
    if not use.knows_tools:
        raise FormUnknown("its chat template does not know tools")
    answers = _Answers(template, use, list(filter(None, controls)), list(filter(None, ends)))
    opening, first, closing = _around_object(answers.with_calls(1), NAMES[0])
    answers.check_marks(opening, closing)
    begin_token, end_token = answers.control_in(opening), answers.control_in(closing)
    read: dict[str, Any] = json.loads(first)
    keys = list(read)
    name_key, arguments_key = (next(key for key in keys if read[key] == value) for value in (NAMES[0], ARGUMENTS))
    try:
        before, _, rest = _around_object(answers.with_calls(2), NAMES[0])
        between, _, behind = _around_object(rest, NAMES[1])
        answers.check_marks(between)
        answers.check_between(between, begin_token, end_token)
        several = (before, behind) == (opening, closing)
    except FormUnknown:
        several = False
    return CallForm(
        opening=opening,
        between=between if several else None,
        closing=closing,
        name_key=name_key,
        arguments_key=arguments_key,
        name_first=keys.index(name_key) < keys.index(arguments_key),
        separators=next((pair for pair in SEPARATORS if json.dumps(read, separators=pair) == first), None),
        other_keys=tuple(key for key in keys if key not in (name_key, arguments_key)),
        begin_token=begin_token,
        end_token=end_token,
    )


@dataclass(frozen=True, slots=True)
class _Answers:
    template: ChatTemplate
    use: ToolUse
    controls: Sequence[str]
    ends: Sequence[str]

    def with_calls(self, count: int) -> str:
        """An answer that is one call or two, without the end of the turn: what a conversation with a reply lacks.

        Marks may begin or end as those of the reply do, so a cut inside a control text or an opened bracket goes back
        to where that begins, or forward to where it ends.
        """
        whole = self._render(exchange_of(count)[:1])
        reply = self._render([Message(role="assistant", content=REPLY)])
        begin = common_length(whole, reply)
        behind = len(whole) - min(common_length(whole[::-1], reply[::-1]), len(whole) - begin)
        if bracket := re.search(r"[<\[][^\s<>\[\]]*$", whole[:begin]):
            begin = bracket.start()
        if bracket := re.match(r"[^\s<>\[\]]*[>\]]", whole[behind:]):
            behind += bracket.end()
        for control in self.controls:
            for match in re.finditer(re.escape(control), whole):
                begin = match.start() if match.start() < begin < match.end() else begin
                behind = match.end() if match.start() < behind < match.end() else behind
        answer = whole[begin:behind]
        while end := next((end for end in self.ends if answer.rstrip().endswith(end)), None):
            answer = answer.rstrip().removesuffix(end)
        return answer

    def check_marks(self, *marks: str) -> None:
        """Refuse a mark that differs between calls."""
        if any(changing in mark for mark in marks for changing in (*IDS, *NAMES)):
            raise FormUnknown("its chat template writes a call's name or id outside of its JSON object")

    def control_in(self, mark: str) -> str | None:
        """The special token in what stands before or behind a call, if there is one. Refuses several."""
        found = self._controls_in(mark)
        if len(found) > 1:
            raise FormUnknown(f"its chat template marks a call by several control tokens, {' and '.join(found)}")
        return found[0] if found else None

    def check_between(self, between: str, begin_token: str | None, end_token: str | None) -> None:
        for control in self._controls_in(between):
            if control not in (begin_token, end_token):
                raise FormUnknown(f"its chat template writes the control token {control!r} between calls")

    def _controls_in(self, text: str) -> list[str]:
        return [part for part, control in cut_controls(text, dict.fromkeys(self.controls, 0)) if control is not None]

    def _render(self, answer: Sequence[Message]) -> str:
        given = as_given([QUESTION, *answer], self.use.style)
        try:
            return self.template.render(given, tools=PROBE_TOOLS, add_generation_prompt=False)
        except TemplateFailure as failure:
            words = f"its chat template refuses a conversation that ends with an answer: {failure}"
            raise FormUnknown(words) from failure


def common_length(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How long the beginning is that two texts, or two lists of ids, have in common."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _around_object(text: str, name: str) -> tuple[str, str, str]:
    for match in re.finditer(r"\{", text):
        try:
            read, behind = json.JSONDecoder().raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        if name in read.values() and ARGUMENTS in read.values():
            return text[: match.start()], text[match.start() : behind], text[behind:]
    raise FormUnknown("its chat template does not write a call as a JSON object with a name and arguments")
