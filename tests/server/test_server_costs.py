"""What a client may write is read in time that grows with its length, in the loop that all clients share."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.at_once import at_once
from unisono.chat.messages import Prompt
from unisono.chat.tools import checked_tools
from unisono.constraints.json_schema import MOST_ODD, check_schema
from unisono.errors import SpecError, nearest
from unisono.server.body import parse
from unisono.server.errors import Refusal
from unisono.server.messages import read_messages

SECONDS = 0.5
"""Of processor time; what took the square of a length took 3 to 12 s."""


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize(
    "number",
    [b"0." + b"7" * 1_000_000, b"7" * 400_000 + b"e-400000", b"7" * 900_000, b"1." + b"0" * 999_990],
    ids=["behind the point", "before an exponent", "whole", "zeros"],
)
def test_a_number_of_very_many_digits_is_refused_unread(number: bytes) -> None:
    with at_once(SECONDS), pytest.raises(Refusal, match="a number that is too long"):
        parse(b'{"temperature": ' + number + b"}")
    assert parse(b'{"temperature": 0.' + b"7" * 390 + b"}")["temperature"] == pytest.approx(7 / 9)


def test_names_that_resemble_very_many_others_are_not_compared_with_them() -> None:
    with at_once(SECONDS):
        assert nearest("ab" * 45, ["ab" * 45 + str(number) for number in range(3_000)]) == ""
    assert nearest("wether", [f"tool_{number}" for number in range(100)] + ["weather"]) == "; did you mean 'weather'?"


def test_thousands_of_tools_are_told_apart_at_once() -> None:
    tools = [tool(f"tool_{number}") for number in range(2_500)]
    with at_once(SECONDS):
        assert len(checked_tools(tools)) == 2_500
    with pytest.raises(SpecError, match="tool 2501 has the name of an earlier one"):
        checked_tools([*tools, tools[7]])


def test_words_that_are_no_keywords_are_compared_up_to_a_bound() -> None:
    with at_once(SECONDS), pytest.raises(SpecError, match="different words that are not keywords"):
        check_schema({"type": "string", **{f"pr{number}qzwvt": 1 for number in range(9_000)}})
    check_schema({"anyOf": [{"type": "string", "x-order": number} for number in range(3_000)]})
    check_schema({"type": "string", **{f"x-{number}": 1 for number in range(MOST_ODD)}})


def test_thoughts_are_taken_from_a_message_of_very_many_parts() -> None:
    parts = [{"type": "thinking", "thinking": f"{number}"} for number in range(1_600)]
    parts += [{"type": "text", "text": f"{number}"} for number in range(1_600)]
    with at_once(SECONDS):
        [message] = read_messages([{"role": "assistant", "content": parts}], strict=False)
    assert message["content"] == "".join(map(str, range(1_600)))


def test_messages_are_checked_once_however_often_a_prompt_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = Prompt(messages=[{"role": "user", "content": "a"}])
    monkeypatch.setattr("unisono.chat.messages._check_message", None)
    again = Prompt(messages=prompt.messages, template_kwargs={"a": 1})
    assert again.messages == prompt.messages
    assert json.dumps(again.messages) == '[{"role": "user", "content": "a"}]'
