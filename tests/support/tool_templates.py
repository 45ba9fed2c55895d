"""Chat templates that know tools, in the manner of the families, and messages for them."""

from __future__ import annotations

import json
from typing import Any

from unisono.chat.messages import Message, Tool, ToolCall

HEAD = (
    "{%- if tools %}<|system|>Call these:\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}{{ eos_token }}"
    "{% endif -%}{%- for m in messages -%}"
    "{%- if m.role == 'tool' %}<|user|>[answer {{ m.content }}]{{ eos_token }}"
    "{%- elif m.role == 'assistant' and m.tool_calls %}<|assistant|>"
)
FOOT = (
    "{{ eos_token }}{% else %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endif %}{% endfor -%}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def calling(words: str, head: str = HEAD) -> str:
    """A template that writes a message with calls in these words."""
    return head + words + FOOT


OBJECT = '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
TAGGED = calling(
    "{% if m.content %}{{ m.content }}\n{% endif %}{% for c in m.tool_calls %}{% if not loop.first %}{{ '\\n' }}"
    "{% endif %}<tool_call>\n" + OBJECT + "\n</tool_call>{% endfor %}"
)
LISTED = calling(
    "{{ m.content }}<calls>[{% for c in m.tool_calls %}{% if not loop.first %}, {% endif %}"
    '{"id": "{{ c.id }}", "name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    "{% endfor %}]</calls>"
)
LINES = calling("{{ m.content }}Calls:\n{% for c in m.tool_calls %}" + OBJECT + "\n{% endfor %}</calls>")
BARE = calling(
    "{% if m.tool_calls | length > 1 %}{{ raise_exception('one call at a time') }}{% endif %}"
    "{% set c = m.tool_calls[0] %}"
    '{"name": "{{ c.function.name }}", "parameters": {{ c.function.arguments | tojson }}}'
)
REVERSED = calling(
    "{{ m.content }}{% for c in m.tool_calls %}CALL "
    '{"arguments":{{ c.function.arguments | tojson(separators=(",", ":")) }},"function":"{{ c.function.name }}"};'
    "{% endfor %}"
)
JOINED = calling(
    "{{ m.content or '' }}{% for c in m.tool_calls %}<call>"
    """{{ '{"name": "' + c.function.name + '", "arguments": ' + c.function.arguments + '}' }}</call>{% endfor %}""",
    HEAD.replace("and m.tool_calls", "and (m.content is none or m.content) and m.tool_calls"),
)
"""Wants arguments as text, and no content where there is none."""
LAID_OUT = calling(
    "{{ m.content }}\nAction: {% for c in m.tool_calls %}"
    '{"tool_name": "{{ c.function.name }}",\n  "parameters": {{ c.function.arguments | tojson(indent=2) }}\n}'
    "{% endfor %}"
)
CONTROL = calling("{{ m.content }}{% for c in m.tool_calls %}<|system|>" + OBJECT + "{% endfor %}")
FUNCTIONAL = calling(
    "{{ m.content }}{% for c in m.tool_calls %}<function={{ c.function.name }}>{{ c.function.arguments | tojson }}"
    "</function>{% endfor %}"
)
DEAF = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}<|assistant|>"

WRAPPED = calling(
    "{{ m.content }}<calls>[{% for c in m.tool_calls %}{% if not loop.first %}, {% endif %}"
    '{"type": "function", "function": ' + OBJECT + "}{% endfor %}]</calls>"
)

UNDERSTOOD = {
    "tagged": TAGGED, "listed": LISTED, "lines": LINES, "bare": BARE, "reversed": REVERSED, "joined": JOINED,
    "laid out": LAID_OUT, "wrapped": WRAPPED,
}  # fmt: skip

WEATHER = Tool(
    type="function",
    function={
        "name": "get_weather",
        "description": "The weather somewhere.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Where."}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
)
PING = Tool(type="function", function={"name": "ping", "description": "Nothing."})
NAMES = ("get_weather", "ping")
USER = Message(role="user", content="Sun?")


def call(name: str, arguments: dict[str, Any], identity: str = "abcdefgh1") -> ToolCall:
    """A call as OpenAI's API has it."""
    return ToolCall(id=identity, type="function", function={"name": name, "arguments": json.dumps(arguments)})


def exchange(*calls: ToolCall, content: str | None = None, answer: str = "fine") -> list[Message]:
    """A message with calls, and an answer to each."""
    answers = [Message(role="tool", content=answer, tool_call_id=each["id"]) for each in calls]
    return [Message(role="assistant", content=content, tool_calls=calls), *answers]
