"""The forms of marks that a chat template writes, found by rendering an answer with and without reasoning.

Templates take reasoning under one of several keys of a message. Some write it only into prompts, or not at all; of
those, the conventional names are looked for.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from unisono.chat.call_probe import find_call_form
from unisono.chat.call_segments import FormUnknown, common_length
from unisono.chat.messages import Message
from unisono.chat.template import ChatTemplate, TemplateFailure
from unisono.chat.template_probe import QUESTION, REPLY, probe_tool_use
from unisono.errors import SpecError, shown
from unisono.vocab.controls import cut_controls
from unisono.vocab.marks import NO_MARKS, SEAMS, Ids, Mark, MarkForms
from unisono.vocab.pieces import token_bytes
from unisono.vocab.reserved import reserve
from unisono.vocab.tokenizer import Tokenizer, TokenTable

THOUGHT = "probe thought"
KEYS = ("reasoning_content", "thinking", "reasoning")
"""Of a message: where templates look for reasoning."""
CONVENTIONAL = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel>thought", "<channel|>"),
)
"""What stands around reasoning, by its names: of models whose templates show one of them, or none in a rendering."""
MARKUP = ("control", "added")


def probe_marks(template: ChatTemplate | None, tokenizer: Tokenizer, end_ids: Collection[int] = ()) -> MarkForms:
    """The forms in which a member's template writes marks; none of what it does not mark, or only by text."""
    if template is None:
        return NO_MARKS
    reader = _Reader(tokenizer)
    reasoning = _of_renderings(template, reader) or _of_names(template, reader) or NO_MARKS
    if reasoning.anywhere.get("reasoning_begin", (-1,))[0] in end_ids:  # a text that ended there would never go on
        reasoning = NO_MARKS
    calls, seams = _of_calls(template, tokenizer, end_ids, reasoning)
    return replace(reasoning, anywhere={**calls, **reasoning.anywhere}, seams=seams)


def _of_calls(
    template: ChatTemplate, tokenizer: Tokenizer, end_ids: Collection[int], reasoning: MarkForms
) -> tuple[dict[Mark, Ids], Ids]:
    """The control tokens by which calls are marked, and all that stand around names outside of a call's JSON."""
    if "tool" not in template.source:
        return {}, ()
    table = tokenizer.table
    markup = {text: token for token, text in enumerate(table.texts) if table.kinds[token] in MARKUP and text}
    ends = [table.texts[token] for token in end_ids if token < len(table.texts)]
    channel = text_of(table, reasoning.opening)
    try:
        use = probe_tool_use(template)
        form = find_call_form(template, use, table.controls, ends, channel=channel, added=markup)
    except FormUnknown:
        return {}, ()
    if not form.by_seams or form.segments is None:
        return {mark: (table.controls[token],) for mark, token in form.tokens.items() if token is not None}, ()
    found: dict[Mark, Ids] = {}
    for mark in SEAMS:
        ids = controls_in(form.segments.at(mark).removeprefix(channel), markup)
        if ids and ids[0] not in (*end_ids, *reasoning.first_ids) and ids[:1] not in found.values():
            found[mark] = ids[:1]
    if channel:
        found.pop("call_begin", None)
    texts = "".join(map(form.segments.at, SEAMS)) + form.segments.end
    return found, tuple(dict.fromkeys(controls_in(texts, markup)))


def controls_in(text: str, controls: Mapping[str, int]) -> Ids:
    return tuple(control for _, control in cut_controls(text, controls) if control is not None)


def text_of(table: TokenTable, ids: Ids) -> str:
    """The text of tokens, those that are control tokens included."""
    return b"".join(map(functools.partial(bytes_of, table), ids)).decode()


def bytes_of(table: TokenTable, token: int) -> bytes:
    text, kind = table.texts[token], table.kinds[token]
    return text.encode() if kind == "control" else token_bytes(text, kind, table.scheme) or b""


def given_marks(
    name: str, found: MarkForms, forms: Mapping[Mark, str], reads: Mapping[Mark, str], tokenizer: Tokenizer
) -> MarkForms:
    """The forms of a member whose spec gives some: tokens as text, and text that it reads in the place of a mark.

    ``found`` are those of its template. Raises a `SpecError` where a form begins with text, which is no mark, and where
    reasoning would begin and not end.
    """
    given = {*forms, *reads}
    anywhere = {mark: form for mark, form in found.anywhere.items() if mark not in given}
    at_opening = {mark: form for mark, form in found.at_opening.items() if mark not in given}
    for mark, text in forms.items():
        ids = tuple(tokenizer.encode_rendered(text))
        if not ids or tokenizer.table.kinds[ids[0]] not in MARKUP:
            raise SpecError(
                f"the mark {mark} of member {name!r} is {shown(text)}: it begins with no control token",
                hint=f"begin with one, or let the member read text there: {mark}: {{reads: …}}",
            )
        anywhere[mark] = ids
    written = replace(found, anywhere=anywhere, at_opening=at_opening, reads={})
    if "reasoning_begin" in written.known and "reasoning_end" not in written.known | reads.keys():
        raise SpecError(
            f"the marks of member {name!r} have reasoning_begin and no reasoning_end: it could not end what it begins",
            hint="give reasoning_end, too: the token as text, or what the member reads in its place ({reads: …})",
        )
    reserved = reserve(tokenizer, written)  # to which text that reads like a mark is text
    return replace(written, reads={mark: tuple(reserved.encode(text)) for mark, text in reads.items()})


def _of_renderings(template: ChatTemplate, reader: _Reader) -> MarkForms | None:
    asked = reader.ids(_rendered(template))
    plain = reader.ids(_rendered(template, {"content": REPLY}))
    for key in KEYS:
        whole = reader.ids(_rendered(template, {"content": REPLY, key: THOUGHT}))
        thought, reply = reader.find(whole, THOUGHT), reader.find(whole, REPLY)
        if thought is not None and reply is not None and thought[1] <= reply[0]:
            between = reader.stripped(whole[thought[1] : reply[0]])
            before = whole[: thought[0]]
            if not between or not reader.is_markup(between[0]):
                return None  # text marks it
            begin = before[common_length(asked, before) :]
            if not reader.stripped(begin):
                return _of_open_prompt(reader, reader.stripped(before), between)
            found = reader.find(plain, REPLY)
            head = plain[: found[0]] if found else ()
            return _forms(reader, begin, between, head[len(asked) :] if head[: len(asked)] == asked else ())
    return None


def _of_open_prompt(reader: _Reader, before: Ids, end: Ids) -> MarkForms | None:
    """The forms of a template that writes the beginning of reasoning into the prompt; of one token, or not known."""
    if not before or not reader.is_markup(before[-1]) or before.count(before[-1]) > 1:
        return None
    return MarkForms({"reasoning_begin": before[-1:], "reasoning_end": end})


def _forms(reader: _Reader, begin: Ids, end: Ids, answer: Ids) -> MarkForms | None:
    """The forms where reasoning stands between ``begin`` and ``end``, and an answer without it behind ``answer``."""
    mark = reader.stripped(begin)
    if reader.stripped(answer)[: len(mark)] == mark or not any(map(reader.is_markup, answer)):
        return MarkForms({"reasoning_begin": mark, "reasoning_end": end}) if reader.is_markup(mark[0]) else None
    begin, answer = reader.stripped(begin, left=False), reader.stripped(answer, left=False)
    shared = common_length(begin, answer)
    if shared in (len(begin), len(answer)):
        return None
    rest = end[: -len(answer)] if end[-len(answer) :] == answer else ()
    return MarkForms(
        {"reasoning_end": rest + answer[:shared] if rest else end},
        at_opening={"reasoning_begin": begin[shared:], "answer_begin": answer[shared:]},
        opening=answer[:shared],
        reopens=bool(rest),
    )


def _of_names(template: ChatTemplate, reader: _Reader) -> MarkForms | None:
    for begin, end in CONVENTIONAL:
        if begin in template.source or end in template.source:
            forms = reader.ids(begin), reader.ids(end)
            if all(reader.is_form(ids, text) for ids, text in zip(forms, (begin, end), strict=True)):
                return MarkForms({"reasoning_begin": forms[0], "reasoning_end": forms[1]})
    return None


def _rendered(template: ChatTemplate, answer: Mapping[str, Any] | None = None) -> str:
    messages: list[Mapping[str, Any]] = [QUESTION]
    if answer is not None:
        messages.append({**Message(role="assistant", content=""), **answer})
    try:
        return template.probe(messages, add_generation_prompt=answer is None)
    except TemplateFailure:
        return ""


class _Reader:
    """Looks at a rendered conversation token by token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._table = tokenizer.table

    def ids(self, text: str) -> Ids:
        return tuple(self._tokenizer.encode_rendered(text))

    def find(self, ids: Ids, text: str) -> tuple[int, int] | None:
        """From which token to which a text stands, where it stands last."""
        spelled = [self._bytes(token) for token in ids]
        edges = list(itertools.accumulate(map(len, spelled), initial=0))
        begin = b"".join(spelled).rfind(text.encode())
        if begin < 0:
            return None
        first = max(place for place, edge in enumerate(edges) if edge <= begin)
        return first, next(place for place, edge in enumerate(edges) if edge >= begin + len(text.encode()))

    def is_form(self, ids: Ids, text: str) -> bool:
        """Whether a text is one token, or begins with one, that is markup."""
        return bool(ids) and self.is_markup(ids[0]) and text.startswith(self._table.texts[ids[0]])

    def is_markup(self, token: int) -> bool:
        return self._table.kinds[token] in MARKUP

    def stripped(self, ids: Ids, *, left: bool = True) -> Ids:
        """Ids without those of white space at both ends, or at the right one."""
        kept = [place for place, token in enumerate(ids) if not self._bytes(token).isspace()]
        return ids[kept[0] * left : kept[-1] + 1] if kept else ()

    def _bytes(self, token: int) -> bytes:
        return bytes_of(self._table, token)
