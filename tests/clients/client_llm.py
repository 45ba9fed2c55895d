from llm.default_plugins.openai_models import Chat
from wanted import KEY, MODEL, QUESTION, URL, Weather, check, done

model = Chat(MODEL, model_name=MODEL, api_base=URL, supports_schema=True, supports_tools=True)
options = {"key": KEY, "temperature": 0, "max_tokens": 40}
whole = model.prompt(QUESTION, stream=False, **options).text()
check(whole, "an empty answer", whole)
streamed = model.prompt(QUESTION, **options).text()
check(streamed == whole, "the stream is another text", streamed)
formed = Weather.model_validate_json(model.prompt(QUESTION, schema=Weather, stream=False, **options).text())


def weather(city: str) -> str:
    """The weather of a city."""
    return "rain in " + city


free = {stream: model.prompt(QUESTION, tools=[weather], stream=stream, **options) for stream in (False, True)}
texts = [answer.text() for answer in free.values()]
calls = [[call.arguments for call in answer.tool_calls()] for answer in free.values()]
check(texts[0] == texts[1] and calls[0] == calls[1], "the stream with tools differs", (texts, calls))
check(texts[0] or calls[0], "neither text nor calls", free)
check(all(isinstance(each.get("city"), str) for each in calls[0]), "a free call does not fit its schema", calls)
done("llm", answer=whole, formed=formed.city, free_calls=calls[0])
