from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from wanted import KEY, MODEL, QUESTION, URL, Weather, check, done

chat = ChatOpenAI(model=MODEL, base_url=URL, api_key=KEY, max_retries=0, temperature=0, max_tokens=80)
whole = chat.invoke(QUESTION).content
streamed = "".join(chunk.content for chunk in chat.stream(QUESTION))
check(whole and streamed == whole, "the stream is another text", (whole, streamed))

asked = chat.bind_tools([Weather], tool_choice="Weather", strict=True).invoke(QUESTION)
check(len(asked.tool_calls) == 1 and not asked.invalid_tool_calls, "not one call", asked)
call = asked.tool_calls[0]
Weather.model_validate(call["args"])
history = [HumanMessage(QUESTION), asked, ToolMessage("rain", tool_call_id=call["id"], name="Weather")]
again = chat.bind_tools([Weather], strict=True).invoke(history)
check(again.content or again.tool_calls, "neither text nor calls after a result", again)
check(not again.invalid_tool_calls, "a free call is not JSON", again)
for each in again.tool_calls:
    Weather.model_validate(each["args"])

methods = ("json_schema", "function_calling")
formed = {method: chat.with_structured_output(Weather, method=method).invoke(QUESTION) for method in methods}
for method, found in formed.items():
    check(isinstance(found, Weather), f"{method} gives another type", found)
loose = chat.with_structured_output(None, method="json_mode").invoke(QUESTION + " Answer in JSON.")
check(isinstance(loose, dict), "json_mode gives another type", loose)
done("langchain-openai", call=call["args"], free_calls=len(again.tool_calls), formed=[*map(str, formed.values())])
