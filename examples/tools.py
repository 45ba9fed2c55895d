"""The demo pair calls a function, and answers by its result. Run it in the repository: ``python examples/tools.py``."""

import json

from unisono import Ensemble
from unisono.tools import call_grammar, find_calls

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
QUESTION = {"role": "user", "content": "What is the weather in Paris?"}


def get_weather(city: str) -> str:
    return f"Sunny, 24 degrees in {city}."


with Ensemble.load("examples/tools.yaml") as pair:
    form = pair.call_form()
    # Models as small as these call functions for ever, or never: the grammar demands one call.
    demanded = {"lark": call_grammar(form, [WEATHER])}
    asked = pair.generate(messages=[QUESTION], tools=[WEATHER], constraint=demanded, max_new_tokens=60)
    _, [call] = find_calls(form, ["get_weather"], asked.text)
    print("call:  ", call.name, call.arguments)

    result = get_weather(**json.loads(call.arguments))
    print("result:", result)

    function = {"name": call.name, "arguments": call.arguments}
    past = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]}
    told = {"role": "tool", "tool_call_id": "1", "content": result}
    # And no further call: a line without the mark with which one begins.
    line = {"regex": r"[A-Z][^<\n]*"}
    answer = pair.generate(messages=[QUESTION, past, told], tools=[WEATHER], constraint=line, max_new_tokens=30)
    print("answer:", answer.text)
