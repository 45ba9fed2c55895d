"""Templates write what transformers' own environment writes of them, construct by construct."""

from __future__ import annotations

import pytest

rendering = pytest.importorskip("transformers.utils.chat_template_utils")

from unisono.chat.messages import Message  # noqa: E402
from unisono.chat.template import ChatTemplate  # noqa: E402

SPECIALS = {"bos_token": "<s>", "eos_token": "</s>"}
TURNS = [
    Message(role="system", content="Be <b>good</b> & \u00e9"),
    Message(role="user", content="Hi "),
    Message(role="assistant", content=" Yes\n"),
    Message(role="user", content="Why?"),
]
EACH, DONE = "{% for m in messages %}", "{% endfor %}"
MARKED, END = "{% generation %}", "{% endgeneration %}"
CONSTRUCTS = [
    "{% set x = 'out' %}" + EACH + MARKED + "{% set x = 'in' %}{{ m.content }}" + END + "{{ x }}" + DONE,
    "{% set n = namespace(x=0) %}" + EACH + MARKED + "{% set n.x = n.x + 1 %}" + END + "{{ n.x }}" + DONE,
    EACH + "\n  " + MARKED + "\n{{ loop.index }}{{ m.content }}\n  " + END + "\n" + DONE,
    "{%- for m in messages -%}\n {%- generation -%}\n{{ m.content }}\n {%- endgeneration -%}\n{%- endfor -%}",
    "{% macro g(x) %}" + MARKED + "[{{ x }}]" + END + "{% endmacro %}" + EACH + "{{ g(m.content) }}" + DONE,
    "{{ dict.fromkeys(['a', 'b'], 1) }}{{ dict(a=1) | tojson }}{{ dict([['k', 2]]) }}",
    "{{ messages | tojson(false, 2) }}{{ messages[0] | tojson(true, none, (',', ':'), true) }}",
    "{{ messages[0] | tojson(indent=4, sort_keys=true, separators=(',', ':')) }}",
    "{{ strftime_now('%-d %B %Y') }}{{ strftime_now is defined }}{{ date_string is defined }}",
    "{% macro f(a, b='x', c=none) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(1) }}{{ f(1, c=3) }}{{ f(a=2, b=4) }}",
    "{% macro w() %}<{{ caller() }}>{% endmacro %}{% call w() %}x{% endcall %}",
    "{% for x in [[1, [2]]] recursive %}{% if x is sequence %}[{{ loop(x) }}]{% else %}{{ x }}{% endif %}{% endfor %}",
    EACH
    + "{% if loop.first %}{% continue %}{% endif %}{{ loop.previtem.role }}{{ loop.nextitem is defined }}{% endfor %}",
    "{% set x = 0 %}{% for i in [1, 2] %}{% set x = x + i %}{% endfor %}{{ x }}{% set y %}a{{ x }}{% endset %}{{ y }}",
    "x\n    {%+ if true %}\n  y\n    {%+ endif +%}\nz{# c #}\n  {#- d -#}  b\n\n",
    "{{ bos_token + 'x' }}{{ unk_token }}{{ nope ~ 'y' }}{{ messages[0].nope }}{{ messages[0].get('nope') }}",
    "{{ documents is none }}{{ tools is none }}{{ enable_thinking is defined }}{{ add_generation_prompt }}",
    "{{ messages | groupby('role') | list | length }}{{ messages | map(attribute='role') | unique | join(',') }}",
    "{{ '%s-%d' % ('a', 3) }}{{ '{}'.format(3) }}{{ 'x</t>y'.split('</t>')[-1] }}{{ 'ab'.removeprefix('a') }}",
]


@pytest.mark.parametrize("source", CONSTRUCTS, ids=map(str, range(len(CONSTRUCTS))))
def test_a_construct_is_rendered_as_by_transformers(source: str) -> None:
    [wanted], _ = rendering.render_jinja_template(
        conversations=[TURNS], chat_template=source, add_generation_prompt=True, **SPECIALS
    )
    assert ChatTemplate(source, SPECIALS).render(TURNS) == wanted
