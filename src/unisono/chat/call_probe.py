"""Finds how a chat template writes tool calls, by rendering known calls."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

from unisono.chat.call_form import SEPARATORS, CallForm, json_text
from unisono.chat.call_parameters import find_parameters
from unisono.chat.call_segments import (
    CallSegments,
    FormUnknown,
    OneByOne,
    common_length,
    filled,
    find_segments,
    recipient_behind,
)
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

NAME_ALONE = "its chat template begins a call with its name alone, or with signs that texts have, too"


def find_call_form(
    template: ChatTemplate,
    use: ToolUse,
    controls: Iterable[str],
    ends: Iterable[str],
    *,
    channel: str = "",
    added: Iterable[str] = (),
) -> CallForm:
    """Render one call, two calls and a reply, and take the call form from the texts around the calls.

    ``controls`` are the texts of the member's special tokens, which an answer contains only as marks, and ``ends``
    those that are END. ``channel`` is what all its answers begin with, before the first mark, and ``added`` are tokens
    that its files call text, which are as good as special ones around names. Raises a `FormUnknown`
    where the template does not write calls, or neither as JSON objects of which one key is the name and one the
    arguments nor as names with such an object, or the arguments one by one, behind them; and where it marks objects, or
    arguments that stand one by one, by more control tokens than one before and one behind, and one around texts, or
    calls of names by one that does not come first.
    """
    if not use.knows_tools:
        raise FormUnknown("its chat template does not know tools")
    answers = _Answers(template, use, list(filter(None, controls)), list(filter(None, ends)))
    one = answers.with_calls(1)
    if _holds_object(one):
        return _of_objects(answers, one)
    try:
        return _of_segments(replace(answers, controls=[*answers.controls, *filter(None, added)]), channel)
    except OneByOne:
        return _of_parameters(answers)


def _of_parameters(answers: _Answers) -> CallForm:
    """The form of calls whose arguments stand one by one."""
    try:
        two = answers.with_calls(2)
    except FormUnknown:
        two = None
    try:
        segments, parameters = find_parameters(lambda given: answers.with_calls(1, given), two, answers.controls)
    except FormUnknown:
        answers.check_within()
        raise
    literals, again = parameters.literals, segments.again or ""
    delimiters = ("", "") if literals is None else literals.text
    within = replace(parameters, text_middle=parameters.middle) if literals is not None else parameters
    opening, closing = segments.before, segments.behind + segments.end
    begin_token, end_token = answers.control_in(opening), answers.control_in(closing)
    known = begin_token if parameters.tags is not None else None  # before each tag
    for text in (part for part in astuple(within) if isinstance(part, str)):
        if controls := [control for control in answers.controls_in(text) if control != known]:
            words = f"one by one, and with the control token {controls[0]!r}"
            raise FormUnknown(f"its chat template writes the arguments of a call {words}")
    answers.check_between(segments.behind + again, begin_token, end_token)
    text_tokens = {control for each in delimiters for control in answers.controls_in(each)}
    if text_tokens and (len(text_tokens) > 1 or delimiters != (*text_tokens, *text_tokens)):
        raise FormUnknown(f"its chat template writes texts between {' and '.join(delimiters)}")
    if begin_token is None and not re.search(r"[\w<]", opening):
        raise FormUnknown(NAME_ALONE)
    return CallForm(
        opening=opening,
        between=None if segments.again is None else segments.behind + segments.again,
        closing=closing,
        name_key="",
        arguments_key="",
        begin_token=begin_token,
        end_token=None if end_token == begin_token else end_token,
        text_token=next(iter(text_tokens), None),
        segments=segments,
        parameters=parameters,
    )


def _of_segments(answers: _Answers, channel: str) -> CallForm:
    """The form of calls whose name stands outside of their JSON."""
    one = answers.with_calls(1)
    try:
        two = answers.with_calls(2)
    except FormUnknown:
        two = None
    found, arguments = find_segments(one, two, answers.controls)
    segments = recipient_behind(found, channel)
    texts = (segments.before, segments.middle, segments.behind, segments.again or "", segments.end)
    marks = [mark for text in texts for mark in answers.controls_in(text)]
    opening = segments.before.lstrip()
    begin_token = next((mark for mark in marks if opening.startswith(mark)), None)
    if marks and begin_token is None:
        raise FormUnknown(f"its chat template begins a call with text, and holds the control token {marks[0]!r}")
    recipient = "" if opening else answers.recipient_before_reply(segments)
    if begin_token is None and not recipient and not re.search(r"[\w<]", opening):
        raise FormUnknown(NAME_ALONE)
    return CallForm(
        opening=filled(segments.before, 0),
        between=None if segments.again is None else filled(segments.behind + segments.again, 1),
        closing=filled(segments.behind + segments.end, 0),
        name_key="",
        arguments_key="",
        separators=next((pair for pair in SEPARATORS if json_text(ARGUMENTS, pair) == arguments), None),
        begin_token=begin_token,
        only_first=bool(channel) and opening.startswith(channel),
        segments=segments,
        recipient=recipient,
    )


def _of_objects(answers: _Answers, one: str) -> CallForm:
    opening, first, closing = _around_object(one, NAMES[0])
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
        separators=next((pair for pair in SEPARATORS if json_text(read, pair) == first), None),
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

    def with_calls(self, count: int, arguments: Mapping[str, Any] = ARGUMENTS) -> str:
        """An answer that is one call or two, without the end of the turn: what a conversation with a reply lacks.

        Marks may begin or end as those of the reply do, so a cut inside a control text, a name or an opened bracket
        goes back to where that begins, or forward to where it ends.
        """
        whole = self._render(exchange_of(count, arguments=arguments)[:1])
        reply = self._render([Message(role="assistant", content=REPLY)])
        begin = common_length(whole, reply)
        if whole.startswith(prompt := self.prompt):  # which may hold reasoning that is empty, as before calls
            begin = max(begin, len(prompt))
        behind = len(whole) - min(common_length(whole[::-1], reply[::-1]), len(whole) - begin)
        if bracket := re.search(r"[<\[][^\s<>\[\]]*$", whole[:begin]):
            begin = bracket.start()
        if bracket := re.match(r"[^\s<>\[\]]*[>\]]", whole[behind:]):
            behind += bracket.end()
        for word in (*self.controls, *NAMES):
            for match in re.finditer(re.escape(word), whole):
                begin = match.start() if match.start() < begin < match.end() else begin
                behind = match.end() if match.start() < behind < match.end() else behind
        answer = whole[begin:behind]
        while end := next((end for end in self.ends if answer.rstrip().endswith(end)), None):
            answer = answer.rstrip().removesuffix(end)
        return answer

    @property
    def prompt(self) -> str:
        """What a conversation is up to an answer."""
        given = as_given([QUESTION], self.use.style)
        try:
            return self.template.probe(given, tools=PROBE_TOOLS)
        except TemplateFailure as failure:
            raise FormUnknown(f"its chat template refuses a question: {failure}") from failure

    def recipient_before_reply(self, segments: CallSegments) -> str:
        """What a template writes before a reply where calls have a name, if that is a name, too; else nothing."""
        prompt, whole = self.prompt, self._render([Message(role="assistant", content=REPLY)])
        head, found, _ = whole.removeprefix(prompt).partition(REPLY)
        middle, again = segments.middle, (segments.again or "").strip()
        is_name = head.endswith(middle) and re.fullmatch(r"\w+", head.removesuffix(middle))
        texts = (segments.behind, segments.end, head, again)
        told = any(self.controls_in(text) for text in texts) or (segments.behind + segments.end).strip()
        return head if found and middle and again and is_name and not told and whole.startswith(prompt) else ""

    def check_within(self) -> None:
        """Refuse control tokens between a call's name and the first of its arguments."""
        within = self.with_calls(1).partition(NAMES[0])[2].partition(next(iter(ARGUMENTS)))[0]
        if controls := self.controls_in(within):
            words = f"one by one, and with the control token {controls[0]!r}"
            raise FormUnknown(f"its chat template writes the arguments of a call {words}")

    def check_marks(self, *marks: str) -> None:
        """Refuse a mark that differs between calls."""
        if any(changing in mark for mark in marks for changing in (*IDS, *NAMES)):
            raise FormUnknown("its chat template writes a call's name or id outside of its JSON object")

    def control_in(self, mark: str) -> str | None:
        """The special token in what stands before or behind a call, if there is one. Refuses several."""
        found = list(dict.fromkeys(self.controls_in(mark)))
        if ending := next((control for control in found if control in self.ends), None):
            words = f"as a turn of its own: by {ending}, which ends an answer"
            raise FormUnknown(f"its chat template writes a call {words}")
        if len(found) > 1:
            raise FormUnknown(f"its chat template marks a call by several control tokens, {' and '.join(found)}")
        return found[0] if found else None

    def check_between(self, between: str, begin_token: str | None, end_token: str | None) -> None:
        for control in self.controls_in(between):
            if control not in (begin_token, end_token):
                raise FormUnknown(f"its chat template writes the control token {control!r} between calls")

    def controls_in(self, text: str) -> list[str]:
        return [part for part, control in cut_controls(text, dict.fromkeys(self.controls, 0)) if control is not None]

    def _render(self, answer: Sequence[Message]) -> str:
        given = as_given([QUESTION, *answer], self.use.style)
        try:
            return self.template.probe(given, tools=PROBE_TOOLS, add_generation_prompt=False)
        except TemplateFailure as failure:
            words = f"its chat template refuses a conversation that ends with an answer: {failure}"
            raise FormUnknown(words) from failure


def _holds_object(text: str) -> bool:
    try:
        _around_object(text, NAMES[0])
    except FormUnknown:
        return False
    return True


def _around_object(text: str, name: str) -> tuple[str, str, str]:
    for match in re.finditer(r"\{", text):
        try:
            read, behind = json.JSONDecoder().raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        if name in read.values() and ARGUMENTS in read.values():
            return text[: match.start()], text[match.start() : behind], text[behind:]
    raise FormUnknown("its chat template does not write a call as a JSON object with a name and arguments")
