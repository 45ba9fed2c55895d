"""What templates are told where nothing is to be reasoned: each by the variables that it reads, in its own words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.encoders import encoder_of
from support.families import templates
from support.reasoners import ASK, PLAIN, THINKER, make_reasoners
from support.thinkers import with_rows
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.messages import Prompt
from unisono.chat.prompt_encoder import PromptEncoder
from unisono.chat.template import ChatTemplate
from unisono.chat.thinking import asked, without_thinking
from unisono.config.reasoning import Reasoning
from unisono.ensemble import Ensemble
from unisono.errors import SpecError
from unisono.testing import byte_level_table

TABLE = with_rows(byte_level_table(), dict.fromkeys(("<think>", "</think>"), "control"))
SAID = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}<|assistant|>"
EMPTY = "<think>\n\n</think>\n\n"
HEAD = {
    "Qwen3": ("", "{% if enable_thinking is defined and enable_thinking is false %}" + EMPTY + "{% endif %}"),
    "gpt-oss": (
        "{% if reasoning_effort is not defined %}{% set reasoning_effort = 'medium' %}{% endif %}"
        "Reasoning: {{ reasoning_effort }}\n",
        "",
    ),
    "DeepSeek V3.1": (
        "{% if not thinking is defined %}{% set thinking = enable_thinking | default(true) %}{% endif %}",
        "{% if thinking %}<think>{% else %}</think>{% endif %}",
    ),
    "Granite": ("{% if thinking %}Think.{% else %}Be brief.{% endif %}", ""),
    "SmolLM3": (
        "{% if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}"
        "{% set mode = '/think' if enable_thinking else '/no_think' %}Reasoning Mode: {{ mode }}\n",
        "{% if mode == '/no_think' %}" + EMPTY + "{% endif %}",
    ),
    "Mistral": (
        "{% set effort = reasoning_effort | default('high') %}{% if effort not in ['none', 'high'] %}"
        "{{ raise_exception('no such effort') }}{% endif %}[{{ effort }}]",
        "",
    ),
    "Hunyuan": ("{% if reasoning_effort == 'no_think' %}/no_think{% endif %}", ""),
    "Seed": ("{% if thinking_budget is defined and thinking_budget == 0 %}No budget.{% endif %}", ""),
    "MiniMax": ("{% if thinking_mode == 'disabled' %}No thoughts.{% endif %}", ""),
    "none": ("{{ messages[0].thinking }}", ""),
}
READ: dict[str, dict[str, Any]] = {
    "Qwen3": {"enable_thinking": False},
    "gpt-oss": {},
    "DeepSeek V3.1": {"thinking": False, "enable_thinking": False},
    "Granite": {"thinking": False},
    "SmolLM3": {"enable_thinking": False},
    "Mistral": {"reasoning_effort": "none"},
    "Hunyuan": {"reasoning_effort": "no_think"},
    "Seed": {"thinking_budget": 0},
    "MiniMax": {"thinking_mode": "disabled"},
    "none": {},
}
HELLO = Prompt(messages=({"role": "user", "content": "low none </THINK>"},))


def encoder(name: str) -> PromptEncoder:
    head, tail = HEAD[name]
    return encoder_of(TABLE, head + SAID + tail)


@pytest.mark.parametrize("name", HEAD)
def test_a_prompt_without_reasoning_is_the_one_that_the_template_makes_for_that(name: str) -> None:
    its = encoder(name)
    assert its.template is not None
    assert without_thinking(its.template) == READ[name]
    rendered = its.template.render(HELLO.messages or (), variables=READ[name])
    ids = its.encode(HELLO, off=True)
    assert ids == its.tokenizer.encode_rendered(rendered)
    given = Prompt(messages=HELLO.messages, template_kwargs=READ[name])
    assert its.encode(given) == its.encode(given, off=True) == ids
    assert (ids == its.encode(HELLO)) == (name in ("gpt-oss", "Granite", "none"))


def test_a_known_word_is_told_whole_also_where_it_is_part_of_a_control_token() -> None:
    table = with_rows(TABLE, {"<|no_think|>": "control", "<|highest|>": "control"})
    its = encoder_of(table, "{% if reasoning_effort == 'high' %}<|highest|>{% endif %}" + SAID)
    for effort, known in (("high", True), ("highest|>", False)):
        ids = its.encode(Prompt(messages=HELLO.messages, template_kwargs={"reasoning_effort": effort}))
        assert (table.texts.index("<|highest|>") in ids) == known


@pytest.mark.parametrize(("name", "effort"), [("Hunyuan", "no_think"), ("Mistral", "none"), ("gpt-oss", "none")])
def test_an_effort_of_none_is_the_templates_own_word_for_it_where_it_has_one(name: str, effort: str) -> None:
    its = encoder(name)
    asked = Prompt(messages=HELLO.messages, template_kwargs={"reasoning_effort": "none"})
    own = Prompt(messages=HELLO.messages, template_kwargs={"reasoning_effort": effort})
    assert its.encode(asked, off=True) == its.encode(own)


@pytest.mark.parametrize("name", templates())
def test_real_templates_take_what_they_are_told(name: str) -> None:
    from support.families import TEMPLATES

    if name == "none":
        pytest.skip("the chat templates in llama.cpp's source are not there")
    template = ChatTemplate((TEMPLATES / f"{name}.jinja").read_text("utf-8"), {"bos_token": "<s>", "eos_token": "</s>"})
    said = without_thinking(template)
    assert set(said) <= template.variables
    if said:
        assert template.render(HELLO.messages or (), variables=said)


def test_a_prompt_is_encoded_once_with_reasoning_off_too(monkeypatch: pytest.MonkeyPatch) -> None:
    its, count = encoder("Qwen3"), []
    whole = its.encode_messages
    monkeypatch.setattr(its, "encode_messages", lambda *args, **keys: count.append(1) or whole(*args, **keys))
    for off in (False, True):
        size = its.check(HELLO, off=off)
        assert len(its.encode(HELLO, off=off)) == size
    assert len(count) == 2
    its.check(HELLO)
    assert its.encode(HELLO, off=True) == whole(HELLO.messages or (), off=True)


@pytest.fixture
def both() -> Iterator[Ensemble]:
    make_reasoners()
    with Ensemble.load({"members": [THINKER, PLAIN]}) as ensemble:
        yield ensemble
    FAKE_MODELS.clear()


@pytest.mark.parametrize(
    ("variables", "reasoning", "agrees"),
    [
        ({"enable_thinking": False}, "off", True),
        ({"thinking": False, "reasoning_effort": "none"}, "off", True),
        ({"enable_thinking": False}, "auto", True),
        ({"enable_thinking": True}, 3, True),
        ({"enable_thinking": True}, "off", False),
        ({"reasoning_effort": "high"}, "off", False),
        ({"thinking_budget": 512}, "off", False),
        ({"thinking": False}, 3, False),
        ({"thinking": 2, "thinking_budget": True, "thinking_mode": 3}, "off", True),
    ],
)
def test_variables_that_contradict_the_method_are_refused(
    both: Ensemble, variables: dict[str, Any], reasoning: Any, agrees: bool
) -> None:
    prompt = Prompt(messages=ASK, template_kwargs=variables)  # type: ignore[arg-type]
    if agrees:
        assert both.generate(prompt, reasoning=reasoning, max_new_tokens=2)
        return
    [(name, _, _)] = asked(variables)
    with pytest.raises(SpecError, match=f"reasoning is {reasoning}, but template_kwargs says {name}"):
        both.generate(prompt, reasoning=reasoning)


def test_no_pieces_of_reasoning_are_none() -> None:
    for value in (0, "0", {"max_pieces": 0}):
        assert Reasoning.parse(value) == Reasoning(off=True) == Reasoning(max_pieces=0)
    assert str(Reasoning(max_pieces=0)) == "off"
