"""llama.cpp's adapters: each slot has its own, as if it were merged, and what does not fit is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llama_cpp")
gguf = pytest.importorskip("gguf")

from support.tiny_gguf import tiny_tensors, write_tiny  # noqa: E402
from unisono.backends.base import Feed, LoadRequest, ModelSource  # noqa: E402
from unisono.backends.llamacpp.loader import LlamaCppLoader  # noqa: E402
from unisono.backends.registry import check_adapter_files  # noqa: E402
from unisono.errors import ModelCorrupt, ModelUnsupported  # noqa: E402

IDS = [72, 101, 108, 108, 111, 44]
TARGETS = ("attn_q.weight", "ffn_down.weight")
RANK, ALPHA = 2, 4.0


def write_adapter(
    path: Path,
    seed: int,
    *,
    architecture: str = "llama",
    kind: str = "adapter",
    extra: str = "",
    base: str = "",
    alpha: float | None = ALPHA,
    change: Callable[[str, np.ndarray[Any, Any]], np.ndarray[Any, Any] | None] = lambda name, values: values,
) -> Path:
    """An adapter of the tiny model, in llama.cpp's form; ``change`` is of its tensors, by name."""
    writer, draw = gguf.GGUFWriter(path, architecture), np.random.default_rng(seed)
    writer.add_type(kind)
    writer.add_string("adapter.type", "lora")
    if alpha is not None:
        writer.add_float32("adapter.lora.alpha", alpha)
    if base:
        writer.add_string("general.base_model.0.name", base)
    for name, weight in tiny_tensors().items():
        if name.endswith(TARGETS):
            for half, shape in (("a", (RANK, weight.shape[1])), ("b", (weight.shape[0], RANK))):
                full = f"{extra}{name}.lora_{half}"
                if (values := change(full, (draw.standard_normal(shape) * 0.4).astype(np.float32))) is not None:
                    writer.add_tensor(full, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def merged(seed: int) -> dict[str, np.ndarray[Any, Any]]:
    tensors, draw = tiny_tensors(), np.random.default_rng(seed)
    for name, weight in tiny_tensors().items():
        if name.endswith(TARGETS):
            a, b = (draw.standard_normal(shape) * 0.4 for shape in ((RANK, weight.shape[1]), (weight.shape[0], RANK)))
            tensors[name] = (weight + ALPHA / RANK * (b @ a)).astype(np.float32)
    return tensors


def loader(path: Path, *adapters: Path) -> LlamaCppLoader:
    source, options = ModelSource("gguf", str(path)), {"cache_dtype": "f32"}
    names = tuple(map(str, adapters))
    return LlamaCppLoader(LoadRequest("m", source, context=64, slots=5, threads=1, options=options, adapters=names))


def load(path: Path, *adapters: Path) -> Any:
    return loader(path, *adapters).load(lambda fraction, words: None)


def test_slots_have_their_adapters_in_one_pass(tmp_path: Path) -> None:
    base, adapters = write_tiny(tmp_path / "t.gguf", tiny_tensors()), {}
    expected = {}
    for name, seed in ((None, None), ("one", 1), ("two", 2)):
        path = base if seed is None else write_tiny(tmp_path / f"merged-{name}.gguf", merged(seed))
        alone = load(path)
        expected[name] = alone.advance([Feed(alone.open(), IDS, len(IDS))]).copy()
        alone.unload()
        if seed is not None:
            adapters[name] = write_adapter(tmp_path / f"{name}.gguf", seed)
    assert np.abs(expected["one"] - expected["two"]).max() > 0.1
    backend = load(base, *adapters.values())
    slots = {name: backend.open() if name is None else backend.open(adapter=str(adapters[name])) for name in expected}
    for start, length in ((0, 3), (3, 1), (4, 2)):
        order = list(slots) if start != 3 else list(slots)[::-1]
        found = backend.advance([Feed(slots[name], IDS[start : start + length], length) for name in order])
        wanted = np.concatenate([expected[name][start : start + length] for name in order])
        np.testing.assert_allclose(found, wanted, atol=2e-3)
    copy = backend.open(slots["two"])
    backend.rewind(copy, 5)
    np.testing.assert_allclose(backend.advance([Feed(copy, IDS[5:])]), expected["two"][5:], atol=2e-3)
    with pytest.raises(ValueError, match="not among the model's"):
        backend.advance([Feed(slots[None], [1]), Feed(slots["one"], [10**6])])
    assert backend.advance([Feed(slots["one"], [1])]).shape[0] == 1
    backend.unload()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"architecture": "gemma"}, "is of the architecture gemma, and the model of llama"),
        ({"kind": "model"}, "and no LoRA"),
        ({"base": "Other 7B"}, "was trained on 'Other 7B', and the model is "),
        ({"extra": "x."}, "is for x.blk.0.attn_q.weight.lora_a, .*which the model does not have"),
        (
            {"change": lambda name, its: its[:, :-1] if name == "blk.1.attn_q.weight.lora_a" else its},
            "has 31 × 2 and 2 × 32 for blk.1.attn_q.weight, which is 32 × 32",
        ),
        ({"change": lambda name, its: its.reshape(-1)}, "halves of blk.0.attn_q.weight that are no matrices"),
    ],
)
def test_what_does_not_fit_is_refused_before_weights_are_loaded(
    tmp_path: Path, keys: dict[str, Any], words: str
) -> None:
    base = write_tiny(tmp_path / "t.gguf", tiny_tensors())
    with pytest.raises(ModelUnsupported, match=words) as refusal:
        loader(base, write_adapter(tmp_path / "a.gguf", 1, **keys)).facts()
    assert "member 'm'" in refusal.value.message


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"change": lambda name, its: None}, "holds no weights"),
        ({"change": lambda name, its: its if name.endswith("a") else None}, "holds one half of"),
        ({"alpha": float("nan")}, "has adapter.lora.alpha nan"),
    ],
)
def test_an_adapter_that_is_not_whole_is_refused_without_its_model(
    tmp_path: Path, keys: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelCorrupt, match=words) as refusal:
        check_adapter_files("llamacpp", "m", str(write_adapter(tmp_path / "a.gguf", 1, **keys)))
    assert "member 'm'" in refusal.value.message


def test_embeddings_that_are_the_output_layer_too_cannot_be_changed(tmp_path: Path) -> None:
    """llama.cpp multiplies with their halves as with those of a layer, and ends the process over their shapes."""
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    rows, width = tiny_tensors()["token_embd.weight"].shape
    for half, shape in (("a", (rows, RANK)), ("b", (width, RANK))):
        writer.add_tensor(f"token_embd.weight.lora_{half}", np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelUnsupported, match=r"changes token_embd\.weight, which is the model's output layer, too"):
        loader(write_tiny(tmp_path / "t.gguf", tiny_tensors()), tmp_path / "a.gguf").facts()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"alpha": None}, "does not say its alpha"),
        ({"alpha": 0.0}, "has alpha 0"),
        ({"change": lambda name, its: its * name.endswith("a")}, "changes nothing"),
        ({}, ""),
    ],
)
def test_what_may_not_be_meant_is_said(tmp_path: Path, keys: dict[str, Any], words: str) -> None:
    model = write_tiny(tmp_path / "tiny-llama.gguf", tiny_tensors())
    adapter = write_adapter(tmp_path / "a.gguf", 1, base="Tiny Llama", **keys)
    warnings = [each for each in loader(model, adapter).facts().warnings if "adapter" in each]
    assert [words in each for each in warnings] == ([True] if words else [])


@pytest.mark.parametrize(("base", "words"), [("", "does not say which model it was trained on"), ("Tiny Llama", "")])
def test_the_base_is_looked_at_by_its_name(tmp_path: Path, base: str, words: str) -> None:
    model = write_tiny(tmp_path / "tiny-llama.f32.gguf", tiny_tensors())
    warnings = loader(model, write_adapter(tmp_path / "a.gguf", 1, base=base)).facts().warnings
    assert [words in each for each in warnings if "adapter" in each] == ([True] if words else [])
