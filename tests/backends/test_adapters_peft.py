"""PEFT as the oracle: what it trains and saves, each member writes as PEFT's own `generate` does, id for id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from support.demo import written  # noqa: E402
from support.tiny_models import generated_by, save_tiny  # noqa: E402
from unisono.build import prepare  # noqa: E402
from unisono.chat.messages import Prompt  # noqa: E402
from unisono.config.ensemble import load_spec  # noqa: E402
from unisono.config.method import Method  # noqa: E402
from unisono.loaded_models import load_models  # noqa: E402

TEXTS = ("Hello", "Why is it so?")
CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "stabilised": {"r": 3, "lora_alpha": 5, "target_modules": "all-linear", "use_rslora": True},
    "patterned": {
        "r": 4,
        "target_modules": r".*layers\.[01]\.(self_attn|mlp)\.(k_proj|up_proj)",
        "rank_pattern": {"up_proj": 2},
        "alpha_pattern": {r"layers\.1\.mlp\.up_proj": 16},
    },
    "some layers": {"r": 2, "target_modules": ["o_proj", "gate_proj"], "layers_to_transform": [0, 2]},
    "output layer": {"r": 2, "target_modules": ["lm_head", "v_proj"]},
    "all but one": {"r": 2, "target_modules": ["q_proj", "o_proj"], "exclude_modules": ["layers.1.self_attn.q_proj"]},
}


def save_adapter(base: Path, folder: Path, seed: int, **config: Any) -> Path:
    """Save an adapter as PEFT does, with weights that change what is written."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **config))
    with torch.no_grad():
        for name, each in adapted.named_parameters():
            if "lora_" in name:
                each.copy_(torch.randn_like(each) * 0.4)
    adapted.save_pretrained(folder)
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    return folder


@pytest.mark.filterwarnings("ignore:Setting .save_embedding_layers. to .True.:UserWarning")  # of an output layer
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # which PEFT asks for
def test_each_alone_writes_what_pefts_generate_writes(tmp_path: Path) -> None:
    """Law 1: adapters of several kinds over one base, and the base itself, each as its library has it."""
    base = save_tiny(tmp_path / "some-base", "llama")
    adapters = {
        name.replace(" ", "-"): save_adapter(base, tmp_path / name, seed, **config)
        for seed, (name, config) in enumerate(CONFIGS.items())
    }
    owner = {"name": "base", "model": str(base), "backend": "transformers"}
    others = [{"name": n, "share_weights_with": "base", "adapter": str(its)} for n, its in adapters.items()]
    prepared = prepare(load_spec({"members": [owner, *others]}), batch=2)
    found = set()
    with load_models([prepared]) as models:
        for member in prepared.members:
            oracle: Any = transformers.AutoModelForCausalLM.from_pretrained(base, dtype="float32").eval()
            if member.adapter is not None:
                oracle = peft.PeftModel.from_pretrained(oracle, member.adapter).eval()
            engine = models.engine(prepared.alone(member.spec.name))
            texts = written(engine, [Prompt(text=text) for text in TEXTS], 12, 2, Method())
            expected = [generated_by(oracle, member, text, 12) for text in TEXTS]
            assert [b"".join(step.piece or b"" for step in text.steps) for text in texts] == expected
            found.add(str(expected))
    assert len(found) == len(CONFIGS) + 1
