"""Adapters of tiny models, written by hand in PEFT's form, and the weights with which one is merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

TARGETS = ("q_proj", "v_proj", "down_proj")


def write_adapter(
    folder: Path, model: Any, seed: int, *, rank: int = 3, targets: tuple[str, ...] = TARGETS, **keys: Any
) -> Path:
    """Write a random adapter of a model's linear layers whose names end with a target; ``keys`` are of its file."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in model.named_modules():
        if name.endswith(targets):
            rows, columns = module.weight.shape if hasattr(module, "in_features") else module.weight.T.shape
            for half, shape in (("A", (rank, columns)), ("B", (rows, rank))):
                tensors[f"base_model.model.{name}.lora_{half}.weight"] = torch.randn(shape, generator=generator) * 0.4
    folder.mkdir(exist_ok=True)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": list(targets), "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config | keys))
    safetensors.torch.save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def merged(model: Any, adapter: Path, scale: float = 2.0) -> Any:
    """Add an adapter to a model's own weights: the oracle."""
    for name, half_a in safetensors.torch.load_file(adapter / "adapter_model.safetensors").items():
        if ".lora_A." in name:
            half_b = safetensors.torch.load_file(adapter / "adapter_model.safetensors")[name.replace("_A.", "_B.")]
            layer = model.get_submodule(name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
            more = scale * (half_b @ half_a)
            layer.weight.data += more if hasattr(layer, "in_features") else more.T
    return model
