from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from wanted import KEY, MODEL, QUESTION, URL, Weather, check, done

llm = OpenAILike(
    MODEL, api_base=URL, api_key=KEY, is_chat_model=True, is_function_calling_model=True, max_retries=0,
    temperature=0, max_tokens=80,
)  # fmt: skip
messages = [ChatMessage(role="user", content=QUESTION)]
whole = llm.chat(messages).message.content
check(whole, "an empty answer", whole)
streamed = list(llm.stream_chat(messages))[-1].message.content
check(streamed == whole, "the stream is another text", streamed)
formed = llm.as_structured_llm(Weather).complete(QUESTION).raw
check(isinstance(formed, Weather), "the output has another type", formed)


def weather(city: str) -> str:
    """The weather of a city."""
    return "rain in " + city


answer = llm.chat_with_tools([FunctionTool.from_defaults(weather)], user_msg=QUESTION, tool_required=True)
calls = llm.get_tool_calls_from_response(answer)
check(all(isinstance(call.tool_kwargs.get("city"), str) for call in calls), "a call has other arguments", calls)
check(calls and calls[0].tool_name == "weather", "another call", calls)
done("llama-index-llms-openai-like", answer=whole, formed=formed.city, calls=[call.tool_kwargs for call in calls])
