"""Configurations of recurrent and hybrid models, a few thousand random weights each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.demo import written
from support.fakes import check
from support.methods import FixedDraftLength
from unisono.backends.base import Backend, Feed, Slot
from unisono.chat.messages import Prompt
from unisono.config.method import Method
from unisono.engine.engine import Engine
from unisono.engine.reference import plain_steps
from unisono.engine.sequence import TextSequence
from unisono.ensemble import Ensemble
from unisono.testing import alone, total_variation

IDS: dict[str, Any] = {"vocab_size": 264, "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 257}
BODY: dict[str, Any] = IDS | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
LINEAR: dict[str, Any] = BODY | {
    "head_dim": 8,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"] * 2,
}
CONV: dict[str, Any] = BODY | {"layer_types": ["conv", "full_attention"] * 2}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MAMBA: dict[str, Any] = IDS | {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
MAMBA2: dict[str, Any] = MAMBA | {"num_heads": 4, "head_dim": 16, "n_groups": 1}
HEADS: dict[str, Any] = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8}

RECURRENT: dict[str, tuple[str, dict[str, Any]]] = {
    "Mamba": ("MambaConfig", MAMBA),
    "Falcon-Mamba": ("FalconMambaConfig", MAMBA),
    "Mamba-2": ("Mamba2Config", MAMBA2),
    "RWKV": ("RwkvConfig", IDS | {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32}),
    "LFM2": ("Lfm2Config", CONV),
    "LFM2 with experts": ("Lfm2MoeConfig", CONV | EXPERTS),
    "Qwen3-Next": ("Qwen3NextConfig", LINEAR | EXPERTS),
    "Qwen3.5": ("Qwen3_5TextConfig", LINEAR),
    "OLMo hybrid": ("OlmoHybridConfig", LINEAR),
    "Granite 4": ("GraniteMoeHybridConfig", BODY | HEADS | {"layer_types": ["mamba", "attention"] * 2}),
    "Falcon-H1": ("FalconH1Config", BODY | HEADS | {"head_dim": 8, "mamba_d_ssm": 64, "mamba_chunk_size": 16}),
    "Jamba": (
        "JambaConfig",
        BODY
        | {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1}
        | {"expert_layer_period": 2, "expert_layer_offset": 1, "mamba_d_state": 8},
    ),
    "Bamba": ("BambaConfig", BODY | HEADS | {"attn_layer_indices": [1, 3]}),
    "Zamba": (
        "ZambaConfig",
        BODY
        | {"num_hidden_layers": 6, "attn_layer_period": 3, "attn_layer_offset": 1}
        | {"mamba_d_state": 8, "n_mamba_heads": 2},
    ),
}
"""Models that read a block after others as they read its tokens one by one, or are read token by token."""

STEPPED: dict[str, tuple[str, dict[str, Any]]] = {
    "Mamba-2 with limits": ("Mamba2Config", MAMBA2 | {"time_step_limit": [0.5, 1.0]}),
    "Zamba2": (
        "Zamba2Config",
        BODY
        | {"layers_block_type": ["mamba", "hybrid"] * 2, "num_mem_blocks": 1, "adapter_rank": 4}
        | {"num_key_value_heads": 4, "n_mamba_heads": 4, "mamba_headdim": 16, "mamba_ngroups": 1, "mamba_d_state": 8},
    ),
    "Nemotron-H": (
        "NemotronHConfig",
        BODY
        | {"layers_block_type": ["linear_attention", "mlp", "full_attention", "linear_attention"], "head_dim": 8}
        | {"mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 1, "ssm_state_size": 8},
    ),
}
"""Models whose block is another computation than its tokens: transformers bounds the time step in blocks alone."""


def config_of(name: str, keys: dict[str, Any]) -> Any:
    import transformers

    known = getattr(transformers, name, None)
    return known(**keys) if known else pytest.skip(f"transformers {transformers.__version__} has no {name}")


def save_recurrent(folder: Path, kind: str) -> Any:
    """Save a random model, the same each time, with a tokenizer of bytes; return it."""
    import torch
    import transformers

    from support.tiny_models import save_model

    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(config_of(*(RECURRENT | STEPPED)[kind])).float().eval()
    with torch.no_grad():
        for each in model.parameters():  # the usual start is so small that all tokens are alike
            each.copy_(torch.randn_like(each) * 0.3 if each.dim() > 1 else each)
    save_model(folder, model)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def try_slots(backend: Backend, turns: int, tolerance: float) -> Iterator[None]:
    """Read blocks of all sizes, rewind near and far, and copy copies: each row is what a fresh slot gives."""
    rng = np.random.default_rng(11)
    held: dict[Slot, list[int]] = {backend.open(): []}
    for turn in range(turns):
        slot = list(held)[rng.integers(len(held))]
        ids, act = held[slot], rng.integers(5)
        if act == 0 and len(held) < 3:
            held[backend.open(slot)] = list(ids)
        elif act == 1 and len(held) > 1:
            backend.close(slot)
            del held[slot]
        elif act == 2 and ids:
            length = max(0, len(ids) - int(rng.choice([1, 2, 5, 30])))
            backend.rewind(slot, length)
            del ids[length:]
        else:
            fed = list(held) if act == 3 else [slot]
            new = {each: rng.integers(0, 256, int(rng.choice([1, 1, 2, 5, 25]))).tolist() for each in fed}
            for each in fed:
                if len(held[each]) + len(new[each]) > 120:
                    backend.rewind(each, 0)
                    held[each].clear()
            found_NV = np.array(backend.advance([Feed(each, new[each], 1) for each in fed]))
            for row_V, each in zip(found_NV, fed, strict=True):
                held[each] += new[each]
                apart = total_variation(row_V, alone(backend, held[each])[0])
                assert apart < tolerance, (turn, len(held[each]), apart)
        yield


def check_gated(
    ensemble: Ensemble, texts: Sequence[str], gate: str, pieces: int
) -> Iterator[tuple[str, list[TextSequence]]]:
    """Hold gated texts of ``a``, which leads, and ``b`` to the plain loop: alone, in batches, and drafted.

    Yields each drafter with what was written with it.
    """
    engine, method = ensemble._engine, Method(lead="a").but(gate=gate)
    prompts = [Prompt(text=text) for text in texts]
    expected = [list(plain_steps(engine.members, engine.union, each, pieces, method)) for each in prompts]
    for size in (1, 4):
        check(written(engine, prompts, pieces, size, method), expected, ("a", "b"))
    for drafter in ("a:4", "b:4", "ngram:6"):
        drafting = Engine(engine.members, engine.union, draft_length=FixedDraftLength())
        drafted = written(drafting, prompts, pieces, 4, method.but(speculate=drafter))
        check(drafted, expected, ("a", "b"))
        yield drafter, drafted
