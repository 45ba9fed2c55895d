from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike
from wanted import KEY, MODEL, QUESTION, URL, Weather

llm = OpenAILike(
    MODEL, api_base=URL, api_key=KEY, is_chat_model=True, is_function_calling_model=True, max_retries=0,
    temperature=0, max_tokens=80,
)  # fmt: skip
whole = llm.chat([ChatMessage(role="user", content=QUESTION)]).message.content
assert whole
assert list(llm.stream_chat([ChatMessage(role="user", content=QUESTION)]))[-1].message.content == whole
assert isinstance(llm.as_structured_llm(Weather).complete(QUESTION).raw, Weather)
