"""What a GGUF file says wrongly of its tokens is put right where it can be, else refused or said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gguf")

from support.gguf_files import rewrite_gguf
from support.tiny_gguf import tiny_tensors, write_tiny
from unisono.backends.base import LoadRequest, ModelSource
from unisono.backends.gguf import GgufFile
from unisono.backends.gguf_parts import read_gguf
from unisono.backends.gguf_tokens import read_table, token_warnings
from unisono.backends.notices import gguf_warnings
from unisono.backends.registry import make_loader
from unisono.errors import ModelCorrupt, ModelUnsupported
from unisono.vocab.pieces import BYTE_LEVEL_ALPHABET, end_ids

NORMAL, UNKNOWN, CONTROL, ADDED, UNUSED, BYTE = range(1, 7)
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
OPEN, CLOSE = 258, 259


def head(model: str, tokens: list[str], types: list[int] | None = None, **keys: Any) -> GgufFile:
    """A file's head without weights; its merges are there unless they are said to be ``None``."""
    named = {"tokens": [text.encode() for text in tokens], "merges": [b"a b"], "model": model, **keys}
    metadata = {f"tokenizer.ggml.{key}": value for key, value in named.items() if value is not None}
    if types is not None:
        metadata["tokenizer.ggml.token_type"] = np.array(types)
    return GgufFile(Path("small.gguf"), metadata, {}, 0, (), {})


@pytest.mark.parametrize("backend", ["llamacpp", "transformers"])
@pytest.mark.parametrize(
    "types", [[CONTROL, NORMAL], [NORMAL, NORMAL], [CONTROL, UNUSED], [ADDED, ADDED], None], ids=str
)
def test_a_control_token_is_one_whatever_its_type(tmp_path: Path, types: list[int] | None, backend: str) -> None:
    pytest.importorskip("llama_cpp" if backend == "llamacpp" else "transformers")
    sound = write_tiny(tmp_path / "sound.gguf", tiny_tensors(), controls=("<|im_start|>", "<|im_end|>"))
    whole = None if types is None else [NORMAL] * 256 + [CONTROL, CONTROL, *types]
    path = rewrite_gguf(sound, tmp_path / "odd.gguf", metadata={"tokenizer.ggml.token_type": whole})
    tokenizer = make_loader(backend, LoadRequest(name="odd", source=ModelSource("gguf", str(path)))).tokenizer()
    assert tokenizer.encode_rendered("<|im_start|>a<|im_end|>") == [OPEN, 64, CLOSE]
    assert not {OPEN, CLOSE} & {*tokenizer.encode("<|im_start|>a<|im_end|>")}
    assert {*end_ids(tokenizer.table)} == {257, CLOSE}
    said = token_warnings(read_gguf(path))
    assert ["<|im_end|>" in words for words in said] == [True] * (types != [ADDED, ADDED])


def test_what_only_looks_like_a_control_token_is_text() -> None:
    tokens = [*BYTE_LEVEL_ALPHABET, "<|>", "</s>", "<b>", "<|x y|>", "[a]", "</s2>"]
    table = read_table(head("gpt2", tokens, [NORMAL] * len(tokens), eos_token_id=261))
    assert table.kinds[256:] == ("normal", "normal", "normal", "normal", "normal", "control")


def test_tokens_of_another_kind_of_tokenizer_are_refused() -> None:
    spaced, byte_level = [*BYTES, "\u2581", "\u2581the"], [*BYTE_LEVEL_ALPHABET, "\u0120the"]
    with pytest.raises(ModelUnsupported, match="its tokenizer is 'gpt2', and its tokens are written as those of Sent"):
        read_table(head("gpt2", spaced))
    with pytest.raises(ModelUnsupported, match="its tokenizer is 'llama', and its tokens are written as those of byte"):
        read_table(head("llama", byte_level))
    assert read_table(head("gpt2", spaced, pre="gemma4")).scheme == "sentencepiece"


def test_a_tokenizer_that_merges_needs_its_merges() -> None:
    with pytest.raises(ModelCorrupt, match=r"has no merges \(tokenizer.ggml.merges\)"):
        read_table(head("gpt2", [*BYTE_LEVEL_ALPHABET], merges=None))
    assert read_table(head("llama", [*BYTES, "\u2581"], merges=None)).scheme == "sentencepiece"


@pytest.mark.parametrize("code", [NORMAL, CONTROL, ADDED])
def test_bytes_are_bytes_where_a_file_has_each_and_calls_none_so(code: int) -> None:
    tokens = ["<unk>", *BYTES, "\u2581"]
    table = read_table(head("llama", tokens, [UNKNOWN, *[code] * 256, NORMAL]))
    assert table.kinds == ("control", *["byte"] * 256, "normal")
    some = read_table(head("llama", tokens[:-2] + tokens[-1:], [UNKNOWN, *[NORMAL] * 256]))
    assert "byte" not in some.kinds


@pytest.mark.parametrize(("scores", "is_said"), [(None, True), ([-1000.0] * 4, True), ([0.0, 0.0, -1.0, -2.0], False)])
def test_a_tokenizer_that_joins_by_scores_is_doubted_without_them(scores: list[float] | None, is_said: bool) -> None:
    given = None if scores is None else np.array(scores)
    said = token_warnings(head("llama", ["a", "b", "ab", "ba"], scores=given))
    assert ["no scores of its tokens, or the same for all" in words for words in said] == [True] * is_said
    assert token_warnings(head("gpt2", ["a", "b", "ab", "ba"])) == []


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"tokenizer.ggml.suppress_tokens": np.array([5, 257])}, "that & are never written"),
        ({"tokenizer.ggml.suppress_tokens": np.array([256, 257, 999, -1])}, ""),
        ({"general.sampling.penalty_repeat": 1.1}, "asks for general.sampling.penalty_repeat 1.1"),
        ({"general.sampling.mirostat": 2}, "asks for general.sampling.mirostat 2"),
        ({"general.sampling.penalty_repeat": 1.0, "general.sampling.mirostat": 0, "general.sampling.temp": 0.6}, ""),
    ],
    ids=str,
)
def test_what_a_file_asks_of_those_who_choose_tokens_is_said(keys: dict[str, Any], words: str) -> None:
    file = head("gpt2", [*BYTE_LEVEL_ALPHABET, "<s>", "</s>"], [NORMAL] * 256 + [CONTROL] * 2, pre="gpt-2")
    said = gguf_warnings(replace(file, metadata={**file.metadata, **keys}))
    assert len(said) == bool(words)
    assert all(words in each for each in said)


@pytest.mark.parametrize(
    ("first", "keys", "bos", "eos"),
    [
        (["<unk>", "<s>", "</s>"], {}, 1, 2),  # as llama.cpp does
        (["<unk>", "<s>", "</s>"], {"bos_token_id": 2}, 2, 2),
        (["a", "b", "c"], {}, None, None),
        (["<unk>", "<s>", "</s>"], {"bos_token_id": 999, "eos_token_id": 999}, None, None),
    ],
    ids=str,
)
def test_a_sentencepiece_file_that_names_no_bos_has_the_usual_one(
    first: list[str], keys: dict[str, Any], bos: int | None, eos: int | None
) -> None:
    table = read_table(head("llama", [*first, *BYTES, "\u2581"], None, **keys))
    assert (table.bos_id, table.eos_id) == (bos, eos)
    assert table.special_texts.get("bos_token") == (None if bos is None else first[bos])
    assert set(table.declared_end_ids) == {eos} - {None}
