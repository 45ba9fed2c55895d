from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from wanted import KEY, MODEL, QUESTION, URL, Weather

chat = ChatOpenAI(model=MODEL, base_url=URL, api_key=KEY, max_retries=0, temperature=0, max_tokens=80)
asked = chat.bind_tools([Weather], tool_choice="Weather", strict=True).invoke(QUESTION)
[call] = asked.tool_calls
assert Weather.model_validate(call["args"])
history = [HumanMessage(QUESTION), asked, ToolMessage("rain", tool_call_id=call["id"], name="Weather")]
again = chat.bind_tools([Weather], strict=True).invoke(history)
assert again.content or again.tool_calls
for method in ("json_schema", "function_calling"):
    assert isinstance(chat.with_structured_output(Weather, method=method).invoke(QUESTION), Weather)
