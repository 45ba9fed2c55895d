"""Calls found in what is being written: text in as it comes, contents and calls out."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator
from dataclasses import dataclass
from typing import Literal

from unisono.chat.call_form import CallForm
from unisono.chat.call_object import Broken, CallObject


@dataclass(frozen=True, slots=True)
class Content:
    """Text that is no part of a call."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A call has begun, and its name is known."""

    index: int
    """Of the call among those that began, from 0."""
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of a call's arguments. Joined, they are the JSON text of an object."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A call is whole."""

    index: int


@dataclass(frozen=True, slots=True)
class CallBroken:
    """A call that had begun is none: it breaks off, or goes on as no JSON does."""

    index: int
    text: str
    """All of it as it was written, which is content where calls are looked at when they are whole."""


CallEvent = Content | CallBegun | CallArguments | CallEnded | CallBroken


@dataclass(frozen=True, slots=True)
class FoundCall:
    """A call that is whole."""

    name: str
    arguments: str


def find_calls(form: CallForm, names: Collection[str], text: str) -> tuple[str, tuple[FoundCall, ...]]:
    """The content of a whole answer, and the calls in it; what breaks off is content. See `CallFinder`."""
    finder = CallFinder(form, names)
    content: list[str] = []
    begun: dict[int, tuple[str, list[str]]] = {}
    for event in [*finder.feed(text), *finder.finish()]:
        match event:
            case Content(text):
                content.append(text)
            case CallBegun(index, name):
                begun[index] = (name, [])
            case CallArguments(index, text):
                begun[index][1].append(text)
            case CallBroken(index, text):
                content.append(text)
                del begun[index]
    return "".join(content), tuple(FoundCall(name, "".join(parts)) for name, parts in begun.values())


class CallFinder:
    """Finds the calls in one answer.

    What may be the beginning of a mark waits, as does white space, which is dropped right before a call, between
    two, and behind the last at the end. What turns out to be no call comes out as it was written. A form without
    an opening mark has calls only where nothing but calls stands before them. A closing mark may be missing.

    However a text is cut into deltas, the joined contents and calls are the same.
    """

    def __init__(self, form: CallForm, names: Collection[str]) -> None:
        """Look for calls.

        Args:
            form: how they are written.
            names: of the tools. The call of anything else is none.
        """
        self._form = form
        self._names = frozenset(names)
        self._opening = form.opening.strip()
        self._closing = form.closing.strip()
        repeats = form.between is not None and _solid(form.between) == _solid(form.closing + form.opening)
        self._between = None if repeats or form.between is None else form.between.strip()
        """Between the objects of one list; calls that each have marks of their own are no list."""
        self._held = ""
        """Of the text so far, what has not come out."""
        self._place: Literal["text", "object", "behind"] = "text"
        self._object = CallObject(form, self._names)
        self._mark = 0
        """How much of what is held stands before the object."""
        self._begun = 0
        self._announced = False
        """Whether the object's call has begun for whoever listens."""
        self._written = False
        """Whether contents have come out."""
        self._after_call = False
        """Whether nothing has come out since a call."""

    def feed(self, text: str) -> list[CallEvent]:
        """Read on. Returns what is known by now."""
        self._held += text
        return list(self._run(last=False))

    def finish(self) -> list[CallEvent]:
        """Say that the text has ended. Returns the rest."""
        return list(self._run(last=True))

    def _run(self, *, last: bool) -> Iterator[CallEvent]:
        more = True
        while more:
            if self._place == "text":
                more = yield from self._in_text(last)
            elif self._place == "object":
                more = yield from self._in_object(last)
            else:
                more = self._behind(last)

    def _in_text(self, last: bool) -> Generator[CallEvent, None, bool]:
        """Hand out contents up to where a call may begin. Returns whether one begins."""
        found = self._held.find(self._opening or "{")
        if found >= 0 and (self._opening or not (self._written or self._held[:found].strip())):
            content = self._held[:found].rstrip()
            self._enter(found + len(self._opening) - len(content))
            yield from self._content(len(content))
            return True
        if last and self._after_call and not self._held.strip():
            self._held = ""
        yield from self._content(len(self._held) if last else self._sure())
        return False

    def _sure(self) -> int:
        """How much of what is held is content: not the beginning of a mark, and not white space before one."""
        sizes = range(min(len(self._opening) - 1, len(self._held)), 0, -1)
        begun = next((size for size in sizes if self._held.endswith(self._opening[:size])), 0)
        return len(self._held[: len(self._held) - begun].rstrip())

    def _in_object(self, last: bool) -> Generator[CallEvent, None, bool]:
        """Read the object. Returns whether there is more to do, behind it or behind what is none."""
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
            self._held = self._held[self._mark + self._object.at :]
            self._place, self._after_call = "behind", True
            yield CallEnded(self._begun - 1)
        elif broken or last:
            size = self._mark + self._object.at if broken else len(self._held)
            self._place = "text"
            yield from self._content(size, broken_call=self._announced)
        return self._object.whole or broken

    def _behind(self, last: bool) -> bool:
        """Read over what stands behind an object. Returns whether it is known what that is."""
        rest = self._held.lstrip()
        self._place = "text"
        if self._closing and rest.startswith(self._closing):
            self._held = rest.removeprefix(self._closing)
            return True
        if self._between is not None and rest.startswith(self._between):
            following = rest.removeprefix(self._between).lstrip()
            if following.startswith("{"):
                self._enter(len(self._held) - len(following))
                return True
            rest = rest if following else self._between
        marks = (self._closing, "" if self._between is None else self._between)
        if not last and any(mark.startswith(rest) for mark in marks):
            self._place = "behind"
            return False
        return True

    def _enter(self, mark: int) -> None:
        self._place, self._mark, self._announced = "object", mark, False
        self._object = CallObject(self._form, self._names)

    def _content(self, size: int, *, broken_call: bool = False) -> Iterator[CallEvent]:
        """Hand out the first of what is held."""
        text, self._held = self._held[:size], self._held[size:]
        if text:
            self._written, self._after_call = True, False
            yield CallBroken(self._begun - 1, text) if broken_call else Content(text)


def _solid(text: str) -> str:
    return "".join(text.split())
