import asyncio

from agents import Agent, ModelSettings, OpenAIResponsesModel, Runner
from agents_caller import asked, call
from openai import AsyncOpenAI
from wanted import KEY, MODEL, QUESTION, URL, Weather, check, done


def responses() -> OpenAIResponsesModel:
    """The model, by a client of its own: one belongs to an event loop."""
    return OpenAIResponsesModel(MODEL, AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=0))


model = responses()
text = call(model)
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
