"""Numbers of a GGUF file that change what its model computes, and that transformers' reader leaves out.

Its table of keys has gaps: soft caps, Phi-3's window, and epsilons by their other name. Each is put into the
configuration, or the file is refused where transformers has no place for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from unisono.backends.gguf import GgufFile
from unisono.backends.gguf_stated import CLAMP, READ, SCALE, WINDOW, stated, stated_window
from unisono.backends.transformers.failures import LLAMACPP_HINT
from unisono.errors import ModelUnsupported

EPSILONS = ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", "norm_eps")
EPSILON_KEYS = ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon")
PATTERNED = ("gemma2", "gemma3")
"""Architectures that transformers reads and some of whose layers have a window."""
PARALLEL = "use_parallel_residual"
PLACES: Mapping[str, str | None] = {
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "logit_scale": "logit_scale",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    SCALE: "attention_multiplier",
    "expert_weights_scale": "routed_scaling_factor",
    PARALLEL: "use_parallel_residual",
    CLAMP: None,
}
"""By the file's key, that of transformers' configurations; ``None`` where no model that it reads has one."""


def with_numbers(config: dict[str, Any], file: GgufFile) -> dict[str, Any]:
    """Return a configuration with a file's numbers. Raises a `ModelUnsupported` where one has no place there."""
    kinds = _kinds_of_layers(config, file)
    found = {**config, **_epsilons(config, file), **kinds}
    if not kinds or "sliding_attention" in kinds["layer_types"]:
        found |= _window(found, file)
    parallel = file.metadata.get(f"{file.architecture}.{PARALLEL}")
    for key, value in {**stated(file), **({PARALLEL: True} if parallel else {})}.items():
        if (place := PLACES[key]) is None or place not in config:
            raise _unsupported(file, key, value)
        if not _same(config[place], value):
            found[place] = value
    return found


def _epsilons(config: Mapping[str, Any], file: GgufFile) -> dict[str, Any]:
    values = [file.metadata.get(f"{file.architecture}.{key}") for key in EPSILON_KEYS]
    value = next((each for each in values if isinstance(each, float)), None)
    return {} if value is None else {key: value for key in EPSILONS if key in config and not _same(config[key], value)}


def _kinds_of_layers(config: Mapping[str, Any], file: GgufFile) -> dict[str, Any]:
    """Which layers have the window, as llama.cpp reads it (``set_swa_pattern``); transformers has a usual pattern."""
    layers, prefix = config.get("num_hidden_layers"), f"{file.architecture}."
    if file.architecture not in PATTERNED or not isinstance(layers, int):
        return {}
    said = file.metadata.get(f"{prefix}{WINDOW}_pattern")
    if file.architecture == "gemma3" and not file.number(f"{prefix}{WINDOW}"):
        sliding = [False] * layers
    elif isinstance(said, np.ndarray):
        sliding = [bool(each) for each in said[:layers]]
    elif isinstance(said, int):
        sliding = [not said or layer % said < said - 1 for layer in range(layers)]
    else:
        return {}
    return {"layer_types": [f"{'sliding' if each else 'full'}_attention" for each in sliding]}


def _window(config: Mapping[str, Any], file: GgufFile) -> dict[str, Any]:
    window = stated_window(file)
    if window is None or config.get("sliding_window") == window:
        return {}
    kinds = config.get("layer_types")
    if "sliding_window" not in config or (kinds is not None and "sliding_attention" not in kinds):
        raise _unsupported(file, WINDOW, window)
    return {"sliding_window": window}


def _same(value: object, other: float) -> bool:
    return isinstance(value, bool | int | float) and math.isclose(value, other, rel_tol=1e-6)


def _unsupported(file: GgufFile, key: str, value: float) -> ModelUnsupported:
    return ModelUnsupported(
        f"{file.path} says {file.architecture}.{key} {value:g}, which transformers does not read for "
        f"{file.architecture}: its text would be wrong",
        hint=LLAMACPP_HINT if key in READ.get(file.architecture, (key,)) else "convert the model again",
    )
