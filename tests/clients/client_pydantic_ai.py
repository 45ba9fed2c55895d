from pydantic_ai import Agent, NativeOutput, capture_run_messages
from pydantic_ai.exceptions import UsageLimitExceeded
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import UsageLimits
from wanted import KEY, MODEL, QUESTION, URL, Weather, check, done

model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=URL, api_key=KEY))
settings = {"temperature": 0, "max_tokens": 200}
called = Agent(model, output_type=Weather, model_settings=settings)  # through a call that is required
output = called.run_sync(QUESTION).output
check(isinstance(output, Weather), "the output has another type", output)
native = Agent(model, output_type=NativeOutput(Weather), model_settings=settings)
formed = native.run_sync(QUESTION).output
check(isinstance(formed, Weather), "NativeOutput has another type", formed)

cities: list[str] = []
both = Agent(model, output_type=NativeOutput(Weather), model_settings=settings)


@both.tool_plain
def weather(city: str) -> str:
    """The weather of a city."""
    cities.append(city)
    return "rain in " + city


turns = UsageLimits(request_limit=2)
with capture_run_messages() as messages:
    try:  # such small models may call for ever
        ended: object = both.run_sync(QUESTION, usage_limits=turns).output
        check(isinstance(ended, Weather), "NativeOutput with a tool has another type", ended)
    except UsageLimitExceeded:
        check(len(cities) >= 2, "two turns that neither called nor answered", messages)
        ended = "calls for ever"
done("pydantic-ai-slim", tool_output=output.city, native_output=formed.city, with_tool=ended, calls=cities)
