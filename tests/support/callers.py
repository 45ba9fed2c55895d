"""Fake members that call tools, each in the form of its own template."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np

from support.tool_templates import DEEPSEEK, HARMONY, KIMI, MISTRAL, TAGGED, TOKENS
from unisono.backends.fake.backend import NextToken
from unisono.chat.mark_probe import bytes_of
from unisono.testing import FakeModel, LongestMatchTokenizer, byte_level_table, register_fake
from unisono.vocab.tokenizer import Kind, TokenTable

WORDS = [
    "ping",
    "_all",
    '{"',
    '": ',
    "functions",
    "json",
    " json",
    "commentary",
    "analysis",
    "final",
    "assistant",
    " to=",
]
FIRST, SECOND = '{"x": 1}', '{"x": 22}'
_DEEPSEEK = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{}\n```json\n{}\n```<｜tool▁call▁end｜>"
_KIMI = "<|tool_call_begin|>functions.{}:{}<|tool_call_argument_begin|>{}<|tool_call_end|>"
SCRIPTS: dict[str, tuple[str, str, Kind]] = {
    "harmony": (
        HARMONY,
        "<|start|>assistant<|channel|>analysis<|message|>hm<|end|>"
        f"<|start|>assistant<|channel|>commentary to=functions.ping json<|message|>{FIRST}<|call|>",
        "control",
    ),
    "deepseek": (
        DEEPSEEK,
        f"<|assistant|><｜tool▁calls▁begin｜>{_DEEPSEEK.format('ping', FIRST)}\n{_DEEPSEEK.format('ping_all', SECOND)}"
        "<｜tool▁calls▁end｜></s>",
        "added",
    ),
    "kimi": (
        KIMI,
        "<|assistant|><|tool_calls_section_begin|>"
        f"{_KIMI.format('ping', 0, FIRST)}{_KIMI.format('ping_all', 1, SECOND)}<|tool_calls_section_end|></s>",
        "control",
    ),
    "mistral": (
        MISTRAL,
        f"<|assistant|>[TOOL_CALLS]ping[CALL_ID]call00000[ARGS]{FIRST}[TOOL_CALLS]ping_all[CALL_ID]call00001[ARGS]{SECOND}</s>",
        "control",
    ),
    "tagged": (
        TAGGED,
        f'<|assistant|><tool_call>\n{{"name": "ping", "arguments": {FIRST}}}\n</tool_call>\n'
        f'<tool_call>\n{{"name": "ping_all", "arguments": {SECOND}}}\n</tool_call></s>',
        "added",
    ),
}
"""By name, a template, what its model writes behind a prompt, and what its files call its tokens."""


def caller_table(name: str) -> TokenTable:
    source, script, kind = SCRIPTS[name]
    table = byte_level_table(WORDS, chat_template=source)
    tokens = [token for token in dict.fromkeys(TOKENS.findall(source + script)) if token not in table.texts]
    kinds: list[Kind] = [kind] * len(tokens)
    if name == "tagged":
        tokens, kinds = [*tokens, "<tool_call>", "</tool_call>"], [*kinds, "added", "added"]
    return replace(table, texts=(*table.texts, *tokens), kinds=(*table.kinds, *kinds))


def follows(table: TokenTable, script: str, seed: int = 0, noise: float = 0.0, *, letters: bool = False) -> NextToken:
    """A rule that goes on with a script behind the longest end of what it has read that stands there.

    In ``letters``, it spells the script's control tokens as text.
    """
    spelled = [bytes_of(table, token) for token in range(len(table.texts))]
    whole = script.encode()
    end = table.declared_end_ids[0]

    def next_token(read: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
        logits = np.zeros(len(spelled), np.float32)
        if noise:
            digest = hashlib.blake2b(np.asarray([seed, *read], np.int64).tobytes(), digest_size=8).digest()
            draws = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))
            logits += noise * draws.standard_normal(len(spelled)).astype(np.float32)
        tail = b"".join(spelled[token] for token in read[-80:])
        size = next((size for size in range(min(len(tail), 90), 0, -1) if tail[-size:] in whole), 0)
        rest = whole[whole.find(tail[len(tail) - size :]) + size :] if size else whole
        tokens = (
            token for token in range(len(spelled)) if not letters or table.kinds[token] not in ("control", "added")
        )
        fitting = [token for token in tokens if spelled[token] and rest.startswith(spelled[token])]
        best = max(fitting, default=end, key=lambda token: len(spelled[token]))
        logits[best] += 30.0
        return logits

    return next_token


def make_callers(noise: float = 0.0) -> None:
    for seed, (name, (_, script, _)) in enumerate(SCRIPTS.items()):
        table = caller_table(name)
        register_fake(name, FakeModel(LongestMatchTokenizer(table), follows(table, script, seed, noise)))
