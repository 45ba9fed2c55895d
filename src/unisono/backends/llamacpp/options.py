"""What a member's request asks of llama.cpp, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from unisono.backends.base import LoadRequest
from unisono.backends.registry import BACKENDS
from unisono.errors import DeviceError, SpecError, nearest

CACHE_TYPES: dict[str, tuple[int, float]] = {
    "f32": (0, 4.0),
    "f16": (1, 2.0),
    "bf16": (30, 2.0),
    "q8_0": (8, 34 / 32),
    "q5_1": (7, 24 / 32),
    "q5_0": (6, 22 / 32),
    "q4_1": (3, 20 / 32),
    "q4_0": (2, 18 / 32),
}
"""Number formats of the key-value cache: ggml's number for each and its bytes an element."""

QUANTISED = frozenset(name for name in CACHE_TYPES if name.startswith("q"))


@dataclass(frozen=True)
class Options:
    """A member's ``options``, with defaults filled in."""

    gpu_layers: int | None = None
    """Layers on the GPU; ``None`` for all of them, where there is one."""
    flash_attention: bool | Literal["auto"] = "auto"
    """``auto`` is llama.cpp's own choice: on, where the device and the cache allow it. On a CPU a slot then
    gives the same numbers alone and among others, as far as the formats of the weights allow."""
    batch_tokens: int = 512
    """Tokens computed in one go; longer prompts go in one after the other."""
    cache_dtype: str = "f16"
    mmap: bool | None = None
    """Whether the file is mapped into memory; ``None`` leaves it to llama.cpp."""


def read_options(request: LoadRequest) -> Options:
    """Check a request's numbers and options.

    Raises:
        SpecError: an unknown key, or a value of the wrong type or outside its range.
    """
    for name, number in (("context", request.context), ("threads", request.threads), ("slots", request.slots)):
        if number is not None and number < 1:
            raise SpecError(f"member {request.name!r}: {name} is {number}; it has to be 1 or more")
    allowed = BACKENDS["llamacpp"].options
    for key in request.options:
        if key not in allowed:
            raise SpecError(
                f"member {request.name!r}: unknown option {key!r}{nearest(key, allowed)}",
                hint=f"options of llamacpp: {', '.join(sorted(allowed))}",
            )
    options = Options(
        gpu_layers=_whole(request, "gpu_layers", least=0, word="all"),
        flash_attention=_flash(request),
        batch_tokens=_whole(request, "batch_tokens", least=1) or Options.batch_tokens,
        cache_dtype=_cache_dtype(request),
        mmap=_flag(request, "mmap"),
    )
    if options.cache_dtype in QUANTISED and options.flash_attention is False:
        raise SpecError(
            f"member {request.name!r}: a cache of {options.cache_dtype} needs flash attention",
            hint="set flash_attention: true, or choose one of f16, bf16, f32",
        )
    return options


@dataclass(frozen=True)
class Device:
    """Where a member computes."""

    name: str
    layers: int
    """Layers on the GPU; -1 for all, as llama.cpp counts."""
    index: int | None = None
    """The GPU to use, where one is named."""


def choose_device(request: LoadRequest, options: Options, library: Any) -> Device:
    """Say where a member computes: on the GPU if llama.cpp has one, else on the CPU.

    Raises:
        SpecError: the device is unknown, or contradicts ``gpu_layers``.
        DeviceError: the installed build has no such device.
    """
    asked, member = request.device or "auto", f"member {request.name!r}"
    kind, _, number = asked.partition(":")
    if kind not in ("auto", "cpu", "cuda", "metal", "gpu") or (number and not (kind == "cuda" and number.isdecimal())):
        raise SpecError(
            f"{member}: unknown device {asked!r}{nearest(asked, ('auto', 'cpu', 'cuda', 'metal'))}",
            hint="choose one of: auto, cpu, cuda, cuda:0 (cuda:1 …), metal",
        )
    available = bool(library.llama_supports_gpu_offload())
    if kind == "cpu" or (kind == "auto" and not available):
        if options.gpu_layers:
            raise (SpecError if kind == "cpu" else DeviceError)(
                f"{member}: gpu_layers is {options.gpu_layers}, but the member computes on the CPU",
                hint="leave gpu_layers out, or install llama-cpp-python with GPU support",
            )
        return Device("cpu", 0)
    built = _gpu_kind(library)
    if not available or kind not in ("auto", "gpu", built):
        raise DeviceError(
            f"{member}: device is {asked!r}, but llama.cpp has found "
            + (f"only {built!r}" if available else "no GPU, or was built without support for one"),
            hint="reinstall it; for CUDA: CMAKE_ARGS=-DGGML_CUDA=on pip install --force-reinstall llama-cpp-python",
        )
    if options.gpu_layers == 0:
        return Device("cpu", 0)
    layers = -1 if options.gpu_layers is None else options.gpu_layers
    index = int(number) if number else None
    return Device(f"cuda:{index or 0}" if built == "cuda" else built, layers, index)


def _gpu_kind(library: Any) -> str:
    info = library.llama_print_system_info()
    return "cuda" if b"CUDA" in info else "metal" if b"Metal" in info or b"MTL" in info else "gpu"


def _whole(request: LoadRequest, key: str, least: int, word: str | None = None) -> int | None:
    value = request.options.get(key)
    if value is None or (word is not None and value == word):
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        choices = f"a whole number from {least} up" + (f", or {word!r}" if word else "")
        raise _wrong(request, key, value, choices)
    return value


def _flag(request: LoadRequest, key: str) -> bool | None:
    value = request.options.get(key)
    if value is not None and not isinstance(value, bool):
        raise _wrong(request, key, value, "true or false")
    return value


def _flash(request: LoadRequest) -> bool | Literal["auto"]:
    value = request.options.get("flash_attention", Options.flash_attention)
    if value == "auto":
        return "auto"
    if not isinstance(value, bool):
        raise _wrong(request, "flash_attention", value, "true, false or 'auto'")
    return value


def _cache_dtype(request: LoadRequest) -> str:
    value = request.options.get("cache_dtype", Options.cache_dtype)
    if not isinstance(value, str) or value not in CACHE_TYPES:
        raise _wrong(request, "cache_dtype", value, ", ".join(CACHE_TYPES))
    return value


def _wrong(request: LoadRequest, key: str, value: object, choices: str) -> SpecError:
    return SpecError(f"member {request.name!r}: option {key} is {value!r}", hint=f"it has to be {choices}")
