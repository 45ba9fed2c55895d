import asyncio

import openai
from wanted import KEY, MODEL, QUESTION, URL, Weather

client = openai.OpenAI(base_url=URL, api_key=KEY, max_retries=0)
messages = [{"role": "user", "content": QUESTION}]
ask = {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 40}
whole = client.chat.completions.create(**ask).choices[0].message.content
assert whole
chunks = list(client.chat.completions.create(**ask, stream=True))
assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole


async def asynchronous() -> str | None:
    async with openai.AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=0) as other:
        return (await other.chat.completions.create(**ask)).choices[0].message.content


assert asyncio.run(asynchronous()) == whole
assert client.chat.completions.parse(**ask, response_format=Weather).choices[0].message.parsed.city
tool = openai.pydantic_function_tool(Weather)
[call] = (
    client.chat.completions.parse(**ask, tools=[tool], tool_choice="required", parallel_tool_calls=False)
    .choices[0]
    .message.tool_calls
)
assert isinstance(call.function.parsed_arguments, Weather)
free = client.chat.completions.parse(**{**ask, "max_tokens": 4000}, tools=[tool]).choices[0].message
assert free.content or all(isinstance(c.function.parsed_arguments, Weather) for c in free.tool_calls)
