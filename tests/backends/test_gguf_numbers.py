"""Numbers of a GGUF file that transformers' reader passes over are in the configuration, or the file is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")

from support.gguf_files import rewrite_gguf  # noqa: E402
from support.tiny_gguf import HEADS, WIDTH, tiny_tensors, write_tiny  # noqa: E402
from unisono.backends.base import LoadRequest, ModelSource  # noqa: E402
from unisono.backends.gguf import GgufFile  # noqa: E402
from unisono.backends.gguf_parts import read_gguf  # noqa: E402
from unisono.backends.registry import make_loader  # noqa: E402
from unisono.backends.transformers.gguf_numbers import with_numbers  # noqa: E402
from unisono.errors import ModelUnsupported  # noqa: E402

CONFIGS = {
    "gemma2": "Gemma2",
    "phi3": "Phi3",
    "llama": "Llama",
    "qwen2": "Qwen2",
    "falcon": "Falcon",
    "stablelm": "StableLm",
}


@pytest.fixture
def file(tmp_path: Path) -> GgufFile:
    return read_gguf(write_tiny(tmp_path / "tiny.gguf", tiny_tensors()))


def config_of(architecture: str) -> dict[str, Any]:
    found: dict[str, Any] = getattr(transformers, f"{CONFIGS[architecture]}Config")().to_dict()
    return found


def saying(file: GgufFile, architecture: str, **keys: Any) -> GgufFile:
    own = {key.replace("llama.", f"{architecture}."): value for key, value in file.metadata.items()}
    more = {f"{architecture}.{key.replace('__', '.')}": value for key, value in keys.items()}
    return replace(file, metadata={**own, "general.architecture": architecture, **more})


@pytest.mark.parametrize(
    ("architecture", "keys", "place", "value"),
    [
        ("gemma2", {"attn_logit_softcapping": 10.0}, "attn_logit_softcapping", 10.0),
        ("gemma2", {"final_logit_softcapping": 7.0}, "final_logit_softcapping", 7.0),
        ("gemma2", {"attention__layer_norm_rms_epsilon": 1e-3}, "rms_norm_eps", 1e-3),
        ("phi3", {"attention__sliding_window": 16}, "sliding_window", 16),
        (
            "falcon",
            {"attention__layer_norm_epsilon": 1e-3, "attention__layer_norm_rms_epsilon": None},
            "layer_norm_epsilon",
            1e-3,
        ),
        ("stablelm", {"use_parallel_residual": True}, "use_parallel_residual", True),
        ("llama", {"attention__layer_norm_rms_epsilon": 1e-3}, "rms_norm_eps", 1e-3),
    ],
)
def test_a_number_is_put_where_transformers_reads_it(
    file: GgufFile, architecture: str, keys: dict[str, Any], place: str, value: Any
) -> None:
    config = config_of(architecture)
    assert config[place] != value
    found = with_numbers(config, saying(file, architecture, **keys))
    assert found == {**with_numbers(config, saying(file, architecture)), place: value}


@pytest.mark.parametrize(
    ("architecture", "keys"),
    [
        ("llama", {"attention__sliding_window": 16}),
        ("qwen2", {"attention__sliding_window": 16}),
        ("llama", {"final_logit_softcapping": 30.0}),
        ("llama", {"logit_scale": 0.0625}),
        ("llama", {"embedding_scale": 12.0}),
        ("llama", {"residual_scale": 0.22}),
        ("llama", {"attention__scale": 0.0078125}),
        ("llama", {"attention__clamp_kqv": 8.0}),
        ("qwen2", {"expert_weights_scale": 2.5}),
    ],
)
def test_a_number_without_a_place_is_refused_by_its_name(
    file: GgufFile, architecture: str, keys: dict[str, Any]
) -> None:
    [key] = keys
    with pytest.raises(
        ModelUnsupported, match=f"says {architecture}.{key.replace('__', '.')} .*would be wrong"
    ) as caught:
        with_numbers(config_of(architecture), saying(file, architecture, **keys))
    assert caught.value.hint == "convert the model again"  # llama.cpp does not read them either


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"attention__sliding_window": 0},
        {"attention__sliding_window": 128},
        {"logit_scale": 1.0, "embedding_scale": 1.0, "residual_scale": 1.0, "expert_weights_scale": 1.0},
        {"logit_scale": 0.0, "attention__clamp_kqv": 0.0, "final_logit_softcapping": 0.0},
        {"attention__scale": (WIDTH // HEADS) ** -0.5},
        {"use_parallel_residual": False},
        {"attention__layer_norm_rms_epsilon": 9.9999999747e-07},
    ],
)
def test_a_number_that_changes_nothing_changes_nothing(file: GgufFile, keys: dict[str, Any]) -> None:
    config = {**config_of("llama"), "rms_norm_eps": 1e-6}
    neutral = saying(file, "llama", **{"attention__layer_norm_rms_epsilon": 1e-6, **keys})
    assert with_numbers(config, neutral) == config


@pytest.mark.parametrize("backend", ["llamacpp", "transformers"])
@pytest.mark.parametrize("keys", [{"pooling_type": 1}, {"pooling_type": 4}])
def test_a_model_of_embeddings_is_refused_by_each_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, keys: dict[str, Any]
) -> None:
    pytest.importorskip("llama_cpp")
    monkeypatch.setenv("UNISONO_CACHE", str(tmp_path / "cache"))
    path = write_tiny(tmp_path / "tiny.gguf", tiny_tensors(), **keys)
    with pytest.raises(ModelUnsupported, match="makes embeddings, not text"):
        make_loader(backend, LoadRequest("m", ModelSource("gguf", str(path)), device="cpu")).facts()


@pytest.mark.parametrize(
    ("architecture", "keys", "sliding"),
    [
        ("gemma3", {"attention__sliding_window": 8}, None),
        ("gemma3", {}, [False, False, False]),
        ("gemma3", {"attention__sliding_window": 8, "attention__sliding_window_pattern": 2}, [True, False, True]),
        ("gemma3", {"attention__sliding_window": 8, "attention__sliding_window_pattern": 1}, [False, False, False]),
        ("gemma3", {"attention__sliding_window": 8, "attention__sliding_window_pattern": 0}, [True, True, True]),
        (
            "gemma3",
            {"attention__sliding_window": 8, "attention__sliding_window_pattern": np.array([False, True, True])},
            [False, True, True],
        ),
        ("gemma2", {}, None),  # llama.cpp's window is then 4,096, as transformers'
        ("gemma2", {"attention__sliding_window": 8, "attention__sliding_window_pattern": 3}, [True, True, False]),
        ("llama", {}, None),
    ],
    ids=str,
)
def test_layers_have_the_window_that_llama_cpp_gives_them(
    file: GgufFile, architecture: str, keys: dict[str, Any], sliding: list[bool] | None
) -> None:
    usual = ["sliding_attention", "full_attention", "full_attention"]
    config = {**config_of("gemma2"), "layer_types": usual, "num_hidden_layers": 3}
    found = with_numbers(config, saying(file, architecture, **keys))["layer_types"]
    kinds = {True: "sliding_attention", False: "full_attention"}
    assert found == (usual if sliding is None else [kinds[each] for each in sliding])


def test_a_file_of_which_transformers_would_order_keys_wrongly_is_refused(tmp_path: Path) -> None:
    whole = write_tiny(tmp_path / "whole.gguf", tiny_tensors())
    short = rewrite_gguf(whole, tmp_path / "short.gguf", metadata={"llama.attention.head_count_kv": None})
    with pytest.raises(ModelUnsupported, match=r"member 'm': .*does not say llama.attention.head_count_kv") as caught:
        make_loader("transformers", LoadRequest("m", ModelSource("gguf", str(short)), device="cpu")).facts()
    assert "backend: llamacpp" in str(caught.value.hint)
