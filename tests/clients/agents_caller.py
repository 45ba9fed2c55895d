"""What both models of the Agents SDK are asked: a function tool that an answer has to call."""

from __future__ import annotations

from typing import Literal

from agents import Agent, Model, ModelSettings, Runner, function_tool, set_tracing_disabled
from agents.exceptions import MaxTurnsExceeded
from wanted import QUESTION, check

set_tracing_disabled(True)
asked: list[object] = []
"""What the tool was called with."""


@function_tool
def weather(city: Literal["Sofia", "Rome"], day: Literal["today", "tomorrow"] = "today") -> str:
    """The weather of a city.

    Args:
        city: the city's name.
        day: which day.
    """
    asked.append((city, day))
    return "rain"


def call(model: Model) -> str:
    """Let a model call the tool, and return its final text."""
    settings = ModelSettings(temperature=0, max_tokens=80, tool_choice="required", parallel_tool_calls=False)
    caller = Agent("caller", instructions="Answer shortly.", tools=[weather], model=model, model_settings=settings)
    try:  # only the first turn has to call; such small models may call in every other, too
        text = Runner.run_sync(caller, QUESTION, max_turns=2).final_output
        check(isinstance(text, str), "no final text", text)
    except MaxTurnsExceeded:
        text = "calls for ever"
        check(len(asked) > 1, "two turns that neither called nor answered", asked)
    check(asked, "the tool was not called", text)
    return str(text)
