"""What the process that encodes long prompts is asked, and what time that gives it."""

from __future__ import annotations

from typing import Any

import pytest

from unisono.chat.encoding_process import PROCESSOR_SECONDS, question, seconds_for, size_of
from unisono.chat.messages import Prompt
from unisono.server.long_prompts import SHORT


@pytest.mark.parametrize("text", ["é", "日", "\0", '"'])
def test_the_time_for_a_question_goes_by_its_characters_in_whatever_letters(text: str) -> None:
    def seconds(text: str) -> list[float]:
        message: Any = {"role": "user", "content": text}
        tool: Any = {"type": "function", "function": {"name": "f", "description": text}}
        prompts = [Prompt(text=text), Prompt(messages=(message,)), Prompt(messages=(message,), tools=[tool])]
        asked = [*prompts, text, text.encode()]
        return [seconds_for(question((0, 0), each, off=False, may_be_empty=False, most=None)) for each in asked]

    assert seconds(text * 50_000) == seconds("a" * 50_000)
    assert seconds(text * 500_000)[0] == PROCESSOR_SECONDS + 5


def test_the_size_of_a_prompt_is_all_that_members_read() -> None:
    def messages(*contents: str, **keys: Any) -> Prompt:
        return Prompt(messages=tuple({"role": "user", "content": content} for content in contents), **keys)

    tool: Any = {"type": "function", "function": {"name": "f", "description": "d" * SHORT}}
    small = [Prompt(text="a"), messages("a"), Prompt(ids=(1,) * 10_000)]
    large = [
        Prompt(text="a" * 9000),
        messages("a" * 9000),
        messages(*["a"] * 200),
        messages("a", tools=[tool]),
        messages("a", template_kwargs={"a": "a" * SHORT}),
        Prompt(messages=({"role": "user", "content": "a", "name": "a" * SHORT},)),
    ]
    assert [size_of(prompt) > SHORT for prompt in (*small, *large)] == [False] * 3 + [True] * 6
