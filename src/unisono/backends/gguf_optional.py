"""Weights that llama.cpp does without in silence, though a GGUF model of its architecture has them."""

from __future__ import annotations

import json
from typing import Any

from unisono.backends.gguf import GgufFile
from unisono.backends.weight_files import named
from unisono.user_files import DOCUMENT, read_bytes

BIASED = {
    **dict.fromkeys(("qwen2", "qwen2vl", "dream", "phi2"), True),
    **dict.fromkeys(("qwen2moe", "gpt-oss", "starcoder2", "codeshell", "chatglm"), False),
    **dict.fromkeys(("seed_oss", "pangu-embedded", "jais2"), False),
}
"""Architectures whose queries, keys and values have biases: always, or where the original configuration wants them."""
GATED_WITH_BIAS = ("deepseek2", "dots1", "glm4moe", "bailingmoe2")
"""Architectures that choose experts by sigmoids with a bias, ``exp_probs_b.bias``."""
SIGMOID = 2
UNTIED = ("qwen3moe", "llama4", "glm4", "glm4moe", "seed_oss", "deci", "deepseek2", "dream", "chatglm")
"""Architectures whose published models all have an output layer of their own."""
UNTIED_FROM = {"llama": 4096, "qwen2": 3584, "qwen3": 4096}
"""The width from which the published models of an architecture have an output layer of their own."""
LOW_FILE_TYPES = {10: 10, 11: 11, 12: 11, 13: 11, 14: 12, 15: 12, 16: 13, 17: 13}
"""By ``general.file_type`` (Q2_K to Q5_K_M): the format of most weights, which the output layer never has."""
LONGEST_BEFORE_SCALING = 131_072


def lacking_in_all(file: GgufFile) -> list[str]:
    """Weights that no layer has, or the model as a whole, and that a model of this architecture always has."""
    found = _biases(file) if BIASED.get(file.architecture) else []
    if file.text(f"{file.architecture}.rope.scaling.type") == "longrope":
        names = (f"rope_factors_{length}.weight" for length in ("long", "short"))
        found += [name for name in names if not any(each.endswith(name) for each in file.shapes)]
    if _has_no_output(file) and _config_beside(file).get("tie_word_embeddings") is False:
        found.append("output.weight")
    if _has_no_experts(file):
        found += ["blk.*.ffn_gate_inp.weight", "blk.*.ffn_*_exps.weight"]
    return found


def _has_no_experts(file: GgufFile) -> bool:
    """Whether a file speaks of several experts and holds no weight of one."""
    several = (file.number(f"{file.architecture}.expert_count") or 0) > 1
    return several and bool(file.shapes) and not any("_exps" in name or "ffn_gate_inp" in name for name in file.shapes)


def perhaps_lacking(file: GgufFile) -> list[tuple[str, str]]:
    """Weights that a model of this architecture mostly has, and why they are missed."""
    found = []
    if BIASED.get(file.architecture) is False and (biases := _biases(file)):
        found.append((named(biases), f"which models of the architecture {file.architecture} have"))
    if _chooses_by_sigmoids(file) and not any("exp_probs_b" in name for name in file.shapes):
        found.append(("blk.*.exp_probs_b.bias", "by which models that choose experts by sigmoids correct the choice"))
    if _is_older_than_its_scaling(file):
        found.append(("rope_freqs.weight", "which Llama 3.1 and later need, and older converters left out"))
    if reason := _sign_of_an_output(file):
        found.append(("output.weight", f"so that its embeddings serve as its output layer, too, and {reason}"))
    return found


def _biases(file: GgufFile) -> list[str]:
    """The biases of queries, keys and values, where no layer has them. They may be in one, as the weights may."""
    parts = [name.split(".", 2) for name in file.shapes if name.startswith("blk.") and name.count(".") > 2]
    kinds = {rest for _, _, rest in parts}
    wanted = ("attn_q", "attn_k", "attn_v") if "attn_q.weight" in kinds else ("attn_qkv",)
    if "attn_qkv.bias" in kinds:
        return []
    layers = sorted({int(layer) for _, layer, rest in parts if rest == f"{wanted[0]}.weight"})
    return [f"blk.{layer}.{each}.bias" for layer in layers for each in wanted if f"{each}.bias" not in kinds]


def _chooses_by_sigmoids(file: GgufFile) -> bool:
    return file.architecture in GATED_WITH_BIAS and file.number(f"{file.architecture}.expert_gating_func") == SIGMOID


def _is_older_than_its_scaling(file: GgufFile) -> bool:
    """Whether a file has the numbers of Llama 3.1 and not the factors of its positions."""
    base = file.metadata.get("llama.rope.freq_base")
    length = file.number("llama.context_length") or 0
    scaled = file.metadata.get("llama.rope.scaling.factor") is not None
    factors = any("rope_freqs" in name or "rope_factors" in name for name in file.shapes)
    return bool(file.shapes) and base == 500_000 and length >= LONGEST_BEFORE_SCALING and not (scaled or factors)


def _sign_of_an_output(file: GgufFile) -> str | None:
    """Why a model without an output layer probably has lost it."""
    if not _has_no_output(file):
        return None
    architecture, place = file.architecture, file.places["token_embd.weight"]
    width = file.number(f"{architecture}.embedding_length") or 0
    if architecture in UNTIED:
        return f"no published model of the architecture {architecture} is made so"
    if width >= UNTIED_FROM.get(architecture, width + 1):
        return f"published {architecture} models of its width, {width:,}, are not made so"
    if place.kind == LOW_FILE_TYPES.get(file.number("general.file_type") or 0):
        return "they have the number format that embeddings have beside an output layer"
    return None


def _has_no_output(file: GgufFile) -> bool:
    return "token_embd.weight" in file.shapes and "output.weight" not in file.shapes


def _config_beside(file: GgufFile) -> dict[str, Any]:
    """The ``config.json`` in a file's folder, where it is of a model of this size; else nothing."""
    try:
        content = json.loads(read_bytes(file.path.parent / "config.json", DOCUMENT))
        text = content.get("text_config") or content
        sizes = [text.get("hidden_size"), text.get("num_hidden_layers")]
    except (OSError, ValueError, AttributeError):
        return {}
    own = [file.number(f"{file.architecture}.{key}") for key in ("embedding_length", "block_count")]
    return {**text, **{key: content[key] for key in ("tie_word_embeddings",) if key in content}} if sizes == own else {}
