"""What is known of a GGUF model before its weights are loaded: its device, and the file's header."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from unisono.backends.base import LoadRequest
from unisono.backends.gguf import GgufFile
from unisono.backends.gguf_parts import refuse_other_kinds_of_model, unsupported
from unisono.backends.options import CACHE_TYPES, LlamaCppOptions
from unisono.backends.weight_files import named
from unisono.errors import DeviceError, ModelCorrupt, ModelUnsupported, SpecError, nearest, shown

_MOST_LAYERS = 512
"""LLAMA_MAX_LAYERS. llama.cpp aborts the process when a file declares more layers, or none."""
_FLOAT32, _FLOAT64 = 0, 28
_WHOLE = range(24, 28)
"""ggml's numbers of these types. Whole numbers are no weights, which is said of all files."""
_SCALINGS = ("none", "linear", "yarn", "longrope")
_VECTOR = re.compile(r"norm\w*\.weight$|\.bias$")


@dataclass(frozen=True)
class Device:
    name: str
    layers: int
    """Layers on the GPU; -1 for all, as in llama.cpp."""
    index: int | None = None


def choose_device(request: LoadRequest, options: LlamaCppOptions, library: Any) -> Device:
    """Choose a member's device: by default the GPU if llama.cpp has one, else the CPU.

    Raises `SpecError` for an unknown device or one that contradicts ``gpu_layers``, and `DeviceError` for one that the
    installed build lacks.
    """
    asked, member = request.device or "auto", f"member {request.name!r}"
    kind, _, number = asked.partition(":")
    if kind not in ("auto", "cpu", "cuda", "metal", "gpu") or (number and not (kind == "cuda" and number.isdecimal())):
        raise SpecError(
            f"{member}: unknown device {asked!r}{nearest(asked, ('auto', 'cpu', 'cuda', 'metal'))}",
            hint="choose one of: auto, cpu, cuda, cuda:0 (cuda:1 …), metal",
        )
    available = bool(library.llama_supports_gpu_offload())
    layers = -1 if options.gpu_layers == "all" else options.gpu_layers
    if kind == "cpu" or (kind == "auto" and not available):
        if layers > 0:
            raise (SpecError if kind == "cpu" else DeviceError)(
                f"{member}: gpu_layers is {layers}, but the member computes on the CPU",
                hint="leave gpu_layers out, or install llama-cpp-python with GPU support",
            )
        return Device("cpu", 0)
    built = _gpu_kind(library)
    if not available or kind not in ("auto", "gpu", built):
        raise DeviceError(
            f"{member}: device is {asked!r}, but llama.cpp has found "
            + (f"only {built!r}" if available else "no GPU, or was built without support for one"),
            hint="build it for the device (docs/install.md); for CUDA: CMAKE_ARGS=-DGGML_CUDA=ON make install",
        )
    if layers == 0:
        return Device("cpu", 0)
    index = int(number) if number else None
    return Device(f"cuda:{index or 0}" if built == "cuda" else built, layers, index)


def _gpu_kind(library: Any) -> str:
    info = library.llama_print_system_info()
    return "cuda" if b"CUDA" in info else "metal" if b"Metal" in info or b"MTL" in info else "gpu"


def refuse_other_models(file: GgufFile) -> None:
    """Raise `ModelUnsupported` unless the file holds the weights of a language model."""
    refuse_other_kinds_of_model(file)
    if not file.tensors:
        raise unsupported(file, "it holds a vocabulary without weights")
    if file.text("tokenizer.ggml.model") is None:
        raise unsupported(file, "it has no tokenizer")
    if not 0 < (file.number(f"{file.architecture}.block_count") or 0) <= _MOST_LAYERS:
        raise unsupported(file, "it does not say how many layers it has")
    _check_rows(file)
    _check_formats(file)
    _check_positions(file)


def _check_positions(file: GgufFile) -> None:
    """Refuse a scaling of positions over which llama.cpp ends the process, and a base that makes no numbers."""
    kind = file.text(key := f"{file.architecture}.rope.scaling.type")
    if kind is not None and kind not in _SCALINGS:
        raise ModelUnsupported(
            f"{file.path}: {key} is {shown(kind)}, which llama.cpp does not know; it knows {', '.join(_SCALINGS)}",
            hint="convert the model again, with a newer llama.cpp",
        )
    for name in ("rope.freq_base", "rope.freq_base_swa"):
        if file.metadata.get(f"{file.architecture}.{name}") == 0:
            raise ModelCorrupt(
                f"{file.path}: {file.architecture}.{name} is 0, of which llama.cpp makes positions that are no numbers",
                hint="convert the model again",
            )


def _check_formats(file: GgufFile) -> None:
    """Refuse number formats for which llama.cpp has no kernels: it ends the process when it computes with them."""
    odd = [
        name
        for name, place in file.places.items()
        if place.kind == _FLOAT64
        or (place.kind not in (_FLOAT32, *_WHOLE) and len(file.shapes[name]) == 1 and _VECTOR.search(name))
    ]
    if odd:
        raise ModelUnsupported(
            f"{file.path} holds norms or biases in another format than float32, or weights as float64, which "
            f"llama.cpp does not compute with, {named(odd)}",
            hint="convert the model again: llama.cpp's converter writes them as float32",
        )


def _check_rows(file: GgufFile) -> None:
    """llama.cpp loads only weights whose rows are the tokens."""
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    count = len(tokens) if isinstance(tokens, list) else 0
    for name, rows in file.rows.items() if count else ():
        if rows != count:
            larger, smaller = ("weights are", "tokenizer") if rows > count else ("tokenizer is", "weights")
            raise ModelCorrupt(
                f"{file.path}: the {larger} larger than the {smaller} by {abs(rows - count):,}: {name} has "
                f"{rows:,} rows, and there are {count:,} tokens",
                hint="convert the model again, after its vocabulary was resized with its tokenizer's",
            )


def trained_context(file: GgufFile) -> int | None:
    return file.number(f"{file.architecture}.context_length")


def cache_bytes_a_token(file: GgufFile, options: LlamaCppOptions) -> float:
    """Estimate the key-value cache's bytes per token, over all heads and layers."""
    prefix = f"{file.architecture}."
    layers = file.number(prefix + "block_count") or 0
    heads = file.per_layer(prefix + "attention.head_count", layers) or [1] * layers
    shared = file.per_layer(prefix + "attention.head_count_kv", layers) or heads
    width = (file.number(prefix + "embedding_length") or 0) // max(1, *heads, 1)
    key = file.number(prefix + "attention.key_length") or width
    value = file.number(prefix + "attention.value_length") or width
    return sum(shared) * (key + value) * CACHE_TYPES[options.cache_dtype][1]


def state_bytes(file: GgufFile) -> int:
    """The bytes of one slot's recurrent state, in float32 as llama.cpp keeps it; 0 for a model that has none.

    The sizes are those of llama.cpp's ``llama_hparams`` (``n_embd_r``, ``n_embd_s``).
    """

    def number(key: str) -> int:
        return file.number(f"{file.architecture}.{key}") or 0

    width, inner, size = number("embedding_length"), number("ssm.inner_size"), number("ssm.state_size")
    convolution = max(0, number("ssm.conv_kernel") - 1) * (inner + 2 * number("ssm.group_count") * size)
    short = max(0, number("shortconv.l_cache") - 1) * width
    mixed = width * (number("wkv.head_size") + (number("token_shift_count") or 2)) if number("wkv.head_size") else 0
    layers = number("block_count")
    shared = file.per_layer(f"{file.architecture}.attention.head_count_kv", layers) or []
    both = not any(shared) or all(shared)  # none has attention, or the file does not say which have a state
    return 4 * (convolution + inner * size + short + mixed) * (layers if both else shared.count(0))


def fingerprint(file: GgufFile) -> bytes:
    """Tells a file from others by all of its metadata: tokenizers depend on merges, rules and even the model's name."""
    digest = hashlib.sha256()
    for key, value in sorted(file.metadata.items()):
        if isinstance(value, list):
            parts = value
        else:
            parts = [value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()]
        digest.update(repr((key, [*map(len, parts)])).encode() + b"".join(parts))
    return digest.digest()
