"""Models whose files disagree about the size of the vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unisono.backends.base import LoadRequest, ModelSource
from unisono.backends.gguf_parts import read_gguf
from unisono.backends.gguf_tokens import read_table
from unisono.backends.registry import make_loader
from unisono.chat.messages import Message
from unisono.ensemble import Ensemble
from unisono.errors import ModelCorrupt
from unisono.vocab.pieces import end_ids

TEMPLATE = "{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}"
QUESTION = "say <|extra_1|> and <plain_0>"


def save(folder: Path, rows: int, controls: int = 0, plain: int = 0, **config: Any) -> Path:
    """A random model of so many rows, and a tokenizer of 259 tokens and some more."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from support.tiny_models import COMMON, byte_tokenizer

    torch.manual_seed(5)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**COMMON | {"vocab_size": rows}))
    model.save_pretrained(folder)
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<|extra_{n}|>" for n in range(controls)]})
    tokenizer.add_tokens([f"<plain_{n}>" for n in range(plain)])
    tokenizer.save_pretrained(folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return folder


def load(folder: Path, **keys: Any) -> Ensemble:
    return Ensemble.load({"members": [{"name": "m", "model": str(folder), "backend": "transformers", **keys}]})


@pytest.mark.parametrize(("rows", "controls", "plain"), [(260, 2, 1), (259, 2, 0), (262, 2, 3)])
def test_a_larger_tokenizer_reads_as_one_without_those_tokens(
    tmp_path: Path, rows: int, controls: int, plain: int
) -> None:
    kept = max(0, rows - 259 - controls)
    smaller = save(tmp_path / "smaller", rows, min(controls, rows - 259), kept)
    larger = save(tmp_path / "larger", rows, controls, plain)
    texts = []
    for folder in (smaller, larger):
        with load(folder, chat_template=TEMPLATE) as ensemble:
            question = [Message(role="user", content=QUESTION)]
            answer = ensemble.generate(messages=question, max_new_tokens=8)
            raw = ensemble.generate(QUESTION, max_new_tokens=8)
            texts.append(
                (answer.text, answer.usage.prompt_tokens, raw.text, ensemble.score(QUESTION, QUESTION)[0].logp)
            )
    assert texts[0] == texts[1]


@pytest.mark.parametrize(("stated", "words"), [(264, "the weights are larger than config.json by 2 ids"),
                                               (270, "config.json is larger than they by 4 ids")])  # fmt: skip
def test_weights_of_another_size_than_the_configuration_are_named(tmp_path: Path, stated: int, words: str) -> None:
    folder = save(tmp_path, 266, vocab_size=stated)
    with pytest.raises(ModelCorrupt, match=rf"{words}.*vocab_size is {stated}, and .* has 266 rows"):
        load(folder)


def test_an_output_layer_of_another_size_than_the_embedding_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path, 264)
    safetensors = pytest.importorskip("safetensors.numpy")
    tensors = safetensors.load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:261]
    safetensors.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelCorrupt, match=r"larger than they by 3 ids.* lm_head.weight .* has 261 rows"):
        load(folder)


@pytest.mark.parametrize(("rows", "words"), [(300, "the weights are larger than the tokenizer by 38"),
                                             (260, "the tokenizer is larger than the weights by 2")])  # fmt: skip
def test_a_gguf_file_of_two_sizes_is_refused_before_it_is_loaded(tmp_path: Path, rows: int, words: str) -> None:
    gguf, _ = pytest.importorskip("gguf"), pytest.importorskip("llama_cpp")
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b"]
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3, *[6] * 256, 1, 1, 1])
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", np.zeros((rows, 32), np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    request = LoadRequest("m", ModelSource("gguf", str(tmp_path / "m.gguf")))
    with pytest.raises(ModelCorrupt, match=rf"{words}.*token_embd.weight has {rows} rows.* 262 tokens"):
        make_loader("llamacpp", request).facts()


@pytest.mark.parametrize("token", [-1, 262, 70_000])
def test_special_ids_that_name_no_token_are_none(tmp_path: Path, token: int) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "v.gguf", "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_merges(["a b"])
    writer.add_token_list([*map(str, range(260)), "<s>", "</s>"])
    writer.add_token_types([1] * 260 + [3, 3])
    for name in ("bos", "eos", "eot", "padding"):
        writer.add_int32(f"tokenizer.ggml.{name}_token_id", token)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    table = read_table(read_gguf(tmp_path / "v.gguf"))
    assert (table.bos_id, table.eos_id, table.declared_end_ids, table.special_texts) == (None, None, (), {})
    assert set(end_ids(table)) == {261}
