"""Tools: how a model's template writes calls, how to find them in a text, and the grammar of an answer that calls."""

from unisono.chat.call_form import CallForm
from unisono.chat.tool_grammar import call_grammar
from unisono.chat.tool_parser import CallFinder, find_calls

__all__ = ["CallFinder", "CallForm", "call_grammar", "find_calls"]
