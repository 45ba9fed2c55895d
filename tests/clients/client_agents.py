from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner
from agents_caller import asked, call
from openai import AsyncOpenAI
from wanted import KEY, MODEL, QUESTION, URL, Weather, check, done

model = OpenAIChatCompletionsModel(MODEL, AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=0))
text = call(model)
plain = ModelSettings(temperature=0, max_tokens=80)
typed = Agent("typed", output_type=Weather, model=model, model_settings=plain)
formed = Runner.run_sync(typed, QUESTION).final_output
check(isinstance(formed, Weather), "the output has another type", formed)
done("openai-agents", calls=asked, text=text, output=formed.city)
