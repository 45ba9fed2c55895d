import json

import litellm
from wanted import BEGUN, CONTINUED, KEY, MODEL, QUESTION, URL, Weather, check, done

ask = {"model": f"openai/{MODEL}", "api_base": URL, "api_key": KEY, "messages": [{"role": "user", "content": QUESTION}]}
ask |= {"temperature": 0, "max_tokens": 60, "num_retries": 0}
whole = litellm.completion(**ask).choices[0].message.content
check(whole, "an empty answer", whole)
chunks = litellm.completion(**ask, stream=True)
streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
check(streamed == whole, "the stream is another text", streamed)
formed = Weather.model_validate_json(litellm.completion(**ask, response_format=Weather).choices[0].message.content)
schema = {**Weather.model_json_schema(), "additionalProperties": False}
tools = [{"type": "function", "function": {"name": "weather", "description": "Of a city.", "parameters": schema}}]
one = {"tools": tools, "tool_choice": "required", "parallel_tool_calls": False}
called = litellm.completion(**ask, **one).choices[0].message
calls = called.tool_calls
check(calls, "no call", calls)
result = {"role": "tool", "tool_call_id": calls[0].id, "content": "rain"}
history = [*ask["messages"], called.model_dump(), result]
told = litellm.completion(**{**ask, "messages": history}, tools=tools, tool_choice="none").choices[0].message
check(told.content and not told.tool_calls, "no text after a result", told)
arguments = [Weather.model_validate(json.loads(call.function.arguments)).city for call in calls]

short = {**ask, "max_tokens": 8}
likely = litellm.completion(**short, logprobs=True, top_logprobs=2).choices[0].logprobs.content
check(len(likely) == 8 and len(likely[0].top_logprobs) == 2, "no likelihoods", likely)
begun = [*ask["messages"], {"role": "assistant", "content": BEGUN}]
continued = litellm.completion(**{**short, "messages": begun}, extra_body=CONTINUED).choices[0].message.content
marked = [*ask["messages"], {"role": "assistant", "content": BEGUN, "prefix": True}]  # LiteLLM's own name for it
check(litellm.completion(**{**short, "messages": marked}).choices[0].message.content == continued != "", "no", begun)
plain = {"api_base": URL, "api_key": KEY, "max_tokens": 4, "temperature": 0, "num_retries": 0}
scored = litellm.text_completion(model=f"text-completion-openai/{MODEL}", prompt="The sky is", logprobs=1, **plain)
check(scored.choices[0].text, "no completion", scored)

response = {**ask, "max_output_tokens": ask["max_tokens"], "input": QUESTION}
response = {key: value for key, value in response.items() if key not in ("messages", "max_tokens")}
first = litellm.responses(**response)
check(first.output_text == whole, "a response is another text", first)
events = list(litellm.responses(**response, stream=True))
deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
check(deltas == whole, "the events of a response are another text", deltas)
functions = [{"type": "function", **tools[0]["function"], "strict": True}]
forced = {"tools": functions, "tool_choice": "required", "parallel_tool_calls": False}
asked = litellm.responses(**response, **forced)
[call] = [item for item in asked.output if item.type == "function_call"]
Weather.model_validate_json(call.arguments)
output = [{"type": "function_call_output", "call_id": call.call_id, "output": "rain"}]
more = {"previous_response_id": asked.id, "tools": functions, "tool_choice": "none"}
check(litellm.responses(**{**response, "input": output}, **more).output_text, "no text after a result", asked)
parsed = litellm.responses(**response, text_format=Weather).output_text
Weather.model_validate_json(parsed)
done("litellm", answer=whole, formed=formed.city, calls=arguments, response=parsed)
