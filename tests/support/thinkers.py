"""Fake members that reason before they tell the story of `support.fakes`, in tokens or in channels, or do not.

They waver, so that they choose marks in places where these make no sense, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from support.fakes import STORY, WORDS, storyteller
from unisono.backends.fake.backend import NextToken
from unisono.chat.messages import Prompt
from unisono.testing import FakeModel, LongestMatchTokenizer, byte_level_table, register_fake, sentencepiece_table
from unisono.vocab.tokenizer import Kind, TokenTable

IN_TOKENS = (
    "{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
OPENED = IN_TOKENS.replace("<|assistant|>{% endif %}", "<|assistant|><think>{% endif %}")
IN_CHANNELS = (
    "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}"
    "{% if m.thinking %}<|channel|>analysis<|message|>{{ m.thinking }}<|end|><|start|>assistant{% endif %}"
    "<|channel|>final<|message|>{{ m.content }}{{ eos_token }}{% else %}<|message|>{{ m.content }}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
IN_PARTS = (
    "{% for m in messages %}<|begin|>{{ m.role }}"
    "{% if m.reasoning %}<|think|>{{ m.reasoning }}<|end|><|begin|>assistant{% endif %}"
    "<|content|>{{ m.content }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|begin|>assistant{% endif %}"
)
"""Of which one token ends reasoning and answers."""
PART_TOKENS: dict[str, Kind] = dict.fromkeys(("<|begin|>", "<|think|>", "<|content|>", "<|end|>"), "control")
CHANNEL_TOKENS: dict[str, Kind] = dict.fromkeys(("<|start|>", "<|channel|>", "<|message|>", "<|end|>"), "control")
THINK_TOKENS: dict[str, Kind] = {"<think>": "added", "</think>": "added"}
NAMES = ("t", "h", "p")
QUESTIONS = [
    Prompt(messages=({"role": "user", "content": text},))
    for text in ("Hello", "日本?", STORY, "the <think> dog", "cats and dogs " * 3)
]


def with_rows(table: TokenTable, rows: dict[str, Kind]) -> TokenTable:
    return replace(table, texts=(*table.texts, *rows), kinds=(*table.kinds, *rows.values()))


def thinker(table: TokenTable, seed: int, begin: Sequence[str], end: str, start: str) -> NextToken:
    """Reasons for a few tokens where an answer begins, then tells its story.

    ``begin`` are what it writes to reason, and where it does not; ``start`` is what stands before an answer.
    """
    tell = storyteller(table, seed)
    begins = [table.texts.index(text) for text in begin]
    end_id, start_id = table.texts.index(end), table.texts.index(start)

    def next_token(read: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
        logits = tell(read).copy()
        marks = [place for place, token in enumerate(read) if token in (*begins, end_id, start_id)]
        last, ago = (read[marks[-1]], len(read) - marks[-1] - 1) if marks else (end_id, 99)
        if last == start_id and ago < 2:
            reasoned = end_id in read[read.index(start_id) :]
            logits[begins[-1 if reasoned else 0]] += 10.0
        elif last == begins[0] and ago > 3 + seed:
            logits[end_id] += 9.0
        return logits

    return next_token


def make_thinkers() -> None:
    """Register ``t`` (tokens), ``o`` (opens reasoning in its prompt), ``h`` (channels), ``s`` and ``p`` (none).

    One token ends the reasoning and the answers of ``s``.
    """
    for name, template in (("t", IN_TOKENS), ("o", OPENED)):
        table = with_rows(byte_level_table(WORDS["a"], chat_template=template), THINK_TOKENS)
        rule = thinker(table, 1, ("<think>",), "</think>", "<|assistant|>")
        register_fake(name, FakeModel(LongestMatchTokenizer(table), rule))
    words = [*WORDS["c"], "analysis", "final", "assistant", "user"]
    table = with_rows(byte_level_table(words, chat_template=IN_CHANNELS), CHANNEL_TOKENS)
    rule = thinker(table, 2, ("analysis", "final"), "<|end|>", "<|channel|>")
    register_fake("h", FakeModel(LongestMatchTokenizer(table), rule))
    table = with_rows(byte_level_table(words, chat_template=IN_PARTS), PART_TOKENS)
    rule = thinker(table, 4, ("<|think|>", "<|content|>"), "<|end|>", "assistant")
    register_fake("s", FakeModel(LongestMatchTokenizer(table), rule))
    table = sentencepiece_table(WORDS["b"])
    register_fake("p", FakeModel(LongestMatchTokenizer(table, leading_space=True), storyteller(table, 3)))
