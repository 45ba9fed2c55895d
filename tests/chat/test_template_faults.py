"""What a chat template does not do that chats need is said before anybody asks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from support.command_line import Run
from support.encoders import knowing
from support.fakes import make_fakes
from unisono.backends.fake.backend import FAKE_MODELS, FakeModel, hashed_rule, register_fake
from unisono.backends.fake.vocabulary import LongestMatchTokenizer, byte_level_table
from unisono.build import prepare
from unisono.chat.messages import Message, Prompt
from unisono.chat.template import ChatTemplate
from unisono.chat.template_faults import template_faults
from unisono.config.ensemble import load_spec
from unisono.diagnosis import diagnose
from unisono.errors import PromptError
from unisono.loaded_models import load_engine, load_models

EACH = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ASKED: list[Message] = [Message(role="system", content="Be brief."), Message(role="user", content="Hi")]
FAULTY = {
    "": [],
    "{{ nothing.at.all }}": ["refuses even a plain question"],
    "{{ raise_exception('no') }}": ["refuses even a plain question, so that no message can be answered: no"],
    "{% for t in tools %}{{ t }}{% endfor %}": ["refuses a question where no tools are given"],
    "{% if messages[0].role == 'system' %}{{ raise_exception('no\n system') }}{% endif %}": [
        "refuses a system message, and so do requests that have one: no system"
    ],
    "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}": ["leaves out a system message"],
    "{% if messages | length > 2 %}{{ raise_exception('one turn') }}{% endif %}": [
        "refuses a conversation of two turns: one turn"
    ],
    "{% set messages = messages[-2:] if messages[0].role == 'system' else messages[-1:] %}": [
        "leaves the first question and answer out of a conversation of two turns"
    ],
    "{% set messages = messages | rejectattr('role', 'equalto', 'assistant') | list %}": [
        "leaves the first answer out of a conversation of two turns"
    ],
}
UNOPENED = {
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}": "<|assistant|>",
    "{% for m in messages %}{{ m.role[:1] }}: {{ m.content }}. {% endfor %}": "a: ",
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>": None,
    "{% for m in messages %}{{ '[/' if m.role == 'user' else ' ' }}{{ m.content }}{% endfor %}": None,
    EACH: None,
}


@pytest.mark.parametrize(("source", "before"), UNOPENED.items(), ids=map(str, range(len(UNOPENED))))
def test_a_template_that_opens_no_answer_is_found(source: str, before: str | None) -> None:
    found = [fault for fault in template_faults(ChatTemplate(source, {})) if "ignores add_generation_prompt" in fault]
    assert [before is not None and before.strip() in fault for fault in found] == [True] * (before is not None)


@pytest.mark.parametrize(("source", "faults"), FAULTY.items(), ids=map(str, range(len(FAULTY))))
def test_what_a_template_refuses_or_leaves_out_is_found(source: str, faults: list[str]) -> None:
    found = template_faults(ChatTemplate(source + EACH, {}))
    assert len(found) == len(faults)
    assert all(words.startswith(fault) for words, fault in zip(found, faults, strict=True))


def test_words_in_another_case_or_in_parts_are_no_fault() -> None:
    for said in ("{{ m.content | upper }}", "{% for p in m.content %}{{ p.text }}{% endfor %}"):
        assert not template_faults(ChatTemplate(EACH.replace("{{ m.content }}", said), {}))


def test_a_models_own_template_that_leaves_out_a_first_system_message_is_refused_one() -> None:
    source = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    given, own = knowing(source), knowing(source)
    own.given_template = False
    assert given.encode(Prompt(messages=ASKED)) == own.encode(Prompt(messages=ASKED[1:]))
    with pytest.raises(PromptError, match="'m' cannot read system messages: its chat template passes them over"):
        own.encode(Prompt(messages=ASKED))


def test_one_that_takes_orders_out_of_a_system_message_is_given_it() -> None:
    """SmolLM3's template reads ``/no_think`` there and writes the rest."""
    own = knowing(EACH.replace("{{ m.content }}", "{{ m.content | replace('/no_think', '') }}"))
    own.given_template = False
    assert own.encode(Prompt(messages=[Message(role="system", content="/no_think"), ASKED[1]]))


@pytest.fixture
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


@pytest.mark.usefixtures("fakes")
def test_doctor_and_loading_say_it_by_name(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    members = [{"name": "a", "model": "fake:a"}, {"name": "b", "model": "fake:b", "chat_template": "{{ x.y.z }}"}]
    words = "the chat template of member 'b' refuses even a plain question"
    with load_engine(prepare(load_spec({"members": members}))):
        assert sum(message.startswith(words) for message in caplog.messages) == 1
    path = tmp_path / "odd.yaml"
    path.write_text(
        "members:\n  - {name: a, model: 'fake:a'}\n  - {name: b, model: 'fake:b', chat_template: '{{ x.y }}'}"
    )
    assert "! the chat template of b refuses even a plain question" in run("doctor", path, "-q").out


def test_loading_says_of_a_member_what_doctor_says(caplog: pytest.LogCaptureFixture) -> None:
    table = replace(byte_level_table(chat_template="Question? Answer:"), declared_end_ids=(), eos_id=None)
    texts = tuple("" if kind == "control" else text for text, kind in zip(table.texts, table.kinds, strict=True))
    table = replace(table, texts=texts)
    register_fake("mute", FakeModel(LongestMatchTokenizer(table), hashed_rule(len(table.texts))))
    prepared = prepare(load_spec({"members": [{"name": "m", "model": "fake:mute"}]}))
    warnings = diagnose(prepared).warnings
    with load_models([prepared]):
        pass
    for words in (
        "the chat template of {} writes the same whatever is asked: it never sees the question",
        "{} has no token that ends a text: it never votes to stop",
    ):
        assert words.format("m") in warnings
        assert words.format("member 'm'") in caplog.messages
