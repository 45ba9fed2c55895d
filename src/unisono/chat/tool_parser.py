"""A streaming parser of tool calls: takes text in deltas, gives content and calls."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from unisono.chat.call_characters import Broken
from unisono.chat.call_form import CallForm
from unisono.chat.call_object import CallObject
from unisono.chat.tools import Tool


@dataclass(frozen=True, slots=True)
class Content:
    """Text outside calls."""

    text: str
    at: int = field(default=0, compare=False)
    """How many characters of the answer precede it."""


@dataclass(frozen=True, slots=True)
class CallBegun:
    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of a call's arguments. Joined, they are the JSON text of an object."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    index: int


@dataclass(frozen=True, slots=True)
class CallBroken:
    """A call that had begun turns out not to be one: it breaks off, or is not valid JSON."""

    index: int
    text: str
    """All of its text, which is content where only complete calls count."""
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class CallCut:
    """A call that the answer's limit cut off. What came of its arguments is the beginning of an object's JSON."""

    index: int


CallEvent = Content | CallBegun | CallArguments | CallEnded | CallBroken | CallCut


@dataclass(frozen=True, slots=True)
class FoundCall:
    name: str
    arguments: str
    is_cut: bool = False
    """Whether a limit cut it off: its arguments are the beginning of an object's JSON."""


def find_calls(
    form: CallForm, names: Collection[str], text: str, *, cut: bool = False, tools: Sequence[Tool] = ()
) -> tuple[str, tuple[FoundCall, ...]]:
    """Split a whole answer into content and calls; an incomplete call is content. See `CallFinder` for streams.

    Args:
        form: how the answer writes calls, from `Ensemble.call_form`.
        names: the names of the tools; a call of another name is content.
        text: the answer.
        tools: the tools, whose schemas tell strings from other values if arguments are written one by one.
        cut: whether a limit cut the answer off, so that the last call may have only the beginning of its arguments.
    """
    finder = CallFinder(form, names, tools)
    content = ""
    calls: dict[int, FoundCall] = {}
    for event in [*finder.feed(text), *finder.finish(cut=cut)]:
        match event:
            case CallBegun(index, name):
                calls[index] = FoundCall(name, "")
            case CallArguments(index, text):
                calls[index] = FoundCall(calls[index].name, calls[index].arguments + text)
            case CallBroken(index, text):
                content += text
                del calls[index]
            case Content(text):
                content += text
    return content, tuple(calls.values())


def last_calls(form: CallForm, names: Collection[str], text: str, tools: Sequence[Tool] = ()) -> tuple[FoundCall, ...]:
    """The complete calls with which a text ends; none where something else stands behind them. See `find_calls`."""
    finder = CallFinder(form, names, tools)
    calls: dict[int, FoundCall] = {}
    for event in [*finder.feed(text), *finder.finish()]:
        match event:
            case CallBegun(index, name):
                calls[index] = FoundCall(name, "")
            case CallArguments(index, more):
                calls[index] = FoundCall(calls[index].name, calls[index].arguments + more)
            case Content() | CallBroken():
                calls = {}
    return tuple(calls.values())


class CallFinder:
    """Finds the calls in one answer.

    Text that may begin a mark is held back, and so is white space, which is dropped before a call, between two, and
    after the last one. Text that turns out not to be a call comes out unchanged. With a form without an opening mark,
    only other calls may precede a call. The closing mark may be missing.

    Where a limit cut the answer off, what was written of a call is no content: with its name, it is a call that lacks
    the end of its arguments, and otherwise it is dropped. So is a mark's beginning, unless it may as well be text: one
    character, or a part of a word.

    The joined contents and calls do not depend on how the text is cut into deltas.
    """

    def __init__(self, form: CallForm, names: Collection[str], tools: Sequence[Tool] = ()) -> None:
        """Look for calls of a form, of the tools that ``names`` lists. A call of anything else is content.

        The schemas of ``tools`` say of arguments that are written one by one which are texts; without, what reads as
        JSON is none.
        """
        self._form = form
        self._names = frozenset(names)
        self._schemas = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in tools}
        self._opening = form.sign
        self._lead = form.head.strip().removesuffix(form.sign).rstrip()
        """What may stand before that, which is no content then."""
        self._closing = form.closing.strip()
        repeats = form.between is not None and _solid(form.between) == _solid(form.closing + form.opening)
        self._between = None if repeats or form.between is None else form.between_head.strip()
        """Between the objects of one list; ``None`` where each call has its own marks."""
        self._before = self._between or "" if form.recipient else ""  # stands before an answer, in its prompt
        self._held = self._before  # text that has not come out yet
        self._fed = 0  # characters, those that are held included
        self._place: Literal["text", "object", "after"] = "text"
        self._object = CallObject(form, self._names, self._schemas)
        self._mark = 0  # the length of the held text before the object
        self._begun = 0
        self._announced = False  # whether `CallBegun` was emitted for the object
        self._written = False
        self._after_call = False  # whether nothing has come out since a call

    def feed(self, text: str) -> list[CallEvent]:
        self._held += text
        self._fed += len(text)
        return list(self._run(last=False))

    def finish(self, *, cut: bool = False) -> list[CallEvent]:
        """End the text; ``cut`` says that a limit did, and not the writer."""
        events = list(self._cut_off()) if cut else []
        return events + list(self._run(last=True))

    def _run(self, *, last: bool) -> Iterator[CallEvent]:
        more = True
        while more:
            if self._place == "text":
                more = yield from self._in_text(last)
            elif self._place == "object":
                more = yield from self._in_object(last)
            else:
                more = self._after(last)

    def _in_text(self, last: bool) -> Generator[CallEvent, None, bool]:
        found = self._held.find(self._opening or "{")
        if found >= 0 and (self._opening or not (self._written or self._held[:found].strip())):
            content = self._without_lead(self._held[:found])
            self._enter(found + len(self._opening) - len(content))
            yield from self._content(len(content))
            return True
        if last and self._after_call and not self._held.strip():
            self._held = ""
        yield from self._content(len(self._held) if last else self._sure())
        return False

    def _sure(self) -> int:
        sizes = range(min(len(self._opening) - 1, len(self._held)), 0, -1)
        begun = next((size for size in sizes if self._held.endswith(self._opening[:size])), 0)
        sure = self._without_lead(self._held[: len(self._held) - begun]) if begun else self._held.rstrip()
        whole = self._held.rstrip()  # which may end within what stands before an opening
        ahead = next((size for size in range(len(self._lead), 0, -1) if whole.endswith(self._lead[:size])), 0)
        return min(len(sure), len(whole[: len(whole) - ahead].rstrip()))

    def _without_lead(self, text: str) -> str:
        return text.rstrip().removesuffix(self._lead).rstrip()

    def _in_object(self, last: bool) -> Generator[CallEvent, None, bool]:
        try:
            self._object.read(self._held[self._mark + self._object.at :])
            broken = False
        except Broken:
            broken = True
        if self._object.name is not None and not self._announced:
            self._announced = True
            self._begun += 1
            yield CallBegun(self._begun - 1, self._object.name)
        if self._announced and (arguments := self._object.take()):
            yield CallArguments(self._begun - 1, arguments)
        if self._object.whole:
            self._held, self._before = self._held[self._mark + self._object.at :], ""
            if self._object.is_reply:
                self._place = "text"
                return True
            self._place, self._after_call = "after", True
            yield CallEnded(self._begun - 1)
        elif broken or last:
            size = self._mark + self._object.at if broken else len(self._held)
            self._place = "text"
            yield from self._content(size, broken_call=self._announced)
        return self._object.whole or broken

    def _cut_off(self) -> Iterator[CallEvent]:
        """Let go of a call, or of a mark, that is not whole, where text has been held back for it."""
        if self._place == "text":
            sure = self._sure()
            mark = self._held[sure:].strip()
            if not mark or (not self._after_call and (len(mark) == 1 or mark[0].isalnum())):
                return
            yield from self._content(sure)
        elif self._place == "object":
            if not self._opening and not self._object.begun:
                return  # any object may begin so
            if self._object.called is not None:
                if not self._announced:
                    self._begun += 1
                    yield CallBegun(self._begun - 1, self._object.called)
                yield CallCut(self._begun - 1)
        self._held, self._place = "", "text"

    def _after(self, last: bool) -> bool:
        rest = self._held.lstrip()
        self._place = "text"
        if self._closing and rest.startswith(self._closing):
            self._held = rest.removeprefix(self._closing)
            return True
        if self._between is not None and rest.startswith(self._between):
            following = rest.removeprefix(self._between).lstrip()
            if following.startswith("{") or (following and self._form.segments is not None):
                self._enter(len(self._held) - len(following))
                return True
            rest = rest if following else self._between
        marks = (self._closing, "" if self._between is None else self._between)
        if not last and any(mark.startswith(rest) for mark in marks):
            self._place = "after"
            return False
        return True

    def _enter(self, mark: int) -> None:
        self._place, self._mark, self._announced = "object", mark, False
        self._object = CallObject(self._form, self._names, self._schemas)

    def _content(self, size: int, *, broken_call: bool = False) -> Iterator[CallEvent]:
        at, text, self._held = self._fed - len(self._held), self._held[:size], self._held[size:]
        if self._before and size:
            text, at, self._before = text[len(self._before) :], at + len(self._before), ""
        if text:
            self._written, self._after_call = True, False
            yield CallBroken(self._begun - 1, text, at) if broken_call else Content(text, at)


def _solid(text: str) -> str:
    return "".join(text.split())
