"""A member's weights are complete and are those of its files, or loading fails and names what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

from support.tiny_models import COMMON, CONFIGS, save_model, save_tiny  # noqa: E402
from unisono.backends.base import LoadRequest, ModelSource  # noqa: E402
from unisono.backends.transformers.loader import TransformersLoader  # noqa: E402
from unisono.errors import ModelCorrupt, ModelNotFound, ModelUnsupported  # noqa: E402

Weights = dict[str, Any]


def loader(place: Path, kind: Any = "folder") -> TransformersLoader:
    return TransformersLoader(LoadRequest(name="m", source=ModelSource(kind, str(place)), device="cpu", context=64))


def load(place: Path, kind: Any = "folder") -> Any:
    return loader(place, kind).load(lambda fraction, words: None)


def rewritten(folder: Path, change: Callable[[Weights], object]) -> Path:
    file = folder / "model.safetensors"
    weights = safetensors_torch.load_file(file)
    change(weights)
    safetensors_torch.save_file(weights, file, metadata={"format": "pt"})
    return folder


def without(*parts: str) -> Callable[[Weights], None]:
    def change(weights: Weights) -> None:
        gone = [name for name in weights if any(part in name for part in parts)]
        assert gone
        for name in gone:
            del weights[name]

    return change


def cut_rows(name: str) -> Callable[[Weights], None]:
    return lambda weights: weights.update({name: weights[name][:-1].clone()})


@pytest.mark.parametrize(
    ("kind", "part", "count", "first"),
    [
        ("llama", "layers.1.", 9, r"model\.layers\.1\.input_layernorm\.weight"),
        ("llama", "lm_head", 1, r"lm_head\.weight"),
        ("llama", "model.norm", 1, r"model\.norm\.weight"),
        ("qwen2", "k_proj.bias", 3, r"model\.layers\.0\.self_attn\.k_proj\.bias"),
        ("gemma3", "embed_tokens", 1, r"model\.embed_tokens\.weight"),
        ("gpt2", "ln_f", 2, r"transformer\.ln_f\.bias"),
        ("bloom", "word_embeddings.weight", 1, r"transformer\.word_embeddings\.weight"),
    ],
)
def test_weights_that_a_folder_lacks_are_named(tmp_path: Path, kind: str, part: str, count: int, first: str) -> None:
    folder = rewritten(save_tiny(tmp_path, kind), without(part))
    with pytest.raises(ModelCorrupt, match=rf"member 'm' .* lacks {count} of the weights: {first}") as caught:
        load(folder)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("llama", "model.embed_tokens.weight"),
        ("gemma3", "model.layers.2.mlp.up_proj.weight"),
        ("gpt2", "transformer.ln_f.bias"),
    ],
)
def test_weights_of_another_shape_are_refused(tmp_path: Path, kind: str, name: str) -> None:
    folder = rewritten(save_tiny(tmp_path, kind), cut_rows(name))
    with pytest.raises(ModelCorrupt, match=rf"other shapes .*1 of the weights: {name}; .* is \d+.*, not \d+"):
        load(folder)


def test_an_expert_that_is_missing_is_refused(tmp_path: Path) -> None:
    config = transformers.MixtralConfig(**COMMON, num_local_experts=4, num_experts_per_tok=2)
    torch.manual_seed(1)
    folder = save_model(tmp_path, transformers.MixtralForCausalLM(config))
    load(folder)
    names = safetensors_torch.load_file(folder / "model.safetensors")
    one = next(name for name in names if "experts.2." in name)
    with pytest.raises(ModelCorrupt, match=r"1 of the weights: model\.layers\.0\.mlp\.experts\."):
        load(rewritten(folder, without(one)))


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "llama")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="40KB")
    parts = sorted(folder.glob("model-*.safetensors"))
    assert len(parts) > 2
    load(folder)
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    parts[1].unlink()
    with pytest.raises(ModelNotFound, match=f"part 2 of {len(parts)} of the weights is missing: .*{parts[1].name}"):
        load(folder)
    assert any("part 2 of" in warning for warning in loader(folder).facts().warnings)
    model.save_pretrained(folder, max_shard_size="40KB")
    del content["weight_map"]["lm_head.weight"]  # it has a part to itself
    index.write_text(json.dumps(content))
    with pytest.raises(ModelCorrupt, match=r"lacks 1 of the weights: lm_head\.weight"):
        load(folder)


@pytest.mark.parametrize("extra", ["model.layers.3.mlp.up_proj.weight", "vision.patch.weight", "mtp.fc.weight"])
def test_weights_that_nothing_reads_are_said(tmp_path: Path, extra: str) -> None:
    folder = rewritten(save_tiny(tmp_path, "llama"), lambda weights: weights.update({extra: torch.zeros(3, 3)}))
    [warning] = load(folder).facts.warnings
    assert warning == f"its files hold weights that are not read, 1 of the weights: {extra}"


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_whole_weights_give_no_warning(tmp_path: Path, kind: str) -> None:
    made = loader(save_tiny(tmp_path, kind))
    made.tokenizer()
    assert made.facts().warnings == ()
    assert made.load(lambda fraction, words: None).facts.warnings == ()


def test_parameters_that_transformers_lets_be_missing_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pattern of the model's class hides the name from what is reported; the weight would be random."""
    folder = rewritten(save_tiny(tmp_path, "llama"), without("layers.2.mlp.down_proj"))
    monkeypatch.setattr(transformers.LlamaForCausalLM, "_keys_to_ignore_on_load_missing", [r"down_proj"])
    with pytest.raises(ModelCorrupt, match=r"lacks 1 of the weights: model\.layers\.2\.mlp\.down_proj\.weight"):
        load(folder)


@pytest.mark.parametrize("name", ["qweight", "weight_packed", "trellis"])
def test_quantised_weights_that_nothing_unpacks_are_refused_as_such(tmp_path: Path, name: str) -> None:
    def pack(weights: Weights) -> None:
        weights[f"model.layers.0.mlp.up_proj.{name}"] = weights.pop("model.layers.0.mlp.up_proj.weight")

    folder = rewritten(save_tiny(tmp_path, "llama"), pack)
    with pytest.raises(ModelUnsupported, match=rf"holds quantised weights in their place \(.*up_proj\.{name}\)"):
        load(folder)
