"""Positions that a GGUF file scales are scaled by both backends, or the model is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gguf")
pytest.importorskip("llama_cpp")
pytest.importorskip("transformers")

from support.tiny_gguf import HEADS, LAYERS, WIDTH, tiny_tensors, write_tiny
from unisono.backends.base import Feed, LoadRequest, ModelSource
from unisono.backends.gguf_parts import read_gguf
from unisono.backends.registry import make_loader
from unisono.backends.transformers.gguf_config import completed
from unisono.errors import ModelCorrupt, ModelUnsupported

HALF = WIDTH // HEADS // 2
TEXT = [(7 * n) % 250 for n in range(60)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNISONO_CACHE", str(tmp_path / "cache"))


def rows(path: Path, backend: str) -> Any:
    request = LoadRequest(
        "m", ModelSource("gguf", str(path)), device="cpu", context=64, threads=1,
        options={"cache_dtype": "f32", "flash_attention": False} if backend == "llamacpp" else {},
    )  # fmt: skip
    loaded = make_loader(backend, request).load(lambda fraction, words: None)
    try:
        assert loaded.facts.warnings == ()
        return np.array(loaded.advance([Feed(loaded.open(), TEXT, 20)]))
    finally:
        loaded.unload()


def factors(seed: int = 1) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).uniform(1, 8, HALF).astype(np.float32)


def tensors(**more: Any) -> dict[str, Any]:
    return {**{f"{name}.weight": values for name, values in more.items()}, **tiny_tensors()}


def biased() -> dict[str, Any]:
    draw = np.random.default_rng(3)
    names = [f"blk.{layer}.attn_{each}.bias" for layer in range(LAYERS) for each in "qkv"]
    return tensors() | {name: draw.standard_normal(WIDTH).astype(np.float32) for name in names}


YARN: dict[str, Any] = {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0}
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("llama", tensors(rope_freqs=factors()), {}),
    ("llama", tensors(rope_freqs=factors()), {"rope__scaling__factor": 2.0}),
    ("llama", tensors(), {"rope__scaling__type": "linear", "rope__scaling__factor": 4.0}),
    ("llama", tensors(), {"rope__scale_linear": 4.0}),
    ("llama", tensors(), {"rope__scaling__type": "none", "rope__scaling__factor": 4.0}),
    ("llama", tensors(), {"rope__freq_base": 500.0}),
    (
        "llama",
        tensors(),
        YARN | {"rope__scaling__original_context_length": 32},
    ),
    (
        "qwen2",
        biased(),
        YARN | {"rope__scaling__factor": 8.0, "rope__scaling__yarn_beta_fast": 16.0},
    ),
    (
        "llama",
        tensors(rope_factors_long=factors(2), rope_factors_short=factors(3)),
        {
            "rope__scaling__type": "longrope",
            "rope__scaling__attn_factor": 1.25,
            "rope__scaling__original_context_length": 256,
        },
    ),
]


@pytest.mark.parametrize(("architecture", "weights", "keys"), CASES)
def test_both_backends_scale_positions_alike(
    tmp_path: Path, architecture: str, weights: dict[str, Any], keys: dict[str, Any]
) -> None:
    path = write_tiny(tmp_path / "scaled.gguf", weights, architecture=architecture, **keys)
    expected, found = (rows(path, backend) for backend in ("llamacpp", "transformers"))
    plain = {name: values for name, values in weights.items() if not name.startswith("rope_")}
    other = rows(write_tiny(tmp_path / "plain.gguf", plain, architecture=architecture), "llamacpp")
    scale = expected.std()
    assert abs(found - expected).max() < 2e-3 * scale
    assert (abs(other - expected).max() > 0.05 * scale) == (keys.get("rope__scaling__type") != "none")


@pytest.mark.parametrize(
    ("weights", "keys", "error", "words"),
    [
        (tensors(rope_freqs=factors()[1:]), {}, ModelCorrupt, "7 factors of positions in rope_freqs.weight, not 8"),
        (tensors(), YARN | {"rope__scaling__yarn_ext_factor": 0.5}, ModelUnsupported, "by yarn with yarn_ext_factor"),
        (tensors(rope_freqs=factors()), YARN, ModelUnsupported, "by yarn and more"),
        (tensors(), {"rope__scaling__attn_factor": 1.5}, ModelUnsupported, "by linear and more"),
    ],
)
def test_positions_that_transformers_cannot_scale_are_refused_by_name(
    tmp_path: Path, weights: dict[str, Any], keys: dict[str, Any], error: type[Exception], words: str
) -> None:
    path = write_tiny(tmp_path / "odd.gguf", weights, **keys)
    with pytest.raises(error, match=words) as caught:
        rows(path, "transformers")
    assert "odd.gguf" in str(caught.value)
    assert getattr(caught.value, "hint", None)


def of_file(architecture: str, **keys: Any) -> Any:
    """A file's metadata alone."""

    def read(tmp_path: Path, **more: Any) -> Any:
        path = write_tiny(tmp_path / "a.gguf", tensors(**more), architecture=architecture, **keys)
        return replace(read_gguf(path))

    return read


COMMON = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "max_position_embeddings": 128}
LAYERED = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    "full_attention": {"rope_type": "default", "rope_theta": 1e6},
}


def test_layers_with_a_window_keep_their_positions(tmp_path: Path) -> None:
    based = {"rope__freq_base": 1e6, "rope__scaling__type": "linear"}
    file = of_file("gemma3", rope__scaling__factor=8.0, **based)(tmp_path)
    rope = completed({**COMMON, "rope_parameters": LAYERED}, file)["rope_parameters"]
    assert rope["sliding_attention"] == LAYERED["sliding_attention"]
    assert rope["full_attention"] == {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}
    file = of_file("gemma3", rope__scaling__type="yarn", rope__scaling__factor=8.0)(tmp_path)
    with pytest.raises(ModelUnsupported, match="some of its layers by yarn"):
        completed({**COMMON, "rope_parameters": LAYERED}, file)


def test_a_part_of_a_head_that_rotates_is_the_file_s(tmp_path: Path) -> None:
    file = of_file("phi3", rope__dimension_count=12)(tmp_path)
    rope = {"rope_type": "default", "rope_theta": 1e4}
    found = completed({**COMMON, "rope_parameters": rope | {"partial_rotary_factor": 1.0}}, file)["rope_parameters"]
    assert found["partial_rotary_factor"] == 0.75
    with pytest.raises(ModelUnsupported, match="rotates 12 of the 16 numbers of a head"):
        completed({**COMMON, "rope_parameters": rope}, file)


def test_what_a_file_does_not_say_of_positions_is_as_in_llama_cpp(tmp_path: Path) -> None:
    """And not as in the models after which transformers has its defaults."""
    whole = {**COMMON, "head_dim": WIDTH // HEADS, "rope_parameters": LAYERED, "query_pre_attn_scalar": 256}
    found = completed(whole, of_file("gemma3")(tmp_path))
    assert found["rope_parameters"]["full_attention"]["rope_theta"] == 10_000
    assert found["query_pre_attn_scalar"] == WIDTH // HEADS
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}
    file = of_file("phi3")(tmp_path)
    unsaid = replace(file, metadata={k: v for k, v in file.metadata.items() if not k.endswith("dimension_count")})
    assert completed({**COMMON, "rope_parameters": rope}, unsaid)["rope_parameters"]["partial_rotary_factor"] == 1


def test_frequencies_of_zero_are_those_of_the_configuration(tmp_path: Path) -> None:
    layered = LAYERED | {"full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25}}
    values = np.array([1.0] * 4 + [1e30] * 12, np.float32)
    assert completed({**COMMON, "rope_parameters": layered}, of_file("gemma4")(tmp_path, rope_freqs=values))
    values[5] = 1.0
    with pytest.raises(ModelUnsupported, match="gemma4"):
        completed({**COMMON, "rope_parameters": layered}, of_file("gemma4")(tmp_path, rope_freqs=values))
