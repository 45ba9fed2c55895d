"""Calls by seams: what a member reads and writes at the marks around names and arguments, in its own form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from unisono.chat.call_form import CallForm, find_call_form
from unisono.chat.call_segments import CallSegments, FormUnknown, cut_open
from unisono.chat.mark_probe import text_of
from unisono.errors import PromptError
from unisono.vocab.marks import Ids, Mark, Turn
from unisono.vocab.spelling import cut_controls

if TYPE_CHECKING:
    from unisono.chat.prompt_encoder import PromptEncoder

_PLAIN = CallForm("", "\n", "", "name", "arguments")
"""What a member reads whose own form is not understood."""
_MARKUP = ("control", "added")


class Seams:
    """The segments of one member's calls, as its ids. See docs/adr/0014."""

    def __init__(self, encoder: PromptEncoder) -> None:
        self._encoder = encoder
        self._table = encoder.tokenizer.table
        self._known: dict[tuple[Mark, int, bool], Ids] = {}

    @cached_property
    def form(self) -> CallForm:
        """How the member writes calls. Raises a `PromptError` where an ensemble cannot write its template's form."""
        encoder, texts = self._encoder, self._table.texts
        template, use, marks = encoder.own_template(), encoder.tool_use(), encoder.marks
        ends = [texts[token] for token in encoder.speller.vocabulary.end_ids if token < len(texts)]
        try:
            controls, channel = encoder.controls, text_of(self._table, marks.opening)
            form = find_call_form(template, use, controls, ends, channel=channel)
            tokens: dict[Mark, str | None] = {"call_begin": form.begin_token, "call_end": form.end_token}
            for mark, token in tokens.items() if not form.only_first else ():
                if token is not None and marks.anywhere.get(mark) != (controls[token],):
                    raise FormUnknown(f"its chat template marks a call by {token!r}, and the spec has another {mark}")
            return form
        except FormUnknown as unknown:
            raise PromptError(
                f"no calls can be written as member {encoder.name!r} writes them: {unknown}",
                hint="make another member the lead, or give this one a chat_template in the spec",
            ) from unknown

    @cached_property
    def segments(self) -> CallSegments:
        try:
            return self.form.seams
        except PromptError:
            return _PLAIN.seams

    def text(self, mark: Mark, number: int) -> str:
        """What the member writes at a mark of the call with this number, from 0."""
        return self.segments.at(mark, number)

    def ids(self, mark: Mark, number: int = 0, *, first: bool = False) -> Ids:
        """The same as ids; ``first`` tells that an answer begins."""
        key = (mark, number, first)
        if key not in self._known:
            again = mark == "call_next" and self.segments.again is None  # it writes one call at a time
            begins = mark == "call_begin" or again
            self._known[key] = self._begin(first) if begins else self._encode(self.text(mark, number))
        return self._known[key]

    def turns(self) -> dict[Turn, dict[int, Mark | None]]:
        """By place, the ids that stand for marks there, or for END (``None``)."""
        segments = self.segments
        begin = self._encode(segments.before.lstrip())[:1]
        marked = {token: "call_begin" for token in begin if self._table.kinds[token] in _MARKUP}
        calling: dict[int, Mark | None] = {} if self._channel else dict(marked)  # type: ignore[arg-type]
        first: dict[int, Mark | None] = {self._begin(True)[0]: "call_begin"} if self._channel else calling
        frame, *more = cut_open(segments.middle)
        name = self._beginning(frame if more else frame + "{")
        end: dict[int, Mark | None] = dict.fromkeys(self._beginning(segments.end))
        again: dict[int, Mark | None] = dict.fromkeys(self._beginning(segments.again or ""), "call_next")
        return {
            "calling": calling,
            "calling_first": first,
            "name": dict.fromkeys(name, "call_arguments"),
            "behind": {**end, **again},
        }

    @cached_property
    def _channel(self) -> str:
        """What an answer begins with before the name of its channel, where a call names one, too; mostly nothing."""
        opening = text_of(self._table, self._encoder.marks.opening)
        return opening if self.segments.before.startswith(opening) else ""

    def _begin(self, first: bool) -> Ids:
        marks, text = self._encoder.marks, self.text("call_begin", 0)
        if self._channel:
            ids = self._encode(text.removeprefix(self._channel))
            if first:
                return ids
            return (marks.spelled("reasoning_end") if marks.reopens else marks.opening) + ids
        ids = self._encode(text)
        if first and marks.at_opening and self._table.kinds[ids[0]] not in _MARKUP:
            return marks.spelled("answer_begin", opening=True) + ids
        return ids

    def _encode(self, text: str) -> Ids:
        ids: list[int] = []
        for part, control in cut_controls(text, self._controls):
            ids += self._encoder.spell_text(part) if control is None else [control]
        return tuple(ids)

    def _beginning(self, text: str) -> Iterable[int]:
        """The ids with which a segment can begin: its control token, or each piece that its text begins with."""
        parts = cut_controls(text, self._controls)
        if not parts:
            return []
        part, control = parts[0]
        canonical, data = self._encoder.speller.vocabulary.canonical, part.encode()
        spelled = (canonical.get(data[:size]) for size in range(1, len(data) + 1))
        return [token for token in spelled if token is not None] if control is None else [control]

    @property
    def _controls(self) -> Mapping[str, int]:
        return self._table.controls
