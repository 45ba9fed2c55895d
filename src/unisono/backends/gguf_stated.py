"""Numbers in the head of a GGUF file that change what its model computes, and what llama.cpp does not read of them.

llama.cpp reads them by architecture, and passes over all others in silence. The source is ``load_arch_hparams`` of each
model in its ``src/models``, in release 0.3.36 of llama-cpp-python.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from unisono.backends.gguf import GgufFile

WINDOW = "attention.sliding_window"
SCALE = "attention.scale"
CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
SCALES = ("logit_scale", "embedding_scale", "residual_scale", "expert_weights_scale")
CLAMP = "attention.clamp_kqv"
NUMBERS = (*CAPS, *SCALES, SCALE, CLAMP)
"""Zero stands for none in all of them, and 1 in scales."""

_GRANITE = ("logit_scale", "residual_scale", "embedding_scale", SCALE)
READ: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("llama", "qwen2", "qwen3", "qwen2moe", "qwen3moe", "gemma", "phi2", "starcoder2", "stablelm"), ()),
    **dict.fromkeys(("falcon", "internlm2", "smollm3", "glm4", "chatglm", "nemotron", "seed_oss", "arcee"), ()),
    **dict.fromkeys(("ernie4_5", "exaone", "baichuan", "orion", "gpt2", "gptneox", "bloom", "starcoder"), ()),
    "phi3": (),  # of its window llama.cpp warns when it reads the weights, also where no text is as long
    **dict.fromkeys(("olmo2", "exaone4", "gpt-oss", "llama4"), (WINDOW,)),
    **dict.fromkeys(("olmo", "mpt", "dbrx"), (CLAMP,)),
    **dict.fromkeys(("granite", "granitemoe"), _GRANITE),
    "minicpm": ("logit_scale", "residual_scale", "embedding_scale"),
    "command-r": ("logit_scale",),
    "cohere2": ("logit_scale", WINDOW),
    "gemma2": (*CAPS, WINDOW),
    "gemma3": ("final_logit_softcapping", WINDOW),
}
"""By architecture, what llama.cpp reads of these numbers and of the window. Of others it is not known here."""


def stated(file: GgufFile) -> dict[str, float]:
    """The `NUMBERS` of a file that change something, by their keys behind the architecture."""
    values = {key: file.metadata.get(f"{file.architecture}.{key}") for key in NUMBERS}
    return {
        key: value
        for key, value in values.items()
        if isinstance(value, int | float) and not _is_neutral(key, value, file)
    }


def stated_window(file: GgufFile) -> int | None:
    """How many tokens a layer looks back, where a file says so and its context is longer."""
    key, context = f"{file.architecture}.{WINDOW}", file.number(f"{file.architecture}.context_length")
    said, window = file.metadata.get(key), file.number(key)
    if isinstance(said, np.ndarray):  # of each layer
        window = min((int(each) for each in said if each > 0), default=None)
    return window if window and (context is None or window < context) else None


def unread_by_llamacpp(file: GgufFile) -> Iterator[str]:
    """What llama.cpp passes over, in words that follow the member's name."""
    read = READ.get(file.architecture)
    if read is None:
        return
    for key, value in stated(file).items():
        if key not in read:
            yield f"its file says {file.architecture}.{key} {value:g}, {_why(file)} may be another than its model's"
    if (window := stated_window(file)) and WINDOW not in read:
        said = f"its file says {file.architecture}.{WINDOW} {window:,}"
        yield f"{said}, {_why(file)} may be another than its model's after {window:,} tokens"


def _why(file: GgufFile) -> str:
    return f"which llama.cpp does not read for {file.architecture}: its text"


def _is_neutral(key: str, value: float, file: GgufFile) -> bool:
    if key == SCALE:
        sizes = _head_sizes(file)  # where these are not known, the usual scale is not, either
        return not value or not sizes or all(math.isclose(value, size**-0.5, rel_tol=1e-4) for size in sizes)
    return not value or (key in SCALES and math.isclose(value, 1, rel_tol=1e-6))


def _head_sizes(file: GgufFile) -> set[int]:
    """How wide a head is, in some layer; nothing where the file does not say it."""
    if size := file.number(f"{file.architecture}.attention.key_length"):
        return {size}
    width = file.number(f"{file.architecture}.embedding_length") or 0
    heads = file.metadata.get(f"{file.architecture}.attention.head_count")
    by_layer = heads.tolist() if isinstance(heads, np.ndarray) else [heads]
    return {width // each for each in by_layer if isinstance(each, int) and each > 0} - {0}
