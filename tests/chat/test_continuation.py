"""The last message is continued: a prompt ends behind its content, whatever a template writes there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from support.demo import written
from support.encoders import encoder_of
from support.fakes import STORY, check, engine_of, oracle
from support.thinkers import CHANNEL_TOKENS, IN_CHANNELS, OPENED, THINK_TOKENS, make_thinkers, with_rows
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.messages import Prompt
from unisono.chat.prompt_encoder import PromptEncoder
from unisono.ensemble import Ensemble
from unisono.errors import PromptError, SpecError
from unisono.testing import byte_level_table

ASK = {"role": "user", "content": "Hello"}
TABLE = with_rows(with_rows(byte_level_table(), CHANNEL_TOKENS), THINK_TOKENS)
USUAL = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TRIMS = USUAL.replace("m.content", "m.content | trim")
EMPTY_THOUGHT = USUAL.replace(
    "{{ m.content }}", "{% if loop.last and m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}"
)
ANSWERS = "(_ if m.role == 'assistant' else m.content)"
SPLITS = USUAL.replace("m.content", "m.content.split('</think>')[-1].lstrip('\n')")


@pytest.fixture(autouse=True)
def thinkers() -> Iterator[None]:
    make_thinkers()
    yield
    FAKE_MODELS.clear()


def begun(content: str, **more: Any) -> Prompt:
    answer = {"role": "assistant", "content": content, **more}
    return Prompt(messages=[ASK, answer], continue_final_message=True)  # type: ignore[list-item]


def encoder(template: str) -> PromptEncoder:
    return encoder_of(TABLE, template)


def read(template: str, prompt: Prompt) -> str:
    """What a member reads, control tokens by their texts."""
    its = encoder(template)
    pieces, texts = its.speller.vocabulary.pieces, its.tokenizer.table.texts
    return b"".join(pieces[token] or texts[token].encode() for token in its.encode(prompt)).decode()


@pytest.mark.parametrize(
    ("template", "before"),
    [(USUAL, ""), (TRIMS, ""), (EMPTY_THOUGHT, "<think>\n\n</think>\n\n"), (SPLITS, "")],
    ids=["usual", "trims", "an empty thought", "splits"],
)
@pytest.mark.parametrize(
    "content", ["It is", "It is:\n  ", "", "It is </s>", "so </think> It is", "It is <|us", "a\ue000b"]
)
def test_a_prompt_ends_behind_the_last_content_as_it_was_given(template: str, before: str, content: str) -> None:
    assert read(template, begun(content)) == f"<|user|>Hello</s><|assistant|>{before}{content}"


def test_a_channel_is_written_and_nothing_is_opened_anew() -> None:
    end = "<|start|>assistant<|channel|>final<|message|>It is"
    assert read(IN_CHANNELS, begun("It is")).endswith(end)


def test_no_text_of_the_last_message_becomes_a_control_token() -> None:
    its = encoder(USUAL)
    ids = its.encode(begun("</s> <|user|>"))
    assert [ids.count(TABLE.texts.index(text)) for text in ("</s>", "<|user|>")] == [1, 1]


def test_reasoning_before_what_is_continued_is_given_apart() -> None:
    template = IN_CHANNELS.replace("m.thinking", "m.reasoning_content")
    for prompt in (
        begun("<think>hm</think>It is"),
        begun("It is", extra={"reasoning_content": "hm"}),
    ):
        assert "<|message|>hm<|end|>" in read(template, prompt)
        assert read(template, prompt).endswith("final<|message|>It is")


@pytest.mark.parametrize(
    ("template", "content", "words"),
    [
        (USUAL.replace("m.content", ANSWERS.replace("_", "m.content[:3]")), "It is", "does not write it as it is"),
        (USUAL.replace("m.content", "m.content | upper"), "It is", "does not write it as it is"),
        (USUAL.replace("m.content", ANSWERS.replace("_", "'x'")), "It is", "does not write it as it is"),
        (OPENED, "<think>It", "cannot continue reasoning: the last message begins with '<think>'"),
    ],
)
def test_what_cannot_be_continued_is_refused_by_name(template: str, content: str, words: str) -> None:
    with pytest.raises(PromptError, match=f"member 'm'.*{words}") as caught:
        encoder(template).encode(begun(content))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"messages": [ASK]}, "it is one of the role 'user'"),
        ({"messages": []}, "it is none"),
        ({"text": "It is"}, "raw text is continued anyway"),
        ({"messages": [ASK], "continue_final_message": "content"}, "continue_final_message is 'content'"),
    ],
)
def test_only_an_assistants_message_is_continued(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        Prompt(**{"continue_final_message": True, **keys})
    assert caught.value.hint


@pytest.mark.parametrize("names", ["t", "h", "p", "s", "th", "hp", "pts"])
def test_members_go_on_with_an_answer_as_the_plain_loop_does(names: str) -> None:
    engine = engine_of(names)
    prompts = [begun(STORY[:9]), begun("the ")]
    check(written(engine, prompts, 12, 2), oracle(engine, prompts, engine.method, 12), names)


def test_a_grammar_binds_what_is_written_and_an_answer_that_is_begun_is_not_reasoned_before() -> None:
    with Ensemble.load({"members": [{"name": name, "model": f"fake:{name}"} for name in "th"]}) as ensemble:
        messages: Any = [ASK, {"role": "assistant", "content": STORY[:9]}]
        bound = ensemble.generate(
            messages=messages, continue_final_message=True, max_new_tokens=12, constraint={"regex": "[a-z ]{9,}"}
        )
        assert bound.reasoning is None
        assert bound == replace(
            ensemble.generate(begun(STORY[:9]), max_new_tokens=12, constraint={"regex": "[a-z ]{9,}"}),
            seconds=bound.seconds,
        )


def test_a_template_that_writes_the_message_within_reasoning_is_refused() -> None:
    thinks = EMPTY_THOUGHT.replace("<think>\n\n</think>\n\n", "<think>")
    member = {"name": "t", "model": "fake:t", "chat_template": thinks}
    with (
        Ensemble.load({"members": [member]}) as ensemble,
        pytest.raises(PromptError, match=r"'t' writes .* within reasoning"),
    ):
        ensemble.generate(begun("It is"), max_new_tokens=3)
