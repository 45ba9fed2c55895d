"""Calls in the text of an answer, which are told whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unisono.chat.call_form import CallForm
from unisono.chat.messages import new_call_id
from unisono.chat.tool_parser import (
    CallArguments,
    CallBegun,
    CallBroken,
    CallCut,
    CallEnded,
    CallFinder,
    Content,
    FoundCall,
    last_calls,
)
from unisono.chat.tools import Tool
from unisono.config.constraint import Constraint
from unisono.records import Finish, Generation


@dataclass(frozen=True, slots=True)
class Calling:
    """The tools of a request."""

    tools: tuple[Tool, ...]
    form: CallForm
    """How the lead writes calls."""
    constraint: Constraint | None
    """The grammar of calls, if the answer has to be one, or calls in it have to fit."""
    constraint_field: str = "tools"
    """The field that the constraint comes from."""
    as_function: bool = False
    """Whether a call is told in OpenAI's form of before tools, as the request tells its functions."""


NumberedCall = tuple[int, str, FoundCall]
"""The number of a call in its answer, its id, and the call."""


def unended(generation: Generation) -> str | None:
    """What was reasoned, where nothing ended it."""
    return generation.reasoning if generation.ended_inside else None


class CallReader:
    """Splits one answer into content and complete calls; without tools, all of it is content."""

    def __init__(self, calling: Calling | None, begun: str = "") -> None:
        """``begun`` is the text before: it is content, see `check_begun`, and comes out nowhere."""
        tools = () if calling is None else calling.tools
        names = [tool["function"]["name"] for tool in tools]
        self._calling, self._names = calling, names
        self._finder = None if calling is None else CallFinder(calling.form, names, tools)
        self._begun: dict[int, tuple[str, list[str]]] = {}
        self.count = 0
        self.taken = 0
        """Characters of the answer."""
        self._ahead = 0
        if begun := begun.rstrip():
            self.read(begun)
            self._ahead, self.taken = len(begun), 0

    def read(
        self, text: str, *, ended: Finish | None = None, thought: str | None = None
    ) -> tuple[str, list[NumberedCall]]:
        """Take more text; return new content and newly complete calls. ``ended`` is why the text ends with it.

        ``thought`` is what was reasoned, where that was never ended; see `_forgotten`.
        """
        parts = list(self.parts(text, ended=ended, thought=thought))
        content = "".join(part.text for part in parts if isinstance(part, Content))
        return content, [part for part in parts if not isinstance(part, Content)]

    def parts(
        self, text: str, *, ended: Finish | None = None, thought: str | None = None
    ) -> Iterator[Content | NumberedCall]:
        """The same in the order in which the answer has them."""
        at, self.taken = self.taken, self.taken + len(text)
        if self._finder is None:
            if text:
                yield Content(text, at)
            return
        events = self._finder.feed(text)
        if ended is not None:
            events += self._finder.finish(cut=ended in ("length", "context"))
        for event in events:
            match event:
                case Content(text, at):
                    yield Content(text, at - self._ahead)
                case CallBegun(index, name):
                    self._begun[index] = (name, [])
                case CallArguments(index, text):
                    self._begun[index][1].append(text)
                case CallBroken(index, text, at):
                    del self._begun[index]
                    yield Content(text, at - self._ahead)
                case CallEnded(index) | CallCut(index):
                    name, parts = self._begun.pop(index)
                    call = FoundCall(name, "".join(parts), is_cut=isinstance(event, CallCut))
                    yield self._numbered(call)
        if ended == "end" and thought and not self.taken:
            yield from map(self._numbered, self._forgotten(thought))

    def _numbered(self, call: FoundCall) -> NumberedCall:
        self.count += 1
        return self.count - 1, new_call_id(), call

    def _forgotten(self, thought: str) -> Sequence[FoundCall]:
        """The calls at the end of reasoning, of an answer that has nothing else: models forget to end it before them.

        Those that something follows are plans, and those that a grammar would restrict may be anything there.
        """
        calling = self._calling
        if calling is None or calling.constraint is not None:
            return ()
        return last_calls(calling.form, self._names, thought, calling.tools)
