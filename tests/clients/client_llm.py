import llm
from llm.default_plugins.openai_models import Chat, Completion, Responses
from llm.parts import ToolCallPart, ToolResultPart
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
called = ToolCallPart("weather", {"city": "Rome"}, "c")
told = llm.tool_message(ToolResultPart("weather", "rain", "c"))
history = [llm.user(QUESTION), llm.assistant(called), told]
responses = Responses(MODEL, model_name=MODEL, api_base=URL, supports_schema=True, supports_tools=True)
for each in (model, responses):
    result = each.prompt(messages=history, tools=[weather], **options)
    check(result.text() or result.tool_calls(), "neither text nor calls after a result", result)
for stream in (False, True):
    same = responses.prompt(QUESTION, stream=stream, **options).text()
    check(same == whole, "a response is another text", same)
Weather.model_validate_json(responses.prompt(QUESTION, schema=Weather, stream=False, **options).text())
talk = responses.conversation()
check(all(talk.prompt(each, **options).text() for each in (QUESTION, "And?")), "no second turn", talk)
scored = Completion(MODEL, model_name=MODEL, api_base=URL).prompt("The sky is", logprobs=2, **options)
check(scored.text(), "no completion", scored)
done("llm", answer=whole, formed=formed.city, free_calls=calls[0])
