import asyncio
import json

import openai
from wanted import BEGUN, CONTINUED, KEY, MODEL, QUESTION, URL, Weather, check, done

client = openai.OpenAI(base_url=URL, api_key=KEY, max_retries=0)
messages = [{"role": "user", "content": QUESTION}]
ask = {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 40}
check(MODEL in [model.id for model in client.models.list()], "the model is not listed", MODEL)
answer = client.chat.completions.create(**ask)
whole = answer.choices[0].message.content
check(whole, "an empty answer", answer)

chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
check(streamed == whole, "the stream is another text", streamed)
check(chunks[-1].usage == answer.usage, "the stream counts otherwise", chunks[-1].usage)


async def asynchronous() -> tuple[str | None, str]:
    async with openai.AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=0) as other:
        complete = (await other.chat.completions.create(**ask)).choices[0].message.content
        async with other.chat.completions.stream(**ask) as events:
            final = await events.get_final_completion()
        return complete, final.choices[0].message.content


both = asyncio.run(asynchronous())
check(both == (whole, whole), "asynchronous answers are other texts", both)

parsed = client.chat.completions.parse(**ask, response_format=Weather).choices[0].message.parsed
check(isinstance(parsed, Weather), "nothing was parsed", parsed)

tool = openai.pydantic_function_tool(Weather)
forced = {**ask, "tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}
calls = client.chat.completions.parse(**forced).choices[0].message.tool_calls
check(calls and len(calls) == 1, "not one call", calls)
check(isinstance(calls[0].function.parsed_arguments, Weather), "no arguments", calls[0])
with client.chat.completions.stream(**forced) as events:
    again = events.get_final_completion().choices[0]
check(again.finish_reason == "tool_calls", "the stream of a call ends otherwise", again)
arguments = json.loads(again.message.tool_calls[0].function.arguments)
check(arguments == json.loads(calls[0].function.arguments), "the stream calls otherwise", again)

replayed = [*messages, {"role": "assistant", "content": None, "tool_calls": [calls[0].model_dump()]}]
replayed += [{"role": "tool", "tool_call_id": calls[0].id, "content": "rain"}]
free = (
    client.chat.completions.parse(**{**ask, "messages": replayed, "max_tokens": 400}, tools=[tool]).choices[0].message
)
check(free.content or free.tool_calls, "neither text nor calls after a result", free)
for call in free.tool_calls or ():
    check(isinstance(call.function.parsed_arguments, Weather), "a free call does not fit its schema", call)

scored = client.completions.create(model=MODEL, prompt="The sky is", max_tokens=4, temperature=0, logprobs=2).choices[0]
check(len(scored.logprobs.tokens) == len(scored.logprobs.token_logprobs) > 0, "no likelihoods", scored)
begun = [*messages, {"role": "assistant", "content": BEGUN}]
short = {**ask, "max_tokens": 8}
continued = client.chat.completions.create(**{**short, "messages": begun}, extra_body=CONTINUED).choices[0].message
filled = client.chat.completions.create(**short, extra_body={"prefill": BEGUN}).choices[0].message
check(continued.content and filled.content, "nothing follows a beginning", (continued, filled))
likely = client.chat.completions.create(**short, logprobs=True, top_logprobs=2).choices[0].logprobs.content
check(len(likely) == 8 and len(likely[0].top_logprobs) == 2, "no likelihoods of a chat", likely)

root = URL.removesuffix("/v1")
member = {"model": f"{MODEL}/smol", "prompt": "The sky is"}
ids = client.post(f"{root}/tokenize", cast_to=dict, body=member)["tokens"]
back = client.post(f"{root}/detokenize", cast_to=dict, body={"model": member["model"], "tokens": ids})
check(back["prompt"] == member["prompt"], "ids are another text", back)
texts = [
    client.completions.create(**{**member, "prompt": prompt}, max_tokens=4, temperature=0).choices[0].text
    for prompt in (ids, member["prompt"])
]
check(texts[0] == texts[1], "ids are continued otherwise than their text", texts)
done("openai", answer=whole, parsed=parsed.city, call=arguments, free_calls=len(free.tool_calls or ()))
