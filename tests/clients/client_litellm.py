import litellm
from wanted import KEY, MODEL, QUESTION, URL, Weather

ask = {"model": f"openai/{MODEL}", "api_base": URL, "api_key": KEY, "messages": [{"role": "user", "content": QUESTION}]}
ask |= {"temperature": 0, "max_tokens": 60, "num_retries": 0}
whole = litellm.completion(**ask).choices[0].message.content
assert whole
chunks = litellm.completion(**ask, stream=True)
assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
formed = litellm.completion(**ask, response_format=Weather).choices[0].message.content
assert Weather.model_validate_json(formed)
