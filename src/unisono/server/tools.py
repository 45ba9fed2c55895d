"""Tools: what a request lets an answer call, and the calls in the generated text.

A call is sent when it is complete. An incomplete one is content, as it was written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unisono.chat.call_form import CallForm
from unisono.chat.messages import Tool, checked_tools, new_call_id
from unisono.chat.tool_grammar import call_grammar, parameters_of
from unisono.chat.tool_parser import CallArguments, CallBegun, CallBroken, CallEnded, CallFinder, Content, FoundCall
from unisono.config.constraint import LARK, Constraint
from unisono.engine.engine import Engine
from unisono.errors import PromptError, SpecError
from unisono.server.errors import Refusal, refusal_of


@dataclass(frozen=True, slots=True)
class Calling:
    """The tools of a request."""

    tools: tuple[Tool, ...]
    form: CallForm
    """How the lead writes calls."""
    constraint: Constraint | None
    """The grammar of calls, if the answer has to be one."""


NumberedCall = tuple[int, str, FoundCall]
"""The number of a call in its answer, its id, and the call."""


class CallReader:
    """Splits one answer into content and complete calls; without tools, all of it is content."""

    def __init__(self, calling: Calling | None) -> None:
        names = [] if calling is None else [tool["function"]["name"] for tool in calling.tools]
        self._finder = None if calling is None else CallFinder(calling.form, names)
        self._begun: dict[int, tuple[str, list[str]]] = {}
        self.count = 0

    def read(self, text: str, *, last: bool = False) -> tuple[str, list[NumberedCall]]:
        """Take more text; return new content and newly complete calls."""
        if self._finder is None:
            return text, []
        content: list[str] = []
        calls: list[NumberedCall] = []
        for event in [*self._finder.feed(text), *(self._finder.finish() if last else ())]:
            match event:
                case Content(text):
                    content.append(text)
                case CallBegun(index, name):
                    self._begun[index] = (name, [])
                case CallArguments(index, text):
                    self._begun[index][1].append(text)
                case CallBroken(index, text):
                    content.append(text)
                    del self._begun[index]
                case CallEnded(index):
                    name, parts = self._begun.pop(index)
                    calls.append((self.count, new_call_id(), FoundCall(name, "".join(parts))))
                    self.count += 1
        return "".join(content), calls


def read_calling(
    tools: Sequence[Any] | None, choice: Any, parallel: bool | None, engine: Engine, lead: str
) -> Calling | None:
    """Read a request's ``tools``, ``tool_choice`` and ``parallel_tool_calls``. Raises a `Refusal`."""
    if not tools:
        if choice not in (None, "none"):
            words = "tool_choice is given, but there are no tools"
            raise Refusal(400, words, param="tool_choice", code="invalid_value")
        return None
    try:
        offered = checked_tools([_without_nulls(tool) for tool in tools])
        if choice == "none":
            return None
        form = next(member for member in engine.members if member.name == lead).encoder.call_form()
    except (SpecError, PromptError) as error:
        raise refusal_of(error, param="tools") from None
    if choice in (None, "auto"):
        _check_free(offered, parallel)
        return Calling(offered, form, None)
    chosen = None if choice == "required" else choice["function"]["name"]
    for number, tool in enumerate(offered):
        try:
            parameters_of(tool)
        except SpecError as error:
            raise refusal_of(error, param=f"tools[{number}].function.parameters") from None
    try:
        grammar = call_grammar(form, offered, chosen, several=parallel is not False and chosen is None)
    except SpecError as error:
        raise refusal_of(error, param="tool_choice") from None
    return Calling(offered, form, Constraint(LARK, grammar))


def _without_nulls(tool: Any) -> Any:
    return {**tool, "function": {key: value for key, value in tool["function"].items() if value is not None}}


def _check_free(tools: Sequence[Tool], parallel: bool | None) -> None:
    found = {"parallel_tool_calls": "false"} if parallel is False else {}
    strict = (number for number, tool in enumerate(tools) if tool["function"].get("strict"))
    found |= {f"tools[{number}].function.strict": "true" for number in strict}
    for name, value in found.items():
        words = f'{name} is {value}, but the answer is free: set tool_choice to "required", or leave {name} out'
        raise Refusal(400, words, param=name, code="unsupported")
