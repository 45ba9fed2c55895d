from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI
from wanted import BEGUN, CONTINUED, KEY, MODEL, QUESTION, URL, Weather, check, done

base = {"model": MODEL, "base_url": URL, "api_key": KEY, "max_retries": 0, "temperature": 0}
chat, brief = (ChatOpenAI(**base, max_tokens=most) for most in (80, 12))
whole = brief.invoke(QUESTION).content
streamed = "".join(chunk.content for chunk in brief.stream(QUESTION))
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

likely = chat.bind(logprobs=True, top_logprobs=2, max_tokens=8).invoke(QUESTION).response_metadata["logprobs"]
check(len(likely["content"]) == 8, "no likelihoods", likely)
begun = [HumanMessage(QUESTION), AIMessage(BEGUN)]
continued = ChatOpenAI(**base, max_tokens=8, extra_body=CONTINUED).invoke(begun).content
check(continued, "nothing follows a beginning", continued)
check(OpenAI(**base, max_tokens=4).invoke("The sky is"), "no completion", base)

responses, brief = (ChatOpenAI(**base, max_tokens=most, use_responses_api=True) for most in (80, 12))
check(brief.invoke(QUESTION).text == whole, "a response is another text", whole)
check("".join(chunk.text for chunk in brief.stream(QUESTION)) == whole, "its stream is another text", whole)
asked = responses.bind_tools([Weather], tool_choice="Weather", strict=True).invoke(QUESTION)
[call] = asked.tool_calls
Weather.model_validate(call["args"])
history = [HumanMessage(QUESTION), asked, ToolMessage("rain", tool_call_id=call["id"])]
again = brief.bind_tools([Weather], tool_choice="none").invoke(history)
check(again.text and not again.tool_calls, "no text after a result", again)
typed = responses.with_structured_output(Weather, method="json_schema").invoke(QUESTION)
check(isinstance(typed, Weather), "a response has another type", typed)
chain = ChatOpenAI(**base, max_tokens=8, use_responses_api=True, use_previous_response_id=True)
check(chain.invoke([HumanMessage(QUESTION), asked, history[-1], HumanMessage("And?")]).text, "nothing follows", asked)
done("langchain-openai", call=call["args"], free_calls=len(again.tool_calls), formed=[*map(str, formed.values())])
