import asyncio
from typing import Literal

from agents import Agent, ModelSettings, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from agents.exceptions import MaxTurnsExceeded
from openai import AsyncOpenAI
from wanted import KEY, MODEL, QUESTION, URL, Weather, check, done

set_tracing_disabled(True)


def responses() -> OpenAIResponsesModel:
    """The model, by a client of its own: one belongs to an event loop."""
    return OpenAIResponsesModel(MODEL, AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=0))


model = responses()
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
check(asked, "the tool was not called", text)
plain = ModelSettings(temperature=0, max_tokens=30)
typed = Agent("typed", output_type=Weather, model=model, model_settings=plain)
first = Runner.run_sync(typed, QUESTION)
check(isinstance(first.final_output, Weather), "the output has another type", first.final_output)
follower = Agent("follower", model=model, model_settings=plain)
second = Runner.run_sync(follower, "And?", previous_response_id=first.last_response_id)
check(second.last_response_id != first.last_response_id, "no response follows", second.last_response_id)


async def streamed() -> tuple[str, Weather]:
    # The SDK takes a stream that ends at its limit for a failure; a schema ends this one.
    running = Runner.run_streamed(
        Agent("teller", output_type=Weather, model=responses(), model_settings=plain), QUESTION
    )
    deltas = [
        event.data.delta
        async for event in running.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    return "".join(deltas), running.final_output


said, whole = asyncio.run(streamed())
check(Weather.model_validate_json(said) == whole, "the events do not add up", (said, whole))
done("openai-agents", calls=asked, text=text, output=first.final_output.city, streamed=said)
