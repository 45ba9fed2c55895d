"""Where a text stands in its calls, where these are written by seams (docs/adr/0014)."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from unisono.chat.messages import Prompt
from unisono.chat.prompt_encoder import PromptEncoder
from unisono.chat.tool_grammar import call_grammar
from unisono.chat.tools import Tool
from unisono.config.constraint import LARK, Constraint
from unisono.errors import PromptError
from unisono.vocab.marks import Mark, Turn

_TURNS: dict[Mark | None, Turn | None] = {
    None: "calling",
    "call_begin": "name",
    "call_next": "name",
    "call_arguments": None,
    "call_end": "behind",
}


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls of one text so far."""

    last: Mark | None = None
    """The last mark of a call; ``None`` before the first call."""
    number: int = 0
    """Of the call that is written or was written last."""

    def behind(self, mark: Mark) -> Calls:
        """Where a text stands behind one more mark."""
        return Calls(mark, self.number + (mark == "call_next"))

    def turn(self, *, first: bool) -> Turn | None:
        """The place in which members' ids can stand for marks of calls; ``first`` tells that an answer begins."""
        turn = _TURNS.get(self.last)
        return "calling_first" if first and turn == "calling" else turn


def free_calls(lead: PromptEncoder, prompt: Prompt) -> Constraint | None:
    """The grammar of an answer that may call a prompt's tools, where the lead writes calls by seams; else ``None``.

    Without it, nothing would tell the segments of other members' forms from text. Arguments may be any object.
    """
    if not prompt.tools or not lead.marks.seams or find_spec("llguidance") is None:
        return None
    try:
        form = lead.call_form()
    except PromptError:
        return None
    tools = [
        Tool(type="function", function={"name": tool["function"]["name"], "parameters": {"type": "object"}})
        for tool in prompt.tools
    ]
    return Constraint(LARK, call_grammar(form, tools, several=True, free=True)) if form.by_seams else None
