from typing import Literal

from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
from agents.exceptions import MaxTurnsExceeded
from openai import AsyncOpenAI
from wanted import KEY, MODEL, QUESTION, URL, Weather, check, done

set_tracing_disabled(True)
model = OpenAIChatCompletionsModel(MODEL, AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=0))
asked: list[object] = []


@function_tool
def weather(city: Literal["Sofia", "Rome"], day: Literal["today", "tomorrow"] = "today") -> str:
    """The weather of a city.

    Args:
        city: the city's name.
        day: which day.
    """
    asked.append((city, day))
    return "rain"


settings = ModelSettings(temperature=0, max_tokens=80, tool_choice="required", parallel_tool_calls=False)
caller = Agent("caller", instructions="Answer shortly.", tools=[weather], model=model, model_settings=settings)
try:  # only the first turn has to call; such small models may call in every other, too
    text = Runner.run_sync(caller, QUESTION, max_turns=2).final_output
    check(isinstance(text, str), "no final text", text)
except MaxTurnsExceeded:
    text = "calls for ever"
    check(len(asked) > 1, "two turns that neither called nor answered", asked)
check(asked, "the tool was not called", text)
plain = ModelSettings(temperature=0, max_tokens=80)
typed = Agent("typed", output_type=Weather, model=model, model_settings=plain)
formed = Runner.run_sync(typed, QUESTION).final_output
check(isinstance(formed, Weather), "the output has another type", formed)
done("openai-agents", calls=asked, text=text, output=formed.city)
