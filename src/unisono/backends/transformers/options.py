"""What a member may ask of the transformers backend, and whether a folder holds a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from unisono.backends.base import LoadRequest
from unisono.errors import ModelCorrupt, ModelNotFound, ModelUnsupported, SpecError, nearest

DTYPES = ("auto", "float32", "bfloat16", "float16")
ATTENTIONS = ("sdpa", "eager")
FLAGS = ("pack_weights", "trust_remote_code", "allow_pickle", "local_files_only")
OPTIONS = ("attention", "device_map", "revision", *FLAGS)
TOKENIZER_FILES = ("tokenizer.json", "tekken.json", "vocab.json", "vocab.txt", "*.model", "*.model.v*", "*.tiktoken")
PICKLES = ("*.bin", "*.pt", "*.pth")


@dataclass(frozen=True, slots=True)
class HfOptions:
    """A member's options, checked."""

    attention: str | None = None
    """``None``: sdpa where the model has it, else eager."""
    device_map: str | Mapping[str, object] | None = None
    revision: str | None = None
    pack_weights: bool = True
    """Where oneDNN can do the linear layers; it says nothing elsewhere."""
    trust_remote_code: bool = False
    allow_pickle: bool = False
    local_files_only: bool = False


def check_options(request: LoadRequest) -> HfOptions:
    """Read a request's options.

    Raises:
        SpecError: an unknown key or a value that cannot be; it names the member and the choices.
    """
    options = dict(request.options)
    for key, value in options.items():
        if key not in OPTIONS:
            raise SpecError(
                f"member {request.name!r}: unknown option {key!r}{nearest(key, OPTIONS)}",
                hint=f"the options of the backend 'transformers' are: {', '.join(OPTIONS)}",
            )
        if key in FLAGS and not isinstance(value, bool):
            raise _wrong(request, f"options.{key}", value, "true or false")
    if request.dtype is not None and request.dtype not in DTYPES:
        raise _wrong(request, "dtype", request.dtype, ", ".join(DTYPES))
    attention = options.get("attention")
    if attention is not None and attention not in ATTENTIONS:
        reason = "; others take no dense mask, which a batch of texts of unequal length needs"
        raise _wrong(request, "options.attention", attention, ", ".join(ATTENTIONS) + reason)
    device_map = options.get("device_map")
    if device_map is not None and not isinstance(device_map, str | Mapping):
        raise _wrong(
            request, "options.device_map", device_map, "auto, balanced, sequential, or module names to devices"
        )
    if device_map is not None and request.device not in (None, "auto"):
        raise SpecError(
            f"member {request.name!r} has both a device ({request.device}) and options.device_map",
            hint="leave out one of them",
        )
    if not isinstance(options.get("revision"), str | None):
        raise _wrong(request, "options.revision", options["revision"], "a branch, a tag or a commit")
    for key in ("context", "threads"):
        number = getattr(request, key)
        if number is not None and number < 1:
            raise _wrong(request, key, number, "1 or more")
    return HfOptions(**options)  # type: ignore[arg-type]


def check_folder(request: LoadRequest) -> Path:
    """Return the folder of a request after finding a configuration in it.

    Raises:
        ModelNotFound: there is no such folder, or no ``config.json`` or tokenizer in it.
        ModelCorrupt: its ``config.json`` cannot be read.
    """
    folder = request.source.path
    who = f"member {request.name!r}: "
    if not folder.is_dir():
        raise ModelNotFound(f"{who}there is no folder {folder}", hint="check the path")
    config = folder / "config.json"
    if not config.is_file():
        raise ModelNotFound(
            f"{who}{folder} holds no config.json, so it is no model of transformers",
            hint="give the folder that `save_pretrained` or `hf download` wrote, or a .gguf file",
        )
    try:
        parsed = json.loads(config.read_text("utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ModelCorrupt(f"{who}{config} is no JSON ({error})", hint="download the model again") from error
    if not isinstance(parsed, dict):
        raise ModelCorrupt(f"{who}{config} holds no JSON object", hint="download the model again")
    if not any(next(folder.glob(pattern), None) for pattern in TOKENIZER_FILES):
        raise ModelNotFound(
            f"{who}{folder} holds no tokenizer (none of {', '.join(TOKENIZER_FILES)})",
            hint="copy the tokenizer's files into the folder",
        )
    return folder


def check_weights(request: LoadRequest, allow_pickle: bool) -> None:
    """Make sure that a folder holds weights that may be loaded.

    Raises:
        ModelNotFound: there are none, or a part of them is missing.
        ModelUnsupported: they are pickles, which can run code when loaded, and those were not allowed.
        ModelCorrupt: a weights file is cut short or its head is damaged.
    """
    folder = request.source.path
    who = f"member {request.name!r}: "
    tensors = sorted(folder.glob("*.safetensors"))
    for file in tensors:
        _check_safetensors(file, who)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        _check_shards(index, who)
    if tensors:
        return
    pickles = [file.name for pattern in PICKLES for file in sorted(folder.glob(pattern))]
    if pickles and allow_pickle:
        return
    if pickles:
        raise ModelUnsupported(
            f"{who}{folder} holds only pickled weights ({pickles[0]}), which can run any code when loaded",
            hint="convert them to safetensors, or set `options: {allow_pickle: true}` if you trust their author",
        )
    raise ModelNotFound(f"{who}{folder} holds no weights (no .safetensors file)", hint="download the model again")


def _check_shards(index: Path, who: str) -> None:
    try:
        files = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelCorrupt(f"{who}{index} is damaged ({error})", hint="download the model again") from error
    missing = sorted(name for name in files if not (index.parent / name).is_file())
    if missing:
        raise ModelNotFound(
            f"{who}{index.parent} lacks {len(missing)} of {len(files)} files of weights, {missing[0]} first",
            hint="download the model again",
        )


def _check_safetensors(file: Path, who: str) -> None:
    """The head gives the place of every tensor: compare with the file's size."""
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            head_size = int.from_bytes(stream.read(8), "little")
            if head_size > size:
                raise ValueError("its head is longer than the file")
            head = json.loads(stream.read(head_size))
        end = max((tensor["data_offsets"][1] for name, tensor in head.items() if name != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelCorrupt(f"{who}{file} is damaged ({error})", hint="download the file again") from error
    if 8 + head_size + end != size:
        raise ModelCorrupt(
            f"{who}{file} is cut short: it has {size} bytes and should have {8 + head_size + end}",
            hint="download the file again",
        )


def _wrong(request: LoadRequest, key: str, value: object, choices: str) -> SpecError:
    return SpecError(f"member {request.name!r}: {key} is {value!r}", hint=f"choose one of: {choices}")
