"""What llama.cpp does without in silence is missed all the same: refused, or said where a model may be made so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")

from unisono.backends.gguf import GgufFile  # noqa: E402
from unisono.backends.gguf_parts import check_layers, read_gguf  # noqa: E402
from unisono.backends.notices import gguf_warnings  # noqa: E402
from unisono.errors import ModelCorrupt  # noqa: E402

LAYERS, WIDTH = 3, 32
QKV = ("attn_q", "attn_k", "attn_v")


def names(*, biases: bool = True, output: bool = True, more: tuple[str, ...] = ()) -> list[str]:
    found = ["token_embd.weight", *(["output.weight"] if output else []), *more]
    for layer in range(LAYERS):
        found += [f"blk.{layer}.{each}.weight" for each in (*QKV, "attn_norm", "ffn_up")]
        found += [f"blk.{layer}.{each}.bias" for each in QKV if biases]
    return found


def read(path: Path, architecture: str, tensors: list[str], kind: Any = None, **keys: Any) -> GgufFile:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    for key, value in {"embedding_length": WIDTH, **keys}.items():
        full = key.replace("__", ".") if key.startswith("general") else f"{architecture}.{key.replace('__', '.')}"
        add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32}[type(value)]
        add(full, value)
    for name in tensors:
        if kind is not None and name == "token_embd.weight":
            writer.add_tensor(name, np.zeros((4, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), raw_dtype=kind)
        else:
            writer.add_tensor(name, np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read_gguf(path)


@pytest.mark.parametrize("architecture", ["qwen2", "qwen2vl", "dream", "phi2"])
def test_biases_that_all_layers_lack_are_named(tmp_path: Path, architecture: str) -> None:
    whole = read(tmp_path / "whole.gguf", architecture, names())
    check_layers(whole)
    assert gguf_warnings(whole) == []
    words = r"lacks 9 of the weights: blk\.0\.attn_k\.bias, blk\.0\.attn_q\.bias, blk\.0\.attn_v\.bias"
    with pytest.raises(ModelCorrupt, match=words):
        check_layers(read(tmp_path / "a.gguf", architecture, names(biases=False)))
    keys = [name for name in names() if "attn_k.bias" not in name]
    with pytest.raises(ModelCorrupt, match=r"lacks 3 of the weights: blk\.0\.attn_k\.bias"):
        check_layers(read(tmp_path / "b.gguf", architecture, keys))


def test_queries_keys_and_values_in_one_matrix_have_one_bias(tmp_path: Path) -> None:
    joined = [name for name in names(biases=False) if "attn_norm" in name or "attn_" not in name]
    weights = [f"blk.{layer}.attn_qkv.weight" for layer in range(LAYERS)]
    biases = [f"blk.{layer}.attn_qkv.bias" for layer in range(LAYERS)]
    check_layers(read(tmp_path / "whole.gguf", "phi2", [*joined, *weights, *biases]))
    with pytest.raises(ModelCorrupt, match=r"lacks 3 of the weights: blk\.0\.attn_qkv\.bias"):
        check_layers(read(tmp_path / "a.gguf", "phi2", [*joined, *weights]))


@pytest.mark.parametrize("architecture", ["qwen2moe", "gpt-oss", "seed_oss", "starcoder2"])
def test_biases_that_a_configuration_may_leave_out_are_said(tmp_path: Path, architecture: str) -> None:
    assert gguf_warnings(read(tmp_path / "whole.gguf", architecture, names())) == []
    file = read(tmp_path / "a.gguf", architecture, names(biases=False))
    check_layers(file)
    [warning] = gguf_warnings(file)
    assert warning.startswith("its file perhaps lacks 9 of the weights: blk.0.attn_k.bias, ")


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3", "phi3", "granite"])
def test_architectures_without_biases_lack_none(tmp_path: Path, architecture: str) -> None:
    file = read(tmp_path / "a.gguf", architecture, names(biases=False, output=False))
    check_layers(file)
    assert gguf_warnings(file) == []


@pytest.mark.parametrize(
    ("architecture", "keys", "reason"),
    [
        ("llama", {"embedding_length": 4096}, "published llama models of its width, 4,096, are not made so"),
        ("qwen2", {"embedding_length": 8192}, "published qwen2 models of its width"),
        ("qwen3moe", {}, "no published model of the architecture qwen3moe"),
    ],
)
def test_an_output_layer_that_models_of_the_kind_have_is_missed(
    tmp_path: Path, architecture: str, keys: dict[str, Any], reason: str
) -> None:
    biases = architecture == "qwen2"
    assert gguf_warnings(read(tmp_path / "whole.gguf", architecture, names(biases=biases), **keys)) == []
    [warning] = gguf_warnings(read(tmp_path / "a.gguf", architecture, names(biases=biases, output=False), **keys))
    assert warning.startswith("its file perhaps lacks output.weight, so that its embeddings serve as its output layer")
    assert reason in warning


@pytest.mark.parametrize(
    ("kind", "file_type", "missed"), [("Q4_K", 15, True), ("Q2_K", 10, True), ("Q6_K", 15, False), ("Q4_K", 1, False)]
)
def test_embeddings_in_the_format_that_they_have_beside_an_output_layer_show_that_it_is_lost(
    tmp_path: Path, kind: str, file_type: int, missed: bool
) -> None:
    tensors = names(biases=False, output=False)
    file = read(tmp_path / "a.gguf", "llama", tensors, gguf.GGMLQuantizationType[kind], general__file_type=file_type)
    assert any("output.weight" in warning for warning in gguf_warnings(file)) == missed


def test_an_output_layer_that_the_configuration_beside_a_file_wants_is_required(tmp_path: Path) -> None:
    config = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    check_layers(read(tmp_path / "whole.gguf", "llama", names(biases=False)))
    lacking = read(tmp_path / "a.gguf", "llama", names(biases=False, output=False))
    with pytest.raises(ModelCorrupt, match=r"a\.gguf lacks 1 of the weights: output\.weight"):
        check_layers(lacking)
    for other in ({"tie_word_embeddings": True}, {"hidden_size": 64}, {"num_hidden_layers": 2}):
        (tmp_path / "config.json").write_text(json.dumps(config | other))
        check_layers(lacking)
    (tmp_path / "config.json").write_text("[]")
    check_layers(lacking)


def test_factors_of_positions_that_a_file_speaks_of_are_required(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"rope__scaling__type": "longrope"}
    both = ("rope_factors_long.weight", "rope_factors_short.weight")
    check_layers(read(tmp_path / "whole.gguf", "phi3", names(biases=False, more=both), **keys))
    with pytest.raises(ModelCorrupt, match=r"lacks 1 of the weights: rope_factors_short\.weight"):
        check_layers(read(tmp_path / "a.gguf", "phi3", names(biases=False, more=both[:1]), **keys))


def test_a_llama_3_1_converted_before_its_scaling_was_known_is_said(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"context_length": 131072, "rope__freq_base": 500000.0}
    [warning] = gguf_warnings(read(tmp_path / "a.gguf", "llama", names(biases=False), **keys))
    assert warning.startswith("its file perhaps lacks rope_freqs.weight, which Llama 3.1 and later need")
    for more, other in ((("rope_freqs.weight",), {}), ((), {"context_length": 8192}), ((), {"rope__freq_base": 1e6})):
        assert gguf_warnings(read(tmp_path / "b.gguf", "llama", names(biases=False, more=more), **keys | other)) == []


def test_the_bias_that_corrects_the_choice_of_experts_is_missed(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"expert_gating_func": 2}
    whole = names(biases=False, more=("blk.1.exp_probs_b.bias",))
    assert gguf_warnings(read(tmp_path / "whole.gguf", "deepseek2", whole, **keys)) == []
    [warning] = gguf_warnings(read(tmp_path / "a.gguf", "deepseek2", names(biases=False), **keys))
    assert "exp_probs_b.bias" in warning
    assert gguf_warnings(read(tmp_path / "b.gguf", "deepseek2", names(biases=False), expert_gating_func=1)) == []
