"""llama.cpp's adapters: each slot has its own, as if it were merged, and what does not fit is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llama_cpp")
gguf = pytest.importorskip("gguf")

from support.tiny_gguf import tiny_tensors, write_tiny  # noqa: E402
from unisono.backends.base import Feed, LoadRequest, ModelSource  # noqa: E402
from unisono.backends.llamacpp.loader import LlamaCppLoader  # noqa: E402
from unisono.errors import ModelUnsupported  # noqa: E402

IDS = [72, 101, 108, 108, 111, 44]
TARGETS = ("attn_q.weight", "ffn_down.weight")
RANK, ALPHA = 2, 4.0


def write_adapter(
    path: Path, seed: int, *, architecture: str = "llama", kind: str = "adapter", extra: str = "", base: str = ""
) -> Path:
    """An adapter of the tiny model, in llama.cpp's form."""
    writer, draw = gguf.GGUFWriter(path, architecture), np.random.default_rng(seed)
    writer.add_type(kind)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", ALPHA)
    if base:
        writer.add_string("general.base_model.0.name", base)
    for name, weight in tiny_tensors().items():
        if name.endswith(TARGETS):
            for half, shape in (("a", (RANK, weight.shape[1])), ("b", (weight.shape[0], RANK))):
                writer.add_tensor(f"{extra}{name}.lora_{half}", (draw.standard_normal(shape) * 0.4).astype(np.float32))
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
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_before_weights_are_loaded(
    tmp_path: Path, keys: dict[str, Any], words: str
) -> None:
    base = write_tiny(tmp_path / "t.gguf", tiny_tensors())
    with pytest.raises(ModelUnsupported, match=words) as refusal:
        loader(base, write_adapter(tmp_path / "a.gguf", 1, **keys)).facts()
    assert "member 'm'" in refusal.value.message


@pytest.mark.parametrize(("base", "words"), [("", "does not say which model it was trained on"), ("Tiny Llama", "")])
def test_the_base_is_looked_at_by_its_name(tmp_path: Path, base: str, words: str) -> None:
    model = write_tiny(tmp_path / "tiny-llama.f32.gguf", tiny_tensors())
    warnings = loader(model, write_adapter(tmp_path / "a.gguf", 1, base=base)).facts().warnings
    assert [words in each for each in warnings if "adapter" in each] == ([True] if words else [])
