"""What an adapter was trained to read otherwise than its model reads it is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unisono.backends import adapter_reading
from unisono.backends.adapter_reading import trained_otherwise
from unisono.vocab.tokenizer import TokenTable

PADDED = {"added_tokens_decoder": {"2": {"content": "<pad>"}}}
OWN, OTHER = "{{ messages[0].content }}", "<|x|>{{ messages[0].content }}"


def table(template: str | None = OWN) -> TokenTable:
    kinds: Any = ("normal", "control", "added", "added", "normal")
    return TokenTable(
        scheme="byte-level", family="", texts=("a", "<s>", "  ", "x▁▁y", "▁"), kinds=kinds, chat_template=template
    )


@pytest.mark.parametrize(
    ("files", "template", "words"),
    [
        ({}, OWN, []),
        ({"chat_template.jinja": OWN + "\n"}, OWN, []),
        ({"tokenizer_config.json": {"chat_template": OWN}}, OWN, []),
        ({"chat_template.jinja": OTHER}, OWN, ["another chat template than its model's"]),
        ({"tokenizer_config.json": {"chat_template": OTHER}}, None, ["another chat template than none"]),
        ({"tokenizer_config.json": {"chat_template": [{"name": "default", "template": OTHER}]}}, OWN, []),
        (
            {"added_tokens.json": {"<s>": 1, "<|x|>": 2}},
            OWN,
            ["1 token that its model does not have ('<|x|>'): it is read as"],
        ),
        ({"tokenizer.json": {"added_tokens": [{"id": 2, "content": "<|x|>"}]}}, OWN, ["1 token that"]),
        ({"tokenizer_config.json": {"added_tokens_decoder": {"1": {"content": "<s>"}}}}, OWN, []),
        (
            {"added_tokens.json": {"<|x|>": 2, "<|y|>": 3}},
            OWN,
            ["2 tokens that its model does not have ('<|x|>', '<|y|>'): they"],
        ),
        ({"tokenizer_config.json": PADDED | {"pad_token": "<pad>"}}, OWN, []),
        ({"tokenizer_config.json": PADDED | {"pad_token": {"content": "<pad>"}, "eos_token": "<s>"}}, OWN, []),
        (
            {"tokenizer_config.json": PADDED | {"pad_token": "<pad>", "eos_token": {"content": "<pad>"}}},
            OWN,
            ["1 token"],
        ),
        ({"tokenizer_config.json": PADDED}, OWN, ["1 token that its model does not have ('<pad>')"]),
        ({"added_tokens.json": {"▁▁": 2, "x  y": 3, " ": 4}}, OWN, []),
        ({"tokenizer.json": "{", "chat_template.jinja": b"\xff"}, OWN, []),
    ],
    ids=str,
)
def test_a_template_or_tokens_of_its_own_are_said(
    tmp_path: Path, files: dict[str, Any], template: str | None, words: list[str]
) -> None:
    for name, content in files.items():
        data = content if isinstance(content, str | bytes) else json.dumps(content)
        (tmp_path / name).write_bytes(data.encode() if isinstance(data, str) else data)
    found = trained_otherwise(tmp_path, table(template), template_given=False)
    assert len(found) == len(words)
    assert all(each in said for each, said in zip(words, found, strict=True))


def test_a_template_that_the_spec_gives_is_meant(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text(OTHER)
    assert trained_otherwise(tmp_path, table(), template_given=True) == ()


def test_a_whole_tokenizer_is_read_only_where_its_settings_name_no_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of 262,144 tokens takes a second."""
    read: list[str] = []
    monkeypatch.setattr(adapter_reading, "_json", lambda file: read.append(file.name) or PADDED)
    trained_otherwise(tmp_path, table(), template_given=False)
    assert "tokenizer.json" not in read
