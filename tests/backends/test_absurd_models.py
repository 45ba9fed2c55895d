"""Models whose files say what no model's can are refused by both backends, by name, in a second, and write nothing."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from support.gguf_files import rewrite_gguf
from support.tiny_gguf import TOKENS, tiny_tensors, write_tiny
from support.tiny_models import save_tiny
from unisono.backends.transformers.tokenizer import read_tokenizer
from unisono.build import prepare
from unisono.cache import ENVIRONMENT_KEY
from unisono.config.ensemble import load_spec
from unisono.errors import ModelError, PromptError
from unisono.loaded_models import load_engine

SECONDS = 3.0
Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_tiny(tmp_path_factory.mktemp("sound") / "llama", "llama")
    load(folder)  # the libraries are imported once
    return folder


def load(model: Path, **keys: object) -> None:
    spec = load_spec({"members": [{"name": "odd", "model": str(model), **keys}]})
    load_engine(prepare(spec)).close()


def edited(name: str, **keys: object) -> Change:
    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | keys))

    return change


def with_token(token: int, *, added: bool = False) -> Change:
    def change(folder: Path) -> None:
        content: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text())
        if added:
            content["added_tokens"].append(content["added_tokens"][0] | {"id": token, "content": "<odd>"})
        else:
            content["model"]["vocab"]["odd"] = token
        (folder / "tokenizer.json").write_text(json.dumps(content))

    return change


def holding(name: str, data: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(data)


def replaced(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


def normalized_by(*parts: dict[str, Any]) -> Change:
    return edited("tokenizer.json", normalizer={"type": "Sequence", "normalizers": [*parts]})


def disguised(folder: Path) -> None:
    """A normalizer whose key is written with escapes."""
    normalized_by({"type": "Prepend", "prepend": "a" * 10**7})(folder)
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"normalizer"', '"n\\u006frmalizer"'))


def hollow(folder: Path) -> None:
    """Weights of which most was never written: a tensor that no model reads, of 400 GB."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    end = max(tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__")
    header["odd"] = {"dtype": "F32", "shape": [10**11], "data_offsets": [end, end + 4 * 10**11]}
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + data[8 + length :])
    os.truncate(path, 8 + len(head) + end + 4 * 10**11)


E_DOUBLED: dict[str, Any] = {"type": "Replace", "pattern": {"String": "e"}, "content": "ee"}
TABLE: dict[str, Any] = {"type": "Precompiled"}
CROWDED = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "a", "type_id": 0}}] * 10_000 + [{"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"a": {"id": "a", "ids": [0] * 10_000, "tokens": ["a"] * 10_000}},
}
NESTED = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
FOLDERS: dict[str, tuple[Change, str]] = {
    "a billion layers": (edited("config.json", num_hidden_layers=10**9), "num_hidden_layers"),
    "fewer than no layers": (edited("config.json", num_hidden_layers=-1), "num_hidden_layers"),
    "layers that no file holds": (edited("config.json", num_hidden_layers=900), "900 layers"),
    "2^50 ids": (edited("config.json", vocab_size=2**50), "vocab_size"),
    "ids that no weight has": (edited("config.json", vocab_size=9_999_999), "vocab_size"),
    "no width": (edited("config.json", hidden_size=0), "hidden_size"),
    "a width that no weight has": (edited("config.json", hidden_size=10**6), "1,000,000"),
    "a context below nothing": (edited("config.json", max_position_embeddings=-5), "max_position_embeddings"),
    "a million ends": (edited("generation_config.json", eos_token_id=[1] * 10**6), "generation_config.json"),
    "a billion labels": (edited("config.json", num_labels=10**9), "num_labels"),
    "a language part that is none": (edited("config.json", text_config=False), "text_config is false"),
    "another part that is none": (edited("config.json", generator=False), "cannot be loaded by transformers"),
    "a head without a name": (edited("config.json", architectures=[None]), "None"),
    "positions that are no numbers": (
        edited("config.json", rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": float("nan")}),
        "factor",
    ),
    "the id 2^31": (with_token(2**31), "2147483648"),
    "the added id 2^31": (with_token(2**31, added=True), "2147483648"),
    "the id -5": (with_token(-5), "-5"),
    "an id far from the others": (with_token(3_000_000), "3,000,000"),
    "a nested configuration": (holding("config.json", NESTED), "config.json"),
    "a nested tokenizer": (holding("tokenizer.json", NESTED), "tokenizer.json"),
    "nested settings": (holding("tokenizer_config.json", NESTED), "tokenizer_config.json"),
    "a huge configuration": (lambda folder: os.truncate(folder / "config.json", 500_000_000), "config.json"),
    "a pipe for weights": (replaced("model.safetensors"), "model.safetensors is a pipe"),
    "a pipe for a tokenizer": (replaced("tokenizer.json"), "tokenizer.json is a pipe"),
    "a text that doubles": (normalized_by(*[E_DOUBLED] * 40), "1,099,511,627,776 times as long"),
    "a letter that becomes a book": (normalized_by(E_DOUBLED | {"content": "x" * 10**6}), "1,000,000 times as long"),
    "a book between all letters": (
        normalized_by(E_DOUBLED | {"pattern": {"Regex": ""}, "content": "x" * 10**5}),
        "100,001 times as long",
    ),
    "a book before every text": (normalized_by({"type": "Prepend", "prepend": "a" * 10**6}), "times as long"),
    "a normalizer in disguise": (disguised, "times as long"),
    "a table of characters that is cut short": (normalized_by({**TABLE, "precompiled_charsmap": "AAAA"}), "a table"),
    "a table of 4 GB": (normalized_by({**TABLE, "precompiled_charsmap": "/////w=="}), "4,294,967,295 bytes"),
    "a table that leads nowhere": (normalized_by({**TABLE, "precompiled_charsmap": "BAAAAP////8="}), "out of bounds"),
    "a hundred million tokens about a text": (edited("tokenizer.json", post_processor=CROWDED), "adds 100,000,000"),
    "a template that is no text": (edited("tokenizer_config.json", chat_template={"default": 5}), "is 5, not text"),
    "weights that were never written": (hollow, "were ever written"),
    "a header of 2^63 bytes": (
        holding("model.safetensors", (2**63).to_bytes(8, "little") + b"{}"),
        "model.safetensors",
    ),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_of_absurd_facts_is_refused(tmp_path: Path, sound: Path, kind: str) -> None:
    change, named = FOLDERS[kind]
    folder = shutil.copytree(sound, tmp_path / "llama")
    change(folder)
    began = time.perf_counter()
    with pytest.raises(ModelError) as caught:
        load(folder)
    assert time.perf_counter() - began < SECONDS
    assert caught.value.message.startswith("member 'odd'")
    assert named in caught.value.message


METADATA: dict[str, object] = {
    "llama.block_count": 2**32 - 1,
    "llama.embedding_length": 0,
    "llama.attention.head_count": 3,
    "llama.attention.head_count_kv": 2**31,
    "llama.context_length": 0,
    "llama.attention.layer_norm_rms_epsilon": float("nan"),
    "tokenizer.ggml.eos_token_id": 2**31,
    "tokenizer.ggml.tokens": [*TOKENS[:-1], "a"],
}


NEEDED = (
    "block_count", "embedding_length", "context_length", "attention.head_count", "attention.layer_norm_rms_epsilon"
)  # fmt: skip


@pytest.mark.parametrize("key", NEEDED)
def test_what_a_gguf_file_does_not_say_is_not_made_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv(ENVIRONMENT_KEY, str(tmp_path / "cache"))
    whole = write_tiny(tmp_path / "tiny.gguf", tiny_tensors())
    path = rewrite_gguf(whole, tmp_path / "odd.gguf", metadata={f"llama.{key}": None})
    with pytest.raises(ModelError, match=rf"odd\.gguf does not say llama\.{key}"):
        load(path, backend="transformers")


def test_a_file_of_more_tensors_than_models_have_is_refused(
    tmp_path: Path, sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(sound, tmp_path / "llama")
    monkeypatch.setattr("unisono.backends.weight_files.MOST_TENSORS", 10)
    with pytest.raises(ModelError, match=r"model\.safetensors .* tensors, and at most 10 are read"):
        load(folder)


@pytest.mark.parametrize("backend", ["llamacpp", "transformers"])
@pytest.mark.parametrize("key", METADATA)
def test_a_gguf_file_of_absurd_facts_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, backend: str
) -> None:
    monkeypatch.setenv(ENVIRONMENT_KEY, str(tmp_path / "cache"))
    whole = write_tiny(tmp_path / "tiny.gguf", tiny_tensors())
    path = rewrite_gguf(whole, tmp_path / "odd.gguf", metadata={key: METADATA[key]})
    began = time.perf_counter()
    with pytest.raises(ModelError, match=r"member 'odd': .*odd\.gguf") as caught:
        load(path, backend=backend)
    assert time.perf_counter() - began < SECONDS
    assert key.rpartition(".")[2] in caught.value.message or "twice" in caught.value.message


@pytest.mark.parametrize("backend", ["llamacpp", "transformers"])
def test_a_file_that_was_hardly_written_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setenv(ENVIRONMENT_KEY, str(tmp_path / "cache"))
    path = write_tiny(tmp_path / "tiny.gguf", tiny_tensors())
    os.truncate(path, 10**12)
    with pytest.raises(ModelError, match="were ever written"):
        load(path, backend=backend)


def test_a_tokenizer_that_breaks_off_in_its_library_is_an_error_of_the_text(tmp_path: Path, sound: Path) -> None:
    folder = shutil.copytree(sound, tmp_path / "llama")
    split = {"type": "Split", "pattern": {"Regex": r"(\w+\s?)+$"}, "behavior": "Isolated", "invert": False}
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    edited("tokenizer.json", pre_tokenizer={"type": "Sequence", "pretokenizers": [split, bytes_]})(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with pytest.raises(PromptError, match="cannot encode this text"):
        read_tokenizer(tokenizer, [], "odd").encode("word " * 20 + "!")
