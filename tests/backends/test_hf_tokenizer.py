"""Tokenizers through transformers: their tables, and encoding that adds nothing and obeys no control text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

import tokenizers
import transformers

from support.adversarial import ADVERSARIAL
from support.tiny_models import byte_tokenizer, save_tiny
from unisono.backends.base import LoadRequest, ModelSource
from unisono.backends.registry import BACKENDS, installed, make_loader
from unisono.backends.transformers.json_content import read_json_table
from unisono.backends.transformers.json_scheme import json_scheme
from unisono.backends.transformers.tokenizer import default_template, opening_of, read_tokenizer
from unisono.config.demo import demo_path
from unisono.errors import ModelUnsupported
from unisono.vocab.pieces import BYTE_LEVEL_ALPHABET, end_ids, read_vocabulary

TEXTS = tuple(ADVERSARIAL.values())
MISTRAL = Path(pytest.importorskip("mistral_common").__file__).parent / "data"


def sentencepiece_like(prefix: str) -> transformers.PreTrainedTokenizerFast:
    """A tiny tokenizer as Llama's: ``▁`` before a text, byte fallback, a BOS."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    for text in ("▁", "a", "b", "▁a", "ab"):
        vocab[text] = len(vocab)
    model = tokenizers.models.BPE(
        vocab=vocab, merges=[("▁", "a"), ("a", "b")], unk_token="<unk>", byte_fallback=True, fuse_unk=True
    )
    raw = tokenizers.Tokenizer(model)
    if prefix == "metaspace":
        raw.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        raw.normalizer = tokenizers.normalizers.Sequence(
            [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
        )
    raw.add_special_tokens(["<unk>", "<s>", "</s>"])
    raw.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def test_a_byte_level_table_tells_bytes_added_and_control_tokens() -> None:
    tokenizer = read_tokenizer(byte_tokenizer(), [7], "it")
    table = tokenizer.table
    assert (table.scheme, table.kinds[256], table.kinds[258], table.bos_id) == ("byte-level", "control", "added", 256)
    assert table.declared_end_ids == (7, 257)
    assert not table.adds_bos
    vocabulary = read_vocabulary(table, [257])
    assert vocabulary.pieces[258] == b"<think>"
    for text in TEXTS:
        assert vocabulary.join(tokenizer.encode(text)) == text.encode()


@pytest.mark.parametrize("written", [True, False])
def test_tokens_are_bytes_where_a_tokenizer_only_writes_them_so(written: bool) -> None:
    made = sentencepiece_like("metaspace")
    content = json.loads(made.backend_tokenizer.to_str())
    content["model"]["byte_fallback"] = False
    content["decoder"] = {"type": "ByteFallback"} if written else None
    table = read_json_table(content, [0, 1, 2])
    assert table.kinds[3 + 65] == ("byte" if written else "normal")


def test_control_text_is_text_unless_a_template_wrote_it() -> None:
    tokenizer = read_tokenizer(byte_tokenizer(), [], "it")
    assert 256 not in tokenizer.encode("<s>") + tokenizer.encode_prompt("<s>")
    assert tokenizer.encode_rendered("<s>a")[0] == 256


@pytest.mark.parametrize("prefix", ["metaspace", "prepend"])
def test_the_leading_space_and_bos_belong_to_a_prompt_only(prefix: str) -> None:
    tokenizer = read_tokenizer(sentencepiece_like(prefix), [], "it")
    pieces = read_vocabulary(tokenizer.table, [])
    assert tokenizer.table.adds_bos
    assert tokenizer.table.kinds[:4] == ("control", "control", "control", "byte")
    assert pieces.join(tokenizer.encode("ab a")) == b"ab a"
    assert tokenizer.encode_prompt("a")[0] == 1
    assert 2 not in tokenizer.encode_prompt("a")
    assert pieces.join(tokenizer.encode_prompt("a")) == b" a"
    assert tokenizer.encode_rendered("<s>a")[0] == 1
    for text in TEXTS:
        if "▁" not in text:  # which no such vocabulary can tell from a space
            assert pieces.join(tokenizer.encode(text)) == text.encode()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"model": {"type": "WordPiece", "vocab": {"a": 0}}}, "WordPiece"),
        ({"model": {"type": "WordLevel", "vocab": {"a": 0}}}, "WordLevel"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "end_of_word_suffix": "</w>"}}, "</w>"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}}}, "without a byte alphabet"),
        (
            {
                "model": {"type": "BPE", "vocab": {"a": 0}, "byte_fallback": True},
                "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u0120"},
            },
            "writes spaces as '\u0120' and not as '\u2581'",
        ),
        (
            {
                "model": {"type": "Unigram", "vocab": [["a", 0.0]]},
                "pre_tokenizer": {"type": "Metaspace", "replacement": "_", "prepend_scheme": "first"},
            },
            "writes spaces as '_' and not as",
        ),
    ],
)
def test_a_tokenizer_that_loses_spaces_is_refused_with_the_reason(content: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelUnsupported, match=words):
        json_scheme(content)


def test_the_opening_of_a_text_and_the_default_template_are_found() -> None:
    assert opening_of([1, 5, 6, 2], [5, 6]) == [1]
    assert opening_of([5, 6], [5, 6]) == []
    assert default_template({"default": "x", "tool_use": "y"}) == "x"
    assert default_template(None) is None


@pytest.mark.parametrize("file", ["tekken_240911.json", "tokenizer.model.v1"])
def test_mistral_tokenizers_spell_every_text(file: str) -> None:
    loaded = transformers.MistralCommonBackend(tokenizer_path=MISTRAL / file)
    tokenizer = read_tokenizer(loaded, [], "it")
    pieces = read_vocabulary(tokenizer.table, [])
    assert tokenizer.table.scheme == ("bytes" if file.startswith("tekken") else "sentencepiece")
    for text in TEXTS:
        if file.startswith("tekken") or not {"▁", "\0"} & set(text):  # SentencePiece has no such characters
            assert pieces.join(tokenizer.encode(text)) == text.encode()
    assert tokenizer.encode_rendered("</s>") == [loaded.eos_token_id]


@pytest.mark.models
@pytest.mark.skipif(not installed(BACKENDS["llamacpp"]), reason="llama-cpp-python is not installed")
@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "gemma3-270m"])
def test_both_backends_read_the_same_gguf_file_alike(name: str) -> None:
    request = LoadRequest(name="it", source=ModelSource("gguf", str(demo_path(name))))
    ours, theirs = (make_loader(backend, request).tokenizer() for backend in ("transformers", "llamacpp"))
    pieces, others = (read_vocabulary(each.table, end_ids(each.table)) for each in (ours, theirs))
    assert pieces.fingerprint == others.fingerprint
    assert ours.table.chat_template == theirs.table.chat_template
    assert ours.table.adds_bos == theirs.table.adds_bos
    for text in TEXTS:
        # llama.cpp declares Gemma's </s>, an HTML tag, a control token by its name; and what SmolLM2 has
        # no tokens for is lost by both, each in its own way.
        if "</s>" in text or pieces.join(ours.encode(text)).replace(b" ", b"") != text.replace(" ", "").encode():
            continue
        for way in ("encode", "encode_prompt", "encode_rendered"):
            assert getattr(ours, way)(text) == getattr(theirs, way)(text), (way, text)


def test_a_tokenizer_reads_a_text_the_same_each_time() -> None:
    """Dropout, which some were saved with, merges otherwise each time."""
    vocab = {character: n for n, character in enumerate([*BYTE_LEVEL_ALPHABET, "ab", "abab", "<s>"])}
    tables = []
    for dropout in (None, 0.5):
        model = tokenizers.models.BPE(vocab=vocab, merges=[("a", "b"), ("ab", "ab")], dropout=dropout)
        raw = tokenizers.Tokenizer(model)
        raw.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = tokenizers.decoders.ByteLevel()
        made = read_tokenizer(transformers.PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<s>"), [], "it")
        tables.append([read("abab" * 12) for read in (made.encode, made.encode_prompt, made.encode_rendered)])
    assert tables[0] == tables[1]
    assert tables[0] == [[vocab["abab"]] * 12] * 3


@pytest.mark.parametrize(
    ("content", "template"),
    [({"chat_template": "{{ messages }}"}, "{{ messages }}"), ({"chat_template": {"default": "D"}}, "D"), ({}, None)],
)
def test_a_template_that_lies_in_a_file_for_processors_is_the_model_s(
    tmp_path: Path, content: dict[str, Any], template: str | None
) -> None:
    """Of models that also see; a template of the tokenizer's own comes first."""
    save_tiny(tmp_path, "llama")
    (tmp_path / "chat_template.json").write_text(json.dumps(content))
    source = ModelSource("folder", str(tmp_path))
    assert make_loader("transformers", LoadRequest("m", source)).tokenizer().table.chat_template == template
    (tmp_path / "chat_template.jinja").write_text("own")
    assert make_loader("transformers", LoadRequest("m", source)).tokenizer().table.chat_template == "own"
