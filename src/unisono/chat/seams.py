"""Calls by seams: what a member reads and writes at the marks around names and arguments, in its own form."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property

from unisono.chat.call_form import CallForm
from unisono.chat.call_probe import find_call_form
from unisono.chat.call_segments import CallSegments, FormUnknown, cut_open
from unisono.chat.mark_probe import MARKUP, text_of
from unisono.chat.template import ChatTemplate
from unisono.chat.template_probe import probe_tool_use
from unisono.errors import PromptError
from unisono.vocab.marks import Ids, Mark, Turn
from unisono.vocab.pieces import Vocabulary
from unisono.vocab.tokenizer import TokenTable

_PLAIN = CallForm("", "\n", "", "name", "arguments")
"""What a member reads whose own form is not understood, or has no place for an object of arguments."""


class Seams:
    """The segments of one member's calls, as its ids. See docs/adr/0014."""

    def __init__(
        self,
        name: str,
        table: TokenTable,
        vocabulary: Vocabulary,
        template: Callable[[], ChatTemplate],
        spell: Callable[[str], list[int]],
    ) -> None:
        """Bind a member's parts: ``template`` raises a `PromptError` where it has none, ``spell`` gives text's ids."""
        self._name = name
        self._table = table
        self._vocabulary = vocabulary
        self._template = template
        self._spell = spell
        self._known: dict[tuple[Mark, int, bool], Ids] = {}

    @cached_property
    def form(self) -> CallForm:
        """How the member writes calls. Raises a `PromptError` where an ensemble cannot write its template's form."""
        template, table, marks = self._template(), self._table, self._vocabulary.marks
        ends = [table.texts[token] for token in self._vocabulary.end_ids if token < len(table.texts)]
        controls, channel = table.all_controls, text_of(table, marks.opening)
        try:
            form = find_call_form(template, probe_tool_use(template), controls, ends, channel=channel)
            for mark, token in form.tokens.items():
                if token is None:
                    continue
                own = None if form.only_first else (controls[token],)  # what stands first alone is no mark elsewhere
                if marks.anywhere.get(mark) != own:
                    raise FormUnknown(f"its chat template marks a call by {token!r}, and the spec has another {mark}")
            return form
        except FormUnknown as unknown:
            raise PromptError(
                f"no calls can be written as member {self._name!r} writes them: {unknown}",
                hint="make another member the lead, or give this one a chat_template in the ensemble file",
            ) from unknown

    @cached_property
    def segments(self) -> CallSegments:
        try:
            return self.form.seams if self.form.parameters is None else _PLAIN.seams
        except PromptError:
            return _PLAIN.seams

    def text(self, mark: Mark, number: int) -> str:
        """What the member writes at a mark of the call with this number, from 0."""
        return self.segments.at(mark, number)

    def ids(self, mark: Mark, number: int = 0, *, first: bool = False) -> Ids:
        """The same as ids; ``first`` tells that an answer begins."""
        key = (mark, number, first)
        if mark in self._vocabulary.marks.reads:
            return self._vocabulary.marks.reads[mark]
        if key not in self._known:
            again = mark == "call_next" and self.segments.again is None  # it writes one call at a time
            begins = mark == "call_begin" or again
            self._known[key] = self._begin(first) if begins else self._encode(self.text(mark, number))
        return self._known[key]

    def turns(self) -> dict[Turn, dict[int, Mark | None]]:
        """By place, the ids that stand for marks there, or for END (``None``)."""
        segments = self.segments
        begin = self._encode(segments.before.lstrip())[:1]
        marked = {token: "call_begin" for token in begin if self._table.kinds[token] in MARKUP}
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
        opening = text_of(self._table, self._vocabulary.marks.opening)
        return opening if self.segments.before.startswith(opening) else ""

    def _begin(self, first: bool) -> Ids:
        marks, text = self._vocabulary.marks, self.text("call_begin", 0)
        if self._channel:
            ids = self._encode(text.removeprefix(self._channel))
            if first:
                return ids
            return (marks.spelled("reasoning_end") if marks.reopens else marks.opening) + ids
        ids = self._encode(text)
        if first and marks.at_opening and self._table.kinds[ids[0]] not in MARKUP:
            return marks.spelled("answer_begin", opening=True) + ids
        return ids

    def _encode(self, text: str) -> Ids:
        ids: list[int] = []
        for part, control in self._table.controls.cut(text):
            ids += self._spell(part) if control is None else [control]
        return tuple(ids)

    def _beginning(self, text: str) -> Iterable[int]:
        """The ids with which a segment can begin: its control token, or each piece that its text begins with."""
        parts = self._table.controls.cut(text)
        if not parts:
            return []
        part, control = parts[0]
        canonical, data = self._vocabulary.canonical, part.encode()
        spelled = (canonical.get(data[:size]) for size in range(1, len(data) + 1))
        return [token for token in spelled if token is not None] if control is None else [control]
