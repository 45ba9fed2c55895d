"""Where a text spells control tokens: the same as if each token were looked for, in one pass."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from support.at_once import at_once
from unisono.chat.escape import escape_special_tokens
from unisono.vocab.controls import Controls, cut_controls

TEXTS = st.text("<|ab>.", max_size=30)
CONTROLS = st.dictionaries(st.text("<|ab>.", min_size=1, max_size=4), st.integers(0, 9), max_size=6)
MANY = Controls({f"<unused{number}>": number for number in range(6242)})


def cut_one_by_one(text: str, controls: dict[str, int]) -> list[tuple[str, int | None]]:
    longest = sorted(controls, key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, longest))})", text) if controls else [text]
    return [(part, controls.get(part)) for part in parts if part]


@given(TEXTS, CONTROLS)
def test_a_text_is_cut_at_the_longest_control_of_each_place(text: str, controls: dict[str, int]) -> None:
    assert Controls(controls).cut(text) == cut_controls(text, controls) == cut_one_by_one(text, controls)


@given(TEXTS, CONTROLS, st.booleans())
def test_no_control_is_left_in_an_escaped_text(text: str, controls: dict[str, int], any_case: bool) -> None:
    escaped = escape_special_tokens(
        [{"role": "user", "content": text}], None, Controls(controls), apart=bool, any_case=any_case
    )
    content = escaped.messages[0]["content"]
    assert escaped.plain(content) == text
    assert all(len(control) == 1 or control not in content for control in controls)


def test_many_controls_cost_no_more_than_few() -> None:
    for spelling in ("<", "<unused", "<unused12>", "<|im_end|>"):
        messages = [{"role": "user", "content": spelling * (500_000 // len(spelling))}]
        with at_once(2):  # one search for each control took 2 to 20 s
            escaped = escape_special_tokens(messages, None, MANY, {"a": 1})
            MANY.cut(escaped.messages[0]["content"])
