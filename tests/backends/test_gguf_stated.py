"""What llama.cpp passes over in a GGUF file is said, and numbers of experts that contradict one another are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gguf")

from support.tiny_gguf import HEADS, WIDTH, tiny_tensors, write_tiny
from unisono.backends.base import LoadRequest, ModelSource
from unisono.backends.gguf import GgufFile
from unisono.backends.gguf_optional import lacking_in_all
from unisono.backends.gguf_parts import read_gguf
from unisono.backends.gguf_stated import READ, unread_by_llamacpp
from unisono.backends.notices import gguf_warnings
from unisono.backends.registry import make_loader
from unisono.build import prepare
from unisono.config.ensemble import load_spec
from unisono.diagnosis import diagnose
from unisono.errors import ModelCorrupt
from unisono.loaded_models import load_models

CHANGING = {
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "logit_scale": 0.0625,
    "embedding_scale": 12.0,
    "residual_scale": 0.22,
    "attention.scale": 0.0078125,
    "attention.clamp_kqv": 8.0,
    "attention.sliding_window": 16,
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> GgufFile:
    return read_gguf(write_tiny(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tiny_tensors()))


def saying(file: GgufFile, architecture: str, keys: dict[str, Any]) -> GgufFile:
    own = {key.replace("llama.", f"{architecture}."): value for key, value in file.metadata.items()}
    more = {f"{architecture}.{key}": value for key, value in keys.items()}
    return replace(file, metadata={**own, "general.architecture": architecture, **more})


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "granite", "gemma2", "gemma3", "command-r", "olmo", "phi3"])
def test_each_number_that_llama_cpp_does_not_read_is_said(file: GgufFile, architecture: str) -> None:
    said = list(unread_by_llamacpp(saying(file, architecture, CHANGING)))
    named = {key for key in CHANGING for words in said if f"says {architecture}.{key} " in words}
    assert named == CHANGING.keys() - {*READ[architecture]}
    assert len(said) == len(named)


def test_numbers_of_each_layer_count_as_one_does(file: GgufFile) -> None:
    usual, heads = (WIDTH // HEADS) ** -0.5, np.array([HEADS, HEADS])
    for keys, said in (
        ({"attention.head_count": heads, "attention.scale": usual}, 0),
        ({"attention.head_count": heads, "attention.scale": usual * 2}, 1),
        ({"attention.head_count": np.array([HEADS, HEADS // 2]), "attention.scale": usual}, 1),
        ({"attention.head_count": None, "attention.scale": usual * 2}, 0),  # nobody knows what is usual
        ({"attention.sliding_window": np.array([0, 16])}, 1),
        ({"attention.sliding_window": np.array([0, 0])}, 0),
    ):
        assert len(list(unread_by_llamacpp(saying(file, "llama", keys)))) == said, keys


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"attention.sliding_window": 0},
        {"attention.sliding_window": 128},  # its context
        {"logit_scale": 1.0, "embedding_scale": 1.0, "residual_scale": 1.0, "expert_weights_scale": 1.0},
        {"final_logit_softcapping": 0.0, "attention.clamp_kqv": 0.0},
        {"attention.scale": (WIDTH // HEADS) ** -0.5},
    ],
)
def test_numbers_that_change_nothing_are_not_said(file: GgufFile, keys: dict[str, Any]) -> None:
    assert not list(unread_by_llamacpp(saying(file, "llama", keys)))


def test_nothing_is_said_of_an_architecture_that_is_not_known_here(file: GgufFile) -> None:
    assert not list(unread_by_llamacpp(saying(file, "newest", CHANGING)))


def test_what_is_passed_over_is_a_warning_of_the_loader(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    path = write_tiny(tmp_path / "tiny.gguf", tiny_tensors(), final_logit_softcapping=30.0)
    [words] = make_loader("llamacpp", LoadRequest("m", ModelSource("gguf", str(path)), device="cpu")).facts().warnings
    assert words.startswith("its file says llama.final_logit_softcapping 30, which llama.cpp does not read for llama")


def of_phi(tensors: dict[str, Any]) -> dict[str, Any]:
    """The weights as Phi-3 has them: some in one matrix."""
    joined = {"attn_q": ("attn_qkv", ("attn_q", "attn_k", "attn_v")), "ffn_gate": ("ffn_up", ("ffn_gate", "ffn_up"))}
    made = {}
    for name in tensors:
        kind = name.split(".")[-2]
        whole, parts = joined.get(kind, (kind, (kind,)))
        if kind not in ("attn_k", "attn_v", "ffn_up"):
            made[name.replace(kind, whole)] = np.concatenate([tensors[name.replace(kind, part)] for part in parts])
    return made


@pytest.mark.parametrize(("window", "times"), [(16, 1), (128, 0), (262_144, 0)])
def test_a_window_that_llama_cpp_leaves_out_is_said_once_at_load_and_in_doctor(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, window: int, times: int
) -> None:
    pytest.importorskip("llama_cpp")
    keys = {"attention__sliding_window": window}
    path = write_tiny(tmp_path / "phi.gguf", of_phi(tiny_tensors()), architecture="phi3", **keys)
    prepared = prepare(load_spec({"members": [{"name": "m", "model": str(path), "device": "cpu"}]}))
    words = f"its file says phi3.attention.sliding_window {window:,}, which llama.cpp does not read for phi3"
    assert sum(warning.startswith(f"m: {words}") for warning in diagnose(prepared).warnings) == times
    with load_models([prepared]):
        said = [message for message in caplog.messages if "SWA" in message or "sliding_window" in message]
    assert len(said) == times
    assert all(message.startswith(f"member 'm': {words}") for message in said)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"expert_used_count": 2}, r"expert_used_count is 2, and it has 0 experts"),
        ({"expert_count": 4}, r"expert_used_count is 0, and it has 4 experts, of which none"),
        ({"expert_count": 4, "expert_used_count": 5}, r"expert_used_count is 5, and it has 4 experts"),
        ({"expert_group_count": 3}, r"expert_group_count is 3, and it has 0 experts"),
        (
            {"expert_count": 4, "expert_used_count": 2, "expert_group_count": 4},
            r"expert_group_count is 4, and",
        ),
        ({"expert_count": 4, "expert_used_count": 2, "expert_group_count": 3}, r"expert_group_count is 3, .*of a size"),
        ({"expert_count": 4, "expert_used_count": 2, "expert_group_count": 2}, r"expert_group_used_count is 0, and"),
        ({"nextn_predict_layers": 5}, r"nextn_predict_layers is 5 and block_count is 3"),
    ],
)
def test_numbers_over_which_llama_cpp_ends_the_process_are_refused(
    tmp_path: Path, keys: dict[str, Any], words: str
) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", tiny_tensors(), **keys)
    with pytest.raises(ModelCorrupt, match=words):
        read_gguf(path)


def test_experts_without_a_weight_are_missed(file: GgufFile) -> None:
    wanted = ["blk.*.ffn_gate_inp.weight", "blk.*.ffn_*_exps.weight"]
    assert lacking_in_all(saying(file, "llama", {"expert_count": 4})) == wanted
    assert lacking_in_all(saying(file, "llama", {"expert_count": 1})) == []


def test_one_file_holds_as_many_tensors_as_it_says(tmp_path: Path) -> None:
    tensors = tiny_tensors()
    read_gguf(write_tiny(tmp_path / "whole.gguf", tensors, split=(0, 1, len(tensors))))
    with pytest.raises(ModelCorrupt, match=rf"short\.gguf holds {len(tensors)} different tensors, and should hold 99"):
        read_gguf(write_tiny(tmp_path / "short.gguf", tensors, split=(0, 1, 99)))


def test_a_chat_template_that_is_no_text_is_said(tmp_path: Path) -> None:
    file = read_gguf(write_tiny(tmp_path / "t.gguf", tiny_tensors()))
    assert gguf_warnings(file) == []
    [warning] = gguf_warnings(replace(file, metadata={**file.metadata, "tokenizer.chat_template": [b"a"]}))
    assert "a chat template that is no text" in warning
