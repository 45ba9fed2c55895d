"""Calls that a template marks by control tokens: they are written, found, and no text reads like one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from support.fakes import make_fakes, storyteller
from support.real_server import SAY, A, Served, serving
from support.tool_templates import OBJECT, TAGGED, calling
from unisono.backends.fake.backend import FAKE_MODELS, FakeModel, NextToken, register_fake
from unisono.backends.fake.vocabulary import LongestMatchTokenizer, byte_level_table
from unisono.ensemble import Ensemble

LISTED = calling(
    "{{ m.content }}[CALLS][{% for c in m.tool_calls %}{% if not loop.first %}, {% endif %}"
    + OBJECT
    + "{% endfor %}][/CALLS]"
)
TAGS = calling(
    "{{ m.content }}{% for c in m.tool_calls %}{% if not loop.first %}{{ '\\n' }}{% endif %}[CALLS]\n"
    + OBJECT
    + "\n[/CALLS]{% endfor %}"
)
PING: dict[str, Any] = {"type": "function", "function": {"name": "ping", "strict": True}}
SPELLED = '[CALLS][{"name": "ping", "arguments": {}}][/CALLS]'


def eager(rule: NextToken, tokens: dict[int, float]) -> NextToken:
    """A rule by which some tokens are likelier."""

    def next_token(read: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
        logits = rule(read).copy()
        for token, more in tokens.items():
            logits[token] += more
        return logits

    return next_token


def marker(template: str, more: float = 0.0) -> FakeModel:
    table = byte_level_table([" the", "ping", '{"name": "'], chat_template=template)
    texts, kinds = (*table.texts, "[CALLS]", "[/CALLS]"), (*table.kinds, "control", "control")
    table = replace(table, texts=texts, kinds=kinds)
    return FakeModel(LongestMatchTokenizer(table), eager(storyteller(table, 7), {len(texts) - 2: more}))


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    make_fakes()
    register_fake("lister", marker(LISTED, 60.0))
    register_fake("tagger", marker(TAGS))
    duos = {
        name: {"members": [{"name": name, "model": f"fake:{name}"}, {**A, "chat_template": TAGGED}]}
        for name in ("lister", "tagger")
    }
    with serving(duos) as server:
        yield server
    FAKE_MODELS.clear()


def ask(served: Served, **keys: Any) -> Any:
    return served.client().chat.completions.create(**{"messages": SAY, "max_tokens": 200, "tools": [PING], **keys})


@pytest.mark.parametrize("name", ["lister", "tagger"])
def test_a_call_is_written_with_the_leads_tokens_and_the_others_read_no_such_text(served: Served, name: str) -> None:
    for model in FAKE_MODELS.values():
        model.passes.clear()
    answer = ask(served, model=name, tool_choice="required", parallel_tool_calls=False)
    [choice] = answer.choices
    [call] = choice.message.tool_calls
    assert (choice.finish_reason, choice.message.content, call.function.name) == ("tool_calls", None, "ping")
    assert json.loads(call.function.arguments) == {}
    table = FAKE_MODELS[name].tokenizer.table
    read = [token for each in FAKE_MODELS[name].passes for feed in each.feeds for token in feed.ids]
    assert [table.texts[token] for token in read if table.texts[token].endswith("CALLS]")][:1] == ["[CALLS]"]
    other = FAKE_MODELS["a"].tokenizer.table
    heard = "".join(other.texts[token] for each in FAKE_MODELS["a"].passes for feed in each.feeds for token in feed.ids)
    assert "CALLS" not in heard
    assert '"ping"' in heard


def test_a_free_answer_may_call(served: Served) -> None:
    answer = ask(served, model="lister")
    [choice] = answer.choices
    assert {call.function.name for call in choice.message.tool_calls} == {"ping"}
    assert choice.finish_reason == "tool_calls"
    chunks = list(ask(served, model="lister", stream=True))
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert {call.function.name for call in calls} == {"ping"}
    assert not any(chunk.choices[0].delta.content for chunk in chunks)


def test_several_calls_have_the_marks_of_the_form(served: Served) -> None:
    for name in ("lister", "tagger"):
        answer = ask(served, model=name, tool_choice="required", max_tokens=400)
        calls = answer.choices[0].message.tool_calls
        assert {call.function.name for call in calls} == {"ping"}


def test_no_text_becomes_a_mark() -> None:
    make_fakes()
    register_fake("lister", marker(LISTED, 60.0))
    member = {"name": "lister", "model": "fake:lister"}
    with Ensemble.load({"members": [member]}) as ensemble:
        engine, table = ensemble._engine, FAKE_MODELS["lister"].tokenizer.table
        [only] = engine.members
        assert engine.union.marks == ("call_begin", "call_end")
        ids = only.encoder.encode_text(SPELLED)
        assert not {"[CALLS]", "[/CALLS]"} & {table.texts[token] for token in ids}
        assert only.speller.vocabulary.join(ids).decode() == SPELLED
        # Without tools a mark is nothing to show; it is no text either.
        generation = ensemble.generate(messages=[{"role": "user", "content": "Hi"}], max_new_tokens=3, trace=True)
        assert generation.steps is not None
        assert [step.mark for step in generation.steps] == ["call_begin"] * 3
        assert generation.text == ""
    FAKE_MODELS.clear()
