from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI
from wanted import KEY, MODEL, QUESTION, URL, Weather

set_tracing_disabled(True)
model = OpenAIChatCompletionsModel(MODEL, AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=0))
asked: list[str] = []


@function_tool
def weather(city: str) -> str:
    """The weather of a city."""
    asked.append(city)
    return "rain"


settings = ModelSettings(temperature=0, max_tokens=200, tool_choice="required")
ran = Runner.run_sync(Agent("a", tools=[weather], model=model, model_settings=settings), QUESTION, max_turns=4)
assert asked
assert isinstance(ran.final_output, str)
formed = Runner.run_sync(Agent("b", output_type=Weather, model=model), QUESTION)
assert isinstance(formed.final_output, Weather)
