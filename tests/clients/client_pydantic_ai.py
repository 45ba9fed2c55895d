from pydantic_ai import Agent, NativeOutput, UsageLimitExceeded, UsageLimits
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from wanted import KEY, MODEL, QUESTION, URL, Weather

model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=URL, api_key=KEY))
settings = {"temperature": 0, "max_tokens": 60}
called = Agent(model, output_type=Weather, model_settings=settings)  # through a call that is required
assert isinstance(called.run_sync(QUESTION).output, Weather)
native = Agent(model, output_type=NativeOutput(Weather), model_settings=settings)
assert isinstance(native.run_sync(QUESTION).output, Weather)
asked: list[str] = []


@native.tool_plain
def weather(city: str) -> str:
    """The weather of a city."""
    asked.append(city)
    return "rain in " + city


try:
    assert isinstance(native.run_sync(QUESTION, usage_limits=UsageLimits(request_limit=2)).output, Weather)
except UsageLimitExceeded:
    assert asked  # small models may call for ever
