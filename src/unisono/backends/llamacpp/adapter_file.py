"""An adapter's GGUF file, and whether it fits a model: by their heads, before weights are loaded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from unisono.backends.adapter_base import check_base
from unisono.backends.gguf import GgufFile, read_head
from unisono.backends.weight_files import listed, naming
from unisono.errors import ModelCorrupt, ModelUnsupported, shown

_HALVES = (".lora_a", ".lora_b")
_ALPHA = "adapter.lora.alpha"
_EMBEDDINGS, _OUTPUT = "token_embd.weight", "output.weight"
_BYTES = {0: 4, 1: 2, 30: 2}
"""Of a number, by ggml's number of its type: float32, float16 and bfloat16, in which adapters are."""
_OTHER_MODEL = "it is made for another model"
_MERGE = "merge it into the weights"


def check_file(path: Path, who: str) -> None:
    """Look at an adapter's head alone, as its model may take long to read; ``who`` has it. Raises a `ModelError`."""
    with naming(f"{who}: "):
        _read_file(path)


def _read_file(path: Path) -> tuple[GgufFile, str]:
    """An adapter's head, and what to call it. Raises a `ModelError` where it is no LoRA, or no whole one."""
    file, who = read_head(path), f"the adapter {str(path)!r}"
    if file.text("general.type") != "adapter" or file.text("adapter.type") != "lora":
        raise ModelUnsupported(
            f"{who} says that it is {shown(file.text('adapter.type') or file.text('general.type'))}, and no LoRA",
            hint="make one of PEFT's folder with llama.cpp's convert_lora_to_gguf.py",
        )
    if odd := [name for name in file.shapes if not name.endswith(_HALVES)]:
        raise ModelUnsupported(f"{who} holds {listed(odd)}, beside the pairs of LoRA", hint=_MERGE)
    if not file.shapes:
        raise ModelCorrupt(f"{who} holds no weights", hint="convert or download it again")
    if lone := [name for name in file.shapes if name[:-1] + {"a": "b", "b": "a"}[name[-1]] not in file.shapes]:
        raise ModelCorrupt(f"{who} holds one half of {listed(lone)} alone", hint="convert or download it again")
    alpha = file.metadata.get(_ALPHA, 0.0)
    if not isinstance(alpha, float) or not math.isfinite(alpha):
        raise ModelCorrupt(f"{who} has {_ALPHA} {shown(alpha)}, which is no number", hint="convert it again")
    if file.metadata.get("adapter.alora.invocation_tokens") is not None:
        raise ModelUnsupported(f"{who} is one that a text activates", hint=_MERGE)
    return file, who


def check_adapter(path: Path, model: GgufFile) -> tuple[str, ...]:
    """Hold an adapter's head against that of its model; of its numbers it is looked whether all are zero.

    Returns what is to be warned of. Raises a `ModelError`.
    """
    file, who = _read_file(path)
    if file.architecture != model.architecture:
        raise ModelUnsupported(
            f"{who} is of the architecture {file.architecture}, and the model of {model.architecture}",
            hint=_OTHER_MODEL,
        )
    if other := [name for name in file.shapes if name.removesuffix(name[-7:]) not in model.shapes]:
        raise ModelUnsupported(f"{who} is for {listed(other)}, which the model does not have", hint=_OTHER_MODEL)
    for name in sorted({name.removesuffix(name[-7:]) for name in file.shapes}):
        _check_pair(name, [file.shapes[name + half] for half in _HALVES], model, who)
    return (*_check_base(file, model, who), *_doubts(file, who))


def _check_pair(name: str, halves: list[tuple[int, ...]], model: GgufFile, who: str) -> None:
    """Hold the shapes of two halves against that of a weight, as llama.cpp does when it has loaded the model."""
    (a, b), weight = halves, model.shapes[name]
    if len(weight) < 2 or any(len(shape) != len(weight) for shape in (a, b)):
        raise ModelUnsupported(f"{who} has halves of {name} that are no matrices", hint=_OTHER_MODEL)
    wanted = (a[0], b[1]) if name != _EMBEDDINGS else (b[1], a[1])  # which are looked up, and not multiplied with
    if wanted != weight[:2] or (name != _EMBEDDINGS and a[1] != b[0]):
        shapes = " and ".join(" × ".join(map(str, shape)) for shape in (a, b))
        raise ModelUnsupported(
            f"{who} has {shapes} for {name}, which is {' × '.join(map(str, weight))}", hint=_OTHER_MODEL
        )
    if name == _EMBEDDINGS and _OUTPUT not in model.shapes:
        raise ModelUnsupported(
            f"{who} changes {name}, which is the model's output layer, too: llama.cpp ends the process over it",
            hint=_MERGE,
        )


def _doubts(file: GgufFile, who: str) -> Iterator[str]:
    if not file.metadata.get(_ALPHA):
        said = "does not say its alpha" if file.metadata.get(_ALPHA) is None else "has alpha 0"
        yield f"{who} {said} ({_ALPHA}): llama.cpp adds its products as they are, not by alpha and rank"
    if _changes_nothing(file):
        yield f"{who} changes nothing: all of its halves B are zeros, as before training"


def _changes_nothing(file: GgufFile) -> bool:
    halves = {name: place for name, place in file.places.items() if name.endswith(_HALVES[1])}
    if not all(place.kind in _BYTES for place in halves.values()):
        return False
    sizes: Mapping[str, int] = {name: math.prod(file.shapes[name]) * _BYTES[its.kind] for name, its in halves.items()}
    return not any(
        (np.fromfile(place.path, np.uint8, sizes[name], "", place.offset) & 0x7F).any()  # a zero may have a sign
        for name, place in halves.items()
    )


def _check_base(file: GgufFile, model: GgufFile, who: str) -> tuple[str, ...]:
    """Hold the base that an adapter states, by its name or its address, against the names of the model."""
    names = [model.path.name, *(model.text(f"general.{key}") for key in ("name", "basename", "repo_url"))]
    stated = [text for key in ("repo_url", "name") if (text := file.text(f"general.base_model.0.{key}"))]
    if not stated:
        return (f"{who} does not say which model it was trained on: one of another of the same shape spoils this one",)
    for place, base in enumerate(stated):  # one of the two may be written otherwise
        try:
            return check_base(base, [name for name in names if name], who, "convert it again with the model's name")
        except ModelUnsupported:
            if place + 1 == len(stated):
                raise
    raise AssertionError("each base is let in or refused")
