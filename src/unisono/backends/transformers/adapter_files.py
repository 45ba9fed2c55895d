"""An adapter's files, in PEFT's form, and whether they fit a model: without values, before weights are loaded.

What would change the model in another way than low-rank sums on linear layers is refused by its key, and so is what is
made for another base (docs/adr/0029).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from unisono.backends.adapter_base import check_base
from unisono.backends.weight_files import check_safetensors, chunks, listed, naming
from unisono.errors import ModelCorrupt, ModelNotFound, ModelUnsupported, shown
from unisono.user_files import SETTINGS, read_bytes

Layers = Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX, _BASE = "base_model.model.", ".base_layer"
_WHOLE = re.compile(
    r"base_model\.model\.([\w.]+\.)?(embed_tokens|lm_head|wte|embed_in|embed_out|word_embeddings)(\.base_layer)?\.weight"
)
"""Embeddings and output layers, which PEFT saves where one has an adapter, or the vocabulary may have grown."""
_TENSOR = re.compile(r"(.+)\.lora_(A|B)\.weight")
_READ = {
    *("peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules"),
    *("base_model_name_or_path", "init_lora_weights", "bias"),
}
_OF_TRAINING = {
    *("task_type", "auto_mapping", "peft_version", "revision", "inference_mode", "lora_dropout", "fan_in_fan_out"),
    *("exclude_modules", "layers_to_transform", "layers_pattern", "megatron_core", "qalora_group_size", "eva_config"),
    *("ensure_weight_tying", "runtime_config"),
}
"""Keys that say how it was made, or which layers have it, which its weights show."""
_HARMLESS_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Ways to begin training that leave the base as it is."""
_USUAL = 8
"""PEFT's rank and alpha where a configuration says none."""
_MOST_ALPHA = 1e30
"""What float32 can still multiply with weights."""
_MERGE = "merge it into the weights (peft: merge_and_unload, save_pretrained), and give the folder of the result"


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """An adapter that fits a model."""

    path: Path
    who: str
    scales: Mapping[str, float]
    """By the name of each layer that it changes, what its product is multiplied by."""
    warnings: tuple[str, ...] = ()
    bases: Mapping[str, str] = field(default_factory=dict)
    """Of what weights it holds as they are without it: the names in its file by those of layers; see `check_bases`."""

    @property
    def weights(self) -> Path:
        return self.path / WEIGHTS


def check_adapter(path: Path, who: str) -> None:
    """Look at an adapter's files alone, as its model may take long to read; ``who`` has it. Raises a `ModelError`."""
    _read_files(path, f"{who}: the adapter {str(path)!r}")


def check_bases(model: Any, files: AdapterFiles, read: Callable[[Path], Mapping[str, Any]]) -> None:
    """Hold the embeddings and output layers that PEFT saves beside an adapter against those of a loaded model.

    Raises a `ModelUnsupported` where they differ: an adapter is added to a model, and replaces nothing of it.
    """
    tensors = read(files.weights) if files.bases else {}
    for layer, name in files.bases.items():
        own, saved = model.get_submodule(layer).weight, tensors[name]
        own = own.to(saved.device)
        if own.shape != saved.shape or not any(
            bool((own.to(kind) == saved.to(kind)).all()) for kind in (own.dtype, saved.dtype)
        ):
            raise ModelUnsupported(
                f"{files.who} holds weights of its base for {layer}, and they are not the model's", hint=_MERGE
            )


def check_made_for(path: Path, names: Collection[str], who: str) -> tuple[str, ...]:
    """Whether an adapter is for a model, by its ``names``; see `check_base`."""
    who = f"{who}: the adapter {str(path)!r}"
    return check_base(
        _config(path, who).get("base_model_name_or_path"), names, who, f"write that into {CONFIG}, or null"
    )


def read_adapter(path: Path, model: Any, names: Collection[str], who: str) -> AdapterFiles:
    """Hold an adapter against a model, which may have shapes alone; ``names`` are what the model is called.

    Raises a `ModelError` that says in which way it does not fit.
    """
    doubts = check_made_for(path, names, who)
    who = f"{who}: the adapter {str(path)!r}"
    config, layers, whole = _read_files(path, who)
    bases = _bases(whole, model, who)
    if changes_nothing(path / WEIGHTS, layers):
        doubts += (f"the adapter {str(path)!r} changes nothing: all of its halves B are zeros, as before training",)
    linear = {name: module for name, module in model.named_modules() if _shape_of(module) is not None}
    missing = [name for name in layers if name not in linear]
    if missing:
        raise ModelUnsupported(
            f"{who} is for {listed(missing)}, and the model has no such linear layer",
            hint="it is made for another model, or another kind of layer",
        )
    for name, (rows_r, columns_r) in layers.items():
        _check_shapes(name, rows_r, columns_r, _shape_of(linear[name]), who)
    _check_targets(config, layers, linear, who)
    scales = {name: _scale(name, config, its[0][0], who) for name, its in layers.items()}
    return AdapterFiles(path, who, scales, doubts, bases)


def _bases(whole: Mapping[str, tuple[int, ...]], model: Any, who: str) -> dict[str, str]:
    """The names of whole weights by their layers in a model. Raises a `ModelUnsupported` where shapes differ."""
    found = {_layer_of(name): name for name in whole}
    modules = dict(model.named_modules())
    for layer, name in found.items():
        own = getattr(modules.get(layer), "weight", None)
        if own is None or tuple(own.shape) != whole[name]:
            shape = "no such layer" if own is None else " × ".join(map(str, own.shape))
            raise ModelUnsupported(
                f"{who} holds {layer} whole, as {' × '.join(map(str, whole[name]))}, and the model has {shape}: it was "
                "trained after the vocabulary was resized, or is of another model",
                hint=_MERGE,
            )
    return found


def _layer_of(name: str) -> str:
    return name.removeprefix(_PREFIX).removesuffix(".weight").removesuffix(_BASE)


def _read_files(path: Path, who: str) -> tuple[dict[str, Any], Layers, Mapping[str, tuple[int, ...]]]:
    """An adapter's configuration, the shapes of A and B by layer, and those of weights that are there whole, by name.

    Raises a `ModelError`.
    """
    config = _config(path, who)
    _check_kind(config, who)
    if not (path / WEIGHTS).is_file():
        raise ModelNotFound(f"{who} lacks {WEIGHTS}", hint="save it as safetensors; pickles are not read")
    with naming(f"{who}: "):
        shapes = check_safetensors(path / WEIGHTS)
    whole = {name: shape for name, shape in shapes.items() if _WHOLE.fullmatch(name)}
    layers = _layers({name: shape for name, shape in shapes.items() if name not in whole}, who)
    return config, layers, whole


def changes_nothing(weights: Path, layers: Iterable[str]) -> bool:
    """Whether all products of an adapter are zero, as those of one that was never trained are."""
    halves = (f"{_PREFIX}{layer}.lora_B.weight" for layer in layers)
    return not any(chunk.strip(b"\0\x80") for half in halves for chunk in chunks(weights, half))  # of either sign


def _config(path: Path, who: str) -> dict[str, Any]:
    file = path / CONFIG
    if not file.is_file():
        raise ModelNotFound(f"{who} lacks {CONFIG}", hint="give the folder that peft's save_pretrained has written")
    try:
        config = json.loads(read_bytes(file, SETTINGS))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelCorrupt(f"{who}: {CONFIG} cannot be read: {error}", hint="save or download it again") from error
    if not isinstance(config, dict):
        raise ModelCorrupt(f"{who}: {CONFIG} is {shown(config)}, and no mapping", hint="save or download it again")
    return config


def _check_kind(config: Mapping[str, Any], who: str) -> None:
    def refuse(key: str) -> NoReturn:
        raise ModelUnsupported(f"{who} has {key} {shown(config.get(key))}, which is not applied here", hint=_MERGE)

    if config.get("peft_type") != "LORA":
        refuse("peft_type")
    if config.get("bias", "none") != "none":
        refuse("bias")
    start = config.get("init_lora_weights")
    if not any(start is each for each in _HARMLESS_STARTS[:3]) and start not in _HARMLESS_STARTS[3:]:
        refuse("init_lora_weights")
    for key, value in config.items():
        if key not in _READ and key not in _OF_TRAINING and value not in (None, False, [], {}, ""):
            refuse(key)
    for key, kind in (("rank_pattern", Mapping), ("alpha_pattern", Mapping)):
        if not isinstance(config.get(key) or {}, kind):
            refuse(key)


def _layers(shapes: Mapping[str, tuple[int, ...]], who: str) -> Layers:
    """The shapes of A and B by layer. Raises a `ModelUnsupported` for any other tensor."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    odd = []
    for name, shape in shapes.items():
        match = _TENSOR.fullmatch(name.removeprefix(_PREFIX))
        if match is None or not name.startswith(_PREFIX) or len(shape) != 2:
            odd.append(name)
        else:
            found.setdefault(match[1], {})[match[2]] = shape
    if odd:
        raise ModelUnsupported(f"{who} holds {listed(odd)}, beside the pairs of linear layers", hint=_MERGE)
    if lone := [name for name, its in found.items() if len(its) < 2]:
        raise ModelCorrupt(f"{who} holds one half of {listed(lone)} alone", hint="save or download it again")
    if not found:
        raise ModelCorrupt(f"{who} holds no weights", hint="save or download it again")
    return {name: (its["A"], its["B"]) for name, its in found.items()}


def _shape_of(module: Any) -> tuple[int, int] | None:
    """What goes into a linear layer and comes out of it; ``None`` for other modules."""
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        return int(module.in_features), int(module.out_features)
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # GPT-2's
        return int(module.weight.shape[0]), int(module.nf)
    return None


def _check_shapes(name: str, a: tuple[int, ...], b: tuple[int, ...], layer: tuple[int, int] | None, who: str) -> None:
    if layer is None or (a[1], b[0]) != layer or a[0] != b[1] or not a[0]:
        raise ModelUnsupported(
            f"{who} has {a[0]} × {a[1]} and {b[0]} × {b[1]} for the layer {name}, which is of {layer}",
            hint="it is made for another model",
        )


def _check_targets(config: Mapping[str, Any], layers: Collection[str], linear: Iterable[str], who: str) -> None:
    """Refuse an adapter that lacks layers which it names: it is cut, or of a model with fewer."""
    if config.get("layers_to_transform") is not None:
        return  # of which blocks is for the file to say
    targets, excluded = config.get("target_modules"), config.get("exclude_modules")
    ends = {kind_of(name) for name in layers}
    if targets in (None, "all-linear"):
        wanted = [name for name in linear if kind_of(name) in ends]
    else:
        wanted = [name for name in linear if _matches(targets, name, who)]
    lacking = [name for name in wanted if name not in layers and not (excluded and _matches(excluded, name, who))]
    if lacking:
        raise ModelUnsupported(
            f"{who} has no weights for {listed(lacking)}, which it is said to change",
            hint="it is cut, or made for a model with fewer layers",
        )


def _matches(targets: object, name: str, who: str) -> bool:
    """Whether a layer is among those that PEFT takes a list of ends, or a pattern of whole names, for."""
    if isinstance(targets, list):
        return any(name == each or name.endswith(f".{each}") for each in targets)
    try:
        return re.fullmatch(str(targets), name) is not None
    except re.error as error:
        raise ModelCorrupt(f"{who}: the pattern {shown(targets)} is none: {error}", hint="save it again") from error


def kind_of(name: str) -> str:
    """A layer's name without the numbers of blocks, which tells the same layer of all blocks."""
    return re.sub(r"\.\d+\.", ".N.", name)


def _scale(name: str, config: Mapping[str, Any], rank: int, who: str) -> float:
    said = _by_pattern(config.get("rank_pattern"), name, config.get("r", _USUAL), who)
    alpha = _by_pattern(config.get("alpha_pattern"), name, config.get("lora_alpha", _USUAL), who)
    if said != rank:
        raise ModelCorrupt(f"{who} has rank {rank} at {name}, and {CONFIG} says {shown(said)}", hint="save it again")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) <= _MOST_ALPHA:
        raise ModelCorrupt(
            f"{who}: lora_alpha is {shown(alpha)}", hint=f"it has to be a number of at most {_MOST_ALPHA:g} in size"
        )
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _by_pattern(pattern: Mapping[str, Any] | None, name: str, usual: Any, who: str) -> Any:
    """What a pattern has for a layer, as PEFT matches them: the first that the name ends with."""
    return next((value for key, value in (pattern or {}).items() if _matches(rf"(.*\.)?({key})", name, who)), usual)
