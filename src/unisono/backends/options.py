"""The ``options`` that a member may give to each backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unisono.backends.base import LoadRequest
from unisono.errors import SpecError, nearest, shown

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
"""Types of llama.cpp's key-value cache: ggml's number and the bytes per element."""
_COUNT = "a whole number from 1 up"
DTYPES = ("auto", "float32", "bfloat16", "float16")
_ATTENTION = "sdpa or eager: others take no dense mask, which texts of unequal length need in a batch"


class Options(BaseModel):
    """A member's validated options. ``None`` means the default."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @classmethod
    def read(cls, request: LoadRequest) -> Self:
        """Read a request's options. Raises a `SpecError` for an unknown option or a wrong value."""
        known = cls.model_fields
        for key in request.options:
            if key not in known:
                raise SpecError(
                    f"member {request.name!r}: unknown option {key!r}{nearest(key, known)}",
                    hint=f"its backend has the options {', '.join(sorted(known))}",
                )
        try:
            return cls(**{key: value for key, value in request.options.items() if value is not None})
        except ValidationError as error:
            key = str(error.errors()[0]["loc"][0])
            raise SpecError(
                f"member {request.name!r}: option {key} is {shown(request.options[key])}",
                hint=f"it has to be {known[key].description or 'true or false'}",
            ) from error


class LlamaCppOptions(Options):
    gpu_layers: Annotated[int, Field(ge=0)] | Literal["all"] = Field(
        default="all", description="a whole number from 0 up, or 'all'"
    )
    flash_attention: bool | Literal["auto"] = Field(default="auto", description="true, false or 'auto'")
    """``auto`` is llama.cpp's choice: on, if the device and the cache allow it. On a CPU it makes a slot's numbers
    independent of other slots, as far as the weight formats allow."""
    batch_tokens: int = Field(default=512, ge=1, description="a whole number from 1 up")
    """Tokens per decode. Longer prompts take several."""
    cache_dtype: Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"] = Field(
        default="f16", description=f"one of {', '.join(CACHE_TYPES)}"
    )
    mmap: bool | None = None
    """Map the file into memory; ``None`` leaves it to llama.cpp."""

    @classmethod
    def read(cls, request: LoadRequest) -> Self:
        options = super().read(request)
        if options.cache_dtype.startswith("q") and options.flash_attention is False:
            raise SpecError(
                f"member {request.name!r}: a cache of {options.cache_dtype} needs flash attention",
                hint="set flash_attention: true, or choose one of f16, bf16, f32",
            )
        return options


class TransformersOptions(Options):
    attention: Literal["sdpa", "eager"] | None = Field(default=None, description=_ATTENTION)
    """``None``: sdpa where the model has it, else eager."""
    device_map: str | Mapping[str, Any] | None = Field(
        default=None, description="auto, balanced, sequential, or module names to devices"
    )
    revision: str | None = Field(default=None, description="a branch, a tag or a commit")
    pack_weights: bool = True
    """Pack weights for oneDNN. No effect where oneDNN cannot run the linear layers."""
    trust_remote_code: bool = False
    allow_pickle: bool = False
    local_files_only: bool = False
    fix_mistral_regex: bool | None = None
    """Whether text is split as Mistral corrected it; ``None``: as `tokenizer.json` says, which the library warns of."""

    @classmethod
    def read(cls, request: LoadRequest) -> Self:
        options = super().read(request)
        if request.dtype is not None and request.dtype not in DTYPES:
            raise SpecError(
                f"member {request.name!r}: dtype is {request.dtype!r}", hint=f"choose one of: {', '.join(DTYPES)}"
            )
        if options.fix_mistral_regex and request.source.kind == "gguf":
            raise SpecError(
                f"member {request.name!r}: option fix_mistral_regex is true, and {request.source.location} has no "
                "tokenizer.json: a GGUF file's text is split as the file says",
                hint="leave it out, or make model the folder or hub id that the file was converted from",
            )
        if options.device_map is not None and request.device not in (None, "auto"):
            raise SpecError(
                f"member {request.name!r} has both a device ({request.device}) and options.device_map",
                hint="leave out one of them",
            )
        return options


class VllmOptions(Options):
    """Those that have the names of vLLM's own are handed on to it."""

    python: str | None = Field(default=None, description="the path of a Python that has vLLM and unisono")
    """``None`` is the Python that runs this."""
    tensor_parallel_size: int | None = Field(default=None, ge=1, description=_COUNT)
    pipeline_parallel_size: int | None = Field(default=None, ge=1, description=_COUNT)
    quantization: str | None = Field(default=None, min_length=1, description="the name of one of vLLM's methods")
    load_format: str | None = Field(default=None, min_length=1, description="the name of one of vLLM's formats")
    kv_cache_dtype: str | None = Field(default=None, min_length=1, description="the name of one of vLLM's types")
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1, description="a number above 0, 1 at most")
    kv_cache_memory_bytes: int | None = Field(default=None, ge=1, description=_COUNT)
    """On processors without accelerator, by default what all slots need, or 4 GiB, whichever is less."""
    enforce_eager: bool | None = None
    """Whether nothing is compiled: it starts in seconds, and may be slower."""
    block_size: int | None = Field(default=None, ge=1, description=_COUNT)
    """Ids of a block of the cache: after a rewind, up to so many are read again. 32 on processors by default."""
    max_num_seqs: int | None = Field(default=None, ge=1, description=_COUNT)
    """Texts that the engine holds at once; as many as are written, if it is not given. With fewer, texts take turns."""
    max_num_batched_tokens: int | None = Field(default=None, ge=1, description=_COUNT)
    """Ids of a pass; longer prompts take several."""
    revision: str | None = Field(default=None, description="a branch, a tag or a commit")
    trust_remote_code: bool = False
