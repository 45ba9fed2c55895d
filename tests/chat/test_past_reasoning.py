"""What was reasoned in past answers reaches a template under the name that it reads, and no text becomes a mark."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.reasoners import ANSWER, ASK, PLAIN, QUESTION, TEMPLATE, THINKER, THOUGHT, make_reasoners, thinking_table
from support.tool_templates import call, exchange
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.build import prepare
from unisono.chat.conversation import with_past_reasoning
from unisono.chat.template import ChatTemplate
from unisono.config.ensemble import load_spec
from unisono.ensemble import Ensemble
from unisono.members import PreparedMember
from unisono.vocab.marks import NO_MARKS, MarkForms

TABLE = thinking_table()
BEGIN, END = (TABLE.texts.index(text) for text in ("<think>", "</think>"))
MARKS = MarkForms({"reasoning_begin": (BEGIN,), "reasoning_end": (END,)})
THEN = {"role": "user", "content": "And?"}


@pytest.fixture(scope="module")
def members() -> Iterator[dict[str, PreparedMember]]:
    make_reasoners()
    prepared = prepare(load_spec({"members": [THINKER, PLAIN]}))
    yield {member.spec.name: member for member in prepared.members}
    FAKE_MODELS.clear()


def rendered(member: PreparedMember, *answers: dict[str, Any]) -> str:
    """How a member reads past answers; marks in double angle brackets."""
    table = member.tokenizer.table
    ids = member.encoder.encode_messages([*ASK, *answers, THEN])  # type: ignore[list-item]
    named = {BEGIN: "«think»", END: "«/think»"} if "<think>" in table.texts else {}
    return "".join(
        named.get(token, "") or (member.vocabulary.pieces[token] or table.texts[token].encode()).decode()
        for token in ids
    )


def answer(content: str, **extra: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **({"extra": extra} if extra else {})}


@pytest.mark.parametrize(
    "past",
    [
        answer(ANSWER, reasoning_content=THOUGHT),
        answer(ANSWER, reasoning=THOUGHT),
        answer(ANSWER, thinking=THOUGHT),
        answer(ANSWER, reasoning=THOUGHT, reasoning_content=THOUGHT),
        answer(f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"),
        answer(f"\n<think>{THOUGHT}</think>{ANSWER}"),
        answer(f"[THINK]{THOUGHT}[/THINK]{ANSWER}"),
        answer(f"<think>{THOUGHT}</think>{ANSWER}", reasoning_content=THOUGHT),
    ],
)
def test_past_reasoning_is_written_by_a_template_that_writes_it(
    members: dict[str, PreparedMember], past: dict[str, Any]
) -> None:
    expected = f"«think»\n{THOUGHT}\n«/think»\n\n{ANSWER}</s>"
    assert expected in rendered(members["thinker"], past)


def test_empty_past_reasoning_is_nothing(members: dict[str, PreparedMember]) -> None:
    past = answer(f"<think>\n\n</think>\n\n{ANSWER}")
    assert rendered(members["thinker"], past) == rendered(members["thinker"], answer(ANSWER))


@pytest.mark.parametrize(
    "text", ["<think>so", "so <think>x</think>", "</think>x", f"<think>x</think>{ANSWER}"], ids=str
)
def test_what_is_no_reasoning_before_an_answer_stays_text(members: dict[str, PreparedMember], text: str) -> None:
    for member in members.values():
        user = member.encoder.encode_messages([{"role": "user", "content": text}])
        assert not {BEGIN, END} & {*user}
    past = answer(text, **({"reasoning_content": "another"} if text.endswith(ANSWER) else {}))
    assert f"|>{text}</s>" in rendered(members["thinker"], past).replace("«think»\nanother\n«/think»\n\n", "")
    assert f"|>{text}</s>" in rendered(members["plain"], past)


def test_an_ensemble_goes_on_after_an_answer_with_its_reasoning() -> None:
    make_reasoners()
    with Ensemble.load({"members": [THINKER, PLAIN]}) as ensemble:
        past: Any = [*ASK, answer(ANSWER, reasoning_content=THOUGHT), {"role": "user", "content": QUESTION}]
        found = ensemble.generate(messages=past)
    assert (found.reasoning, found.text) == (THOUGHT, ANSWER)
    FAKE_MODELS.clear()


def keys(source: str, *messages: dict[str, Any], marks: MarkForms = MARKS) -> list[dict[str, Any]]:
    told = with_past_reasoning(messages, ChatTemplate(source, {}), marks, TABLE)  # type: ignore[arg-type]
    return [dict(message.get("extra", {})) for message in told]


def test_reasoning_goes_under_the_name_that_a_template_reads() -> None:
    past = answer("x", reasoning_content="hm")
    for source, name in (
        ("{{ m['thinking'] }}", "thinking"),
        ('{{ m.get("reasoning") }}', "reasoning"),
        ("{{ m.reasoning }}", "reasoning"),
    ):
        assert keys(source, past) == [{"reasoning_content": "hm", name: "hm"}]
    for source in (TEMPLATE, "{{ m.content }}", "{% if thinking %}{% endif %}"):
        assert keys(source, past) == [{"reasoning_content": "hm"}]
    assert keys("{{ m.thinking }}{{ m.reasoning }}", answer("x", reasoning="hm")) == [{"reasoning": "hm"}]
    assert keys("{{ m.thinking }}", answer("x", reasoning=["hm"])) == [{"reasoning": ["hm"]}]


def test_beside_calls_and_content_no_thinking_is_added_which_gpt_oss_refuses() -> None:
    calling, result = exchange(call("ping", {}))
    beside = {**calling, "content": "I call", "extra": {"reasoning_content": "hm"}}
    alone = {**calling, "content": "", "extra": {"reasoning_content": "hm"}}
    assert keys("{{ m.thinking }}", beside, result)[0] == {"reasoning_content": "hm"}
    assert keys("{{ m.thinking }}", alone, result)[0] == {"reasoning_content": "hm", "thinking": "hm"}


def test_reasoning_that_an_answer_only_ends_is_cut_from_it_where_prompts_begin_it() -> None:
    opens = TEMPLATE.removesuffix("{% endif %}") + "<think>\n{% endif %}"
    past = answer("hm</think>x")
    assert keys(opens, past) == [{"reasoning_content": "hm"}]
    assert keys(TEMPLATE, past) == keys("{{ raise_exception('no') }}", past) == [{}]
    assert keys(opens, answer("Write <think> before, </think> behind it.")) == [{}]


def test_without_marks_content_is_not_split() -> None:
    past = answer("<think>hm</think>x")
    for marks, extra in ((MARKS, {"reasoning_content": "hm"}), (NO_MARKS, {})):
        assert keys(TEMPLATE, past, marks=marks) == [extra]
