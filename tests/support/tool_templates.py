"""Chat templates that know tools, in the manner of the families, and messages for them."""

from __future__ import annotations

import json
import re
from typing import Any

from unisono.chat.messages import Message, ToolCall
from unisono.chat.tool_grammar import call_grammar
from unisono.chat.tools import Tool
from unisono.ensemble import Ensemble

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

JSON = "{{ c.function.arguments | tojson }}"
MISTRAL = calling(
    "{{ m.content }}{% for c in m.tool_calls %}[TOOL_CALLS]{{ c.function.name }}[CALL_ID]{{ c.id }}[ARGS]"
    + JSON
    + "{% endfor %}"
)
KIMI = calling(
    "{{ m.content }}<|tool_calls_section_begin|>{% for c in m.tool_calls %}<|tool_call_begin|>functions."
    "{{ c.function.name }}:{{ loop.index0 }}<|tool_call_argument_begin|>" + JSON + "<|tool_call_end|>{% endfor %}"
    "<|tool_calls_section_end|>"
)
DEEPSEEK = calling(
    "{{ m.content }}<｜tool▁calls▁begin｜>{% for c in m.tool_calls %}{% if not loop.first %}{{ '\\n' }}{% endif %}"
    "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{{ c.function.name }}\n```json\n" + JSON + "\n```<｜tool▁call▁end｜>"
    "{% endfor %}<｜tool▁calls▁end｜>"
)
DEEPSEEK_LATER = calling(
    "{{ m.content }}<｜tool▁calls▁begin｜>{% for c in m.tool_calls %}<｜tool▁call▁begin｜>{{ c.function.name }}"
    "<｜tool▁sep｜>" + JSON + "<｜tool▁call▁end｜>{% endfor %}<｜tool▁calls▁end｜>"
)
SOLAR = calling(
    "{{ m.content }}<|tool_calls|>{% for c in m.tool_calls %}<|tool_call:begin|>{{ c.id }}<|tool_call:name|>"
    "{{ c.function.name }}<|tool_call:args|>" + JSON + "<|tool_call:end|>{% endfor %}<|calls|>"
)
KEYED = calling(
    "{{ m.content }}<|tools_prefix|>[{% for c in m.tool_calls %}{% if not loop.first %}, {% endif %}"
    '{"{{ c.function.name }}": ' + JSON + "}{% endfor %}]<|tools_suffix|>"
)
_HARMONY = (
    "{% for tool in tools or [] %}<|start|>developer<|message|>{{ tool | tojson }}<|end|>{% endfor %}"
    "{% for m in messages %}<|start|>{% if m.role == 'assistant' and m.tool_calls %}assistant"
    "{% if m.thinking %}<|channel|>analysis<|message|>{{ m.thinking }}<|end|><|start|>assistant{% endif %}CALL"
    "{% elif m.role == 'assistant' %}assistant{% if m.thinking %}<|channel|>analysis<|message|>{{ m.thinking }}<|end|>"
    "<|start|>assistant{% endif %}<|channel|>final<|message|>{{ m.content }}<|end|>"
    "{% else %}{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
_FIRST_CALL = "{% set c = m.tool_calls[0] %}"
HARMONY = _HARMONY.replace(
    "CALL", _FIRST_CALL + " to=functions.{{ c.function.name }}<|channel|>commentary json<|message|>" + JSON + "<|call|>"
)
"""As gpt-oss's template: the recipient stands before the channel, and a message has one call."""
HARMONY_AS_WRITTEN = _HARMONY.replace(
    "CALL",
    _FIRST_CALL
    + "<|channel|>commentary to=functions.{{ c.function.name }} <|constrain|>json<|message|>"
    + JSON
    + "<|call|>",
)
"""As the model itself writes calls, and older templates do."""
PARAMETERS = calling(
    "{{ m.content }}{% for c in m.tool_calls %}<tool_call><function={{ c.function.name }}>"
    "{% for key, value in c.function.arguments.items() %}<parameter={{ key }}>{{ value }}</parameter>{% endfor %}"
    "</function></tool_call>{% endfor %}"
)
ENCLOSED = calling(
    "{{ m.content }}{% for c in m.tool_calls %}[CALLS]\n<function={{ c.function.name }}>\n"
    "{% for key, value in c.function.arguments.items() %}<parameter={{ key }}>{{ value | string }}</parameter>\n"
    "{% endfor %}</function>\n[CALLS_END]{% endfor %}"
)
"""As Seed-OSS's: control tokens before and behind."""
TYPED = calling(
    "{{ m.content }}\n\n<｜DSML｜calls>\n{% for c in m.tool_calls %}"
    '<｜DSML｜invoke name="{{ c.function.name }}">\n{% for key, value in c.function.arguments.items() %}'
    '<｜DSML｜parameter name="{{ key }}" string="{{ "true" if value is string else "false" }}">'
    "{{ value if value is string else value | tojson }}</｜DSML｜parameter>\n{% endfor %}</｜DSML｜invoke>\n"
    "{% endfor %}</｜DSML｜calls>"
)
"""As DeepSeek V3.2's and V4's."""
_VALUES = (
    "{% macro told(value) %}{% if value is string %}<|quote|>{{ value }}<|quote|>"
    "{% elif value is boolean %}{{ 'true' if value else 'false' }}{% elif value is mapping %}{{ '{' }}"
    "{% for key, inner in value | dictsort %}{% if not loop.first %},{% endif %}{{ key }}:{{ told(inner) }}{% endfor %}"
    "{{ '}' }}{% elif value is sequence %}[{% for inner in value %}{% if not loop.first %},{% endif %}{{ told(inner) }}"
    "{% endfor %}]{% else %}{{ value }}{% endif %}{% endmacro %}"
)
DELIMITED = _VALUES + calling(
    "{{ m.content }}{% for c in m.tool_calls %}<|tool|>call:{{ c.function.name }}{{ told(c.function.arguments) }}"
    "<|tool_end|>{% endfor %}"
)
"""As Gemma 4's: texts between control tokens, and keys as they are."""
PYTHONIC = calling(
    "{{ m.content }}<|tool|>[{% for c in m.tool_calls %}{% if not loop.first %}, {% endif %}{{ c.function.name }}("
    "{% for key, value in c.function.arguments.items() %}{% if not loop.first %}, {% endif %}{{ key }}="
    "{% if value is string %}'{{ value }}'{% elif value is mapping %}{{ value | tojson }}{% else %}{{ value | string }}"
    "{% endif %}{% endfor %}){% endfor %}]<|tool_end|>"
)
"""As LFM 2.5's."""
_TAGS = (
    "{% macro told(value) %}{% if value is mapping %}{% for key, inner in value.items() if inner is not none %}"
    "NS<{{ key }}>{{ told(inner) }}NS</{{ key }}>{% endfor %}"
    "{% elif value is sequence and value is not string %}{% for inner in value %}NS<item>{{ told(inner) }}NS</item>"
    "{% endfor %}{% elif value is boolean %}{{ value | tojson }}{% elif value is not none %}{{ value }}{% endif %}"
    "{% endmacro %}"
)
IN_TAGS = _TAGS + calling(
    '{{ m.content }}NS<calls>\n{% for c in m.tool_calls %}NS<invoke name="{{ c.function.name }}">'
    "{{ told(c.function.arguments) }}NS</invoke>\n{% endfor %}NS</calls>"
)
"""As MiniMax M3's, where ``NS`` is a token before each tag."""
SPOKEN = calling(
    "{% if m.content %}>>>all\n{{ m.content }}{% endif %}{% for c in m.tool_calls %}>>>{{ c.function.name }}\n"
    "{{ c.function.arguments | tojson }}{% endfor %}"
).replace("<|{{ m.role }}|>{{", "<|{{ m.role }}|>{% if m.role == 'assistant' %}>>>all\n{% endif %}{{")
SPOKEN = SPOKEN.replace("%}<|assistant|>{% endif %}", "%}<|assistant|>>>>{% endif %}")
"""As Functionary 3.2's: an answer first says whom it speaks to, all or a function."""
TOKENS = re.compile(r"<[|｜][\w:▁]+[|｜]>|\[[A-Z_]+\]")
"""Control tokens of these templates, by their looks."""

UNDERSTOOD = {
    "tagged": TAGGED, "listed": LISTED, "lines": LINES, "bare": BARE, "reversed": REVERSED, "joined": JOINED,
    "laid out": LAID_OUT, "wrapped": WRAPPED, "functional": FUNCTIONAL,
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


def demanded(ensemble: Ensemble, tool: Tool, most: int) -> str:
    """What an ensemble writes within ``most`` pieces that has to call a tool."""
    return ensemble.generate(
        messages=[{"role": "user", "content": "Hi"}],
        tools=[tool],
        constraint={"lark": call_grammar(ensemble.call_form(), [tool])},
        reasoning="off",
        max_new_tokens=most,
    ).text


def exchange(*calls: ToolCall, content: str | None = None, answer: str = "fine") -> list[Message]:
    """A message with calls, and an answer to each."""
    answers = [Message(role="tool", content=answer, tool_call_id=each["id"]) for each in calls]
    return [Message(role="assistant", content=content, tool_calls=calls), *answers]
