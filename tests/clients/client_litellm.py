import json

import litellm
from wanted import KEY, MODEL, QUESTION, URL, Weather, check, done

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
calls = litellm.completion(**ask, **one).choices[0].message.tool_calls
check(calls, "no call", calls)
arguments = [Weather.model_validate(json.loads(call.function.arguments)).city for call in calls]
done("litellm", answer=whole, formed=formed.city, calls=arguments)
