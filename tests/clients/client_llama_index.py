from llama_index.core.llms import ChatMessage, LLMMetadata
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai import OpenAIResponses
from llama_index.llms.openai_like import OpenAILike
from wanted import BEGUN, CONTINUED, KEY, MODEL, QUESTION, URL, Weather, check, done

base = {"model": MODEL, "api_base": URL, "api_key": KEY, "max_retries": 0, "temperature": 0}
kind = {"is_chat_model": True, "is_function_calling_model": True}
llm = OpenAILike(**base, **kind, max_tokens=80)
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


tool = FunctionTool.from_defaults(weather)


def turns(model: OpenAILike | OpenAIResponses) -> list[str]:
    """Let a model call, send the result back, and return the arguments of the calls."""
    one = {"tool_required": True, "allow_parallel_tool_calls": False}
    answer = model.chat_with_tools([tool], user_msg=QUESTION, **one)
    calls = model.get_tool_calls_from_response(answer)
    check(all(isinstance(call.tool_kwargs.get("city"), str) for call in calls), "a call has other arguments", calls)
    check(calls and calls[0].tool_name == "weather", "another call", calls)
    named = {"tool_call_id": calls[0].tool_id, "call_id": calls[0].tool_id}
    history = [*messages, answer.message, ChatMessage(role="tool", content="rain", additional_kwargs=named)]
    after = model.chat_with_tools([tool], chat_history=history, tool_choice="none").message.content
    check(after, "no text after a result", after)
    return [call.tool_kwargs for call in calls]


class Served(OpenAIResponses):
    """LlamaIndex knows the contexts of OpenAI's own models alone."""

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=2048, is_chat_model=True, is_function_calling_model=True, model_name=MODEL)


calls = turns(llm)
begun = [*messages, ChatMessage(role="assistant", content=BEGUN)]
short = OpenAILike(**base, **kind, max_tokens=8, logprobs=True, top_logprobs=2)
check(short.chat(begun, extra_body=CONTINUED).message.content, "nothing follows a beginning", begun)
check(len(short.chat(messages).logprobs) == 8, "no likelihoods", short)
check(OpenAILike(**base, is_chat_model=False, max_tokens=4).complete("The sky is").text, "no completion", base)

responses = Served(**base, max_output_tokens=80)
check(responses.chat(messages).message.content == whole, "a response is another text", whole)
events = list(responses.stream_chat(messages))
check(events[-1].message.content == whole, "its stream is another text", events[-1])
turns(responses)
check(isinstance(responses.as_structured_llm(Weather).complete(QUESTION).raw, Weather), "another type", responses)
done("llama-index-llms-openai-like", answer=whole, formed=formed.city, calls=calls)
