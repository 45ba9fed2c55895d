"""Numbers of a GGUF file that change what its model computes, and that transformers' reader leaves out.

Its table of keys has gaps: soft caps, Phi-3's window, and epsilons by their other name. Each is put into the
configuration, or the file is refused where transformers has no place for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from unisono.backends.gguf import GgufFile
from unisono.backends.transformers.failures import LLAMACPP_HINT
from unisono.errors import ModelUnsupported

EPSILONS = ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", "norm_eps")
EPSILON_KEYS = ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon")
WINDOW = "attention.sliding_window"
PLACES: Mapping[str, str | None] = {
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "logit_scale": "logit_scale",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "attention.scale": "attention_multiplier",
    "expert_weights_scale": "routed_scaling_factor",
    "use_parallel_residual": "use_parallel_residual",
    "attention.clamp_kqv": None,
}
"""By the file's key, that of transformers' configurations; ``None`` where no model that it reads has one."""
NEUTRAL: Mapping[str, tuple[float, ...]] = {
    "logit_scale": (1.0,),
    "embedding_scale": (1.0,),
    "residual_scale": (1.0,),
    "expert_weights_scale": (1.0,),
}
"""Values that change nothing, beside zero, which stands for none."""


def with_numbers(config: dict[str, Any], file: GgufFile) -> dict[str, Any]:
    """Return a configuration with a file's numbers. Raises a `ModelUnsupported` where one has no place there."""
    found = {**config, **_epsilons(config, file), **_window(config, file)}
    for key, place in PLACES.items():
        value = file.metadata.get(f"{file.architecture}.{key}")
        if not isinstance(value, bool | int | float) or _is_neutral(key, value, file):
            continue
        if place is None or place not in config:
            raise _unsupported(file, key, value)
        if not _same(config[place], value):
            found[place] = value
    return found


def _epsilons(config: Mapping[str, Any], file: GgufFile) -> dict[str, Any]:
    values = [file.metadata.get(f"{file.architecture}.{key}") for key in EPSILON_KEYS]
    value = next((each for each in values if isinstance(each, float)), None)
    return {} if value is None else {key: value for key in EPSILONS if key in config and not _same(config[key], value)}


def _window(config: Mapping[str, Any], file: GgufFile) -> dict[str, Any]:
    window, context = (file.number(f"{file.architecture}.{key}") for key in (WINDOW, "context_length"))
    if not window or config.get("sliding_window") == window or (context is not None and window >= context):
        return {}
    kinds = config.get("layer_types")
    if "sliding_window" not in config or (kinds is not None and "sliding_attention" not in kinds):
        raise _unsupported(file, WINDOW, window)
    return {"sliding_window": window}


def _is_neutral(key: str, value: float, file: GgufFile) -> bool:
    if key == "attention.scale":
        heads, width = (
            file.number(f"{file.architecture}.{each}") for each in ("attention.head_count", "embedding_length")
        )
        size = file.number(f"{file.architecture}.attention.key_length") or (width or 0) // (heads or 1)
        return not value or (size > 0 and math.isclose(value, size**-0.5, rel_tol=1e-4))
    return not value or any(_same(value, each) for each in NEUTRAL.get(key, ()))


def _same(value: object, other: float) -> bool:
    return isinstance(value, bool | int | float) and math.isclose(value, other, rel_tol=1e-6)


def _unsupported(file: GgufFile, key: str, value: float) -> ModelUnsupported:
    return ModelUnsupported(
        f"{file.path} says {file.architecture}.{key} {value:g}, which transformers does not read for "
        f"{file.architecture}: its text would be wrong",
        hint=LLAMACPP_HINT,
    )
