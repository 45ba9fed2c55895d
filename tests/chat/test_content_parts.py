"""Templates that read content in parts alone are given parts; what a template never writes is refused."""

from __future__ import annotations

from typing import Any

import pytest

from support.encoders import knowing
from unisono.chat.messages import Prompt
from unisono.chat.prompt_encoder import PromptEncoder
from unisono.chat.template import ChatTemplate
from unisono.chat.template_probe import probe_answer_form
from unisono.errors import PromptError
from unisono.testing import LongestMatchTokenizer, byte_level_table


def each(said: str) -> str:
    return "{% for m in messages %}<|{{ m.role }}|>" + said + "{{ eos_token }}{% endfor %}<|assistant|>"


LOOP = "{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}{% endif %}{% endfor %}"
FORMS = {
    "a loop": each(LOOP),
    "the first part": each("{{ m.content[0]['text'] }}"),
    "a filter": each("{{ m.content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join }}"),
    "a macro": "{% macro said(parts) %}{% for p in parts %}{{ p.text }}{% endfor %}{% endmacro %}"
    + each("{{ said(m.content) }}"),
    "of users alone": each("{% if m.role == 'user' %}" + LOOP + "{% else %}{{ m.content }}{% endif %}"),
    "either": each("{% if m.content is string %}{{ m.content }}{% else %}" + LOOP + "{% endif %}"),
}
SAID: list[Any] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is text?"},
    {"role": "assistant", "content": "Words."},
    {"role": "user", "content": "And </s>?"},
]


@pytest.mark.parametrize("source", FORMS.values(), ids=FORMS)
def test_text_reaches_a_template_in_the_form_that_it_reads(source: str) -> None:
    plain = knowing(each("{{ m.content }}"))
    assert knowing(source).encode(Prompt(messages=SAID)) == plain.encode(Prompt(messages=SAID))


def test_text_that_joins_a_special_token_stays_text_in_parts() -> None:
    source, plain = each("<" + LOOP), each("<{{ m.content }}")
    messages: list[Any] = [{"role": "user", "content": "/s> no end"}]
    assert knowing(source).encode(Prompt(messages=messages)) == knowing(plain).encode(Prompt(messages=messages))


def test_how_answers_end_is_found_in_such_a_template() -> None:
    table = byte_level_table()
    template = ChatTemplate(FORMS["a loop"], table.special_texts)
    assert probe_answer_form(template, LongestMatchTokenizer(table)).turn_end_ids == (table.eos_id,)


@pytest.mark.parametrize("key", ["['text']", ".value", "['content'].body"])
def test_a_template_that_writes_nothing_of_a_question_is_refused(key: str) -> None:
    with pytest.raises(PromptError, match="'m' cannot read content: its chat template does not write what a user says"):
        knowing(each("{{ m" + key + " }}")).encode(Prompt(messages=SAID))


ALTERNATING = (
    "{% if messages[0].role == 'system' %}<|system|>{{ messages[0].content | trim }}{{ eos_token }}{% endif %}"
    + each("{{ m.content }}").replace("in messages", "in messages if m.role != 'system'")
)
LATE: list[Any] = [*SAID[1:3], {"role": "system", "content": " Be kind.\nNow. \n"}, SAID[3]]


def own(template: str) -> PromptEncoder:
    """An encoder whose template is its model's."""
    member = knowing(template)
    member.given_template = False
    return member


def test_words_of_a_user_that_are_followed_by_an_answer_have_to_be_read_too() -> None:
    with pytest.raises(PromptError, match="does not write what a user says"):
        knowing("{% for m in messages if m.role != 'user' %}{{ m.content }}{% endfor %}").encode(
            Prompt(messages=[*SAID[:2], {"role": "assistant", "content": "It is"}], continue_final_message=True)
        )


def test_a_system_message_that_a_template_passes_over_is_refused() -> None:
    assert own(ALTERNATING).encode(Prompt(messages=SAID))
    with pytest.raises(
        PromptError,
        match=r"cannot read the system message .* Be kind.* its chat template passes it over",
    ):
        own(ALTERNATING).encode(Prompt(messages=LATE))


@pytest.mark.parametrize(
    "said",
    [
        "{{ m.content }}",
        "{{ m.content | trim }}",
        "{{ m.content | replace('kind', 'x') }}",
        "{{ m.content | upper }}",
        "{{ m.content | tojson }}",
    ],
)
def test_one_that_is_written_in_some_form_is_read(said: str) -> None:
    assert own(each(said)).encode(Prompt(messages=LATE))


def test_what_a_template_writes_as_json_is_read() -> None:
    late = [*LATE[:2], {"role": "system", "content": 'Say "é".'}, LATE[3]]
    for said in ("{{ m.content | tojson }}", "{{ m.content | tojson(ensure_ascii=true) }}"):
        assert own(each(said)).encode(Prompt(messages=late))


def test_a_template_of_the_file_may_read_what_it_likes() -> None:
    assert knowing(ALTERNATING).encode(Prompt(messages=LATE))
