"""A GGUF model whole: the parts of a split one, and the weights that its layers lack."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

from unisono.backends.gguf import GgufFile, read_head
from unisono.backends.gguf_optional import lacking_in_all
from unisono.backends.model_facts import check_gguf
from unisono.backends.weight_files import named
from unisono.errors import ModelCorrupt, ModelNotFound, ModelUnsupported

_PART_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_OF_LAYER = re.compile(r"blk\.(?P<layer>\d+)\.(?P<rest>.+)")
_OPTIONAL = re.compile(r"rope_|attn_sinks|.*\.(input_)?scale$")
_COMPUTED = re.compile(
    r"^(token_embd|output|output_norm)\.|\.(attn|ffn)_(q|k|v|qkv|output|up|down|gate|\w*norm)\.(weight|bias)$"
)
_WHOLE_NUMBERS = (24, 25, 26, 27)
"""ggml's numbers of the types int8 to int64."""
_AGAIN = "download or convert the model again"


def read_gguf(path: Path) -> GgufFile:
    """Read the heads of a GGUF model's files, of which ``path`` is the first.

    Raises:
        ModelNotFound: there is no such file, or a part of the model is missing.
        ModelCorrupt: a file is cut short or damaged, or the parts do not belong together.
        ModelUnsupported: this is no GGUF model, or a part but the first.
    """
    first = read_head(path)
    check_gguf(path, first.architecture, first.metadata)
    number, count = first.number("split.no") or 0, first.number("split.count") or 1
    if count <= 1:
        return _joined([first]) if first.shapes else first
    match = _PART_NAME.fullmatch(path.name)
    if number:
        name = (
            f"give the first, {_part(match, 1, count)}"
            if match
            else f"give the one with -00001-of-{count:05} in its name"
        )
        raise ModelUnsupported(f"{path} is part {number + 1} of {count} of a model", hint=name)
    if match is None or (int(match["number"]), int(match["count"])) != (1, count):
        raise ModelUnsupported(
            f"{path} is part 1 of {count} of a model, and its name does not say so",
            hint=f"give it back its name, …-00001-of-{count:05}.gguf: the other parts are found by it",
        )
    paths = parts_of(path)
    for each, part in enumerate(paths, 1):
        if not part.is_file():
            raise ModelNotFound(
                f"part {each} of {count} of the model is missing: {part}",
                hint="download the missing part into the same folder",
            )
    return _joined([first, *(read_head(part) for part in paths[1:])])


def parts_of(path: Path) -> list[Path]:
    """The files of a GGUF model, by the name of the first."""
    match = _PART_NAME.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    return [path.with_name(_part(match, each, count)) for each in range(1, count + 1)]


def _part(match: re.Match[str], number: int, count: int) -> str:
    return f"{match['stem']}-{number:05}-of-{count:05}.gguf"


def _joined(parts: list[GgufFile]) -> GgufFile:
    first, count = parts[0], len(parts)
    for number, part in enumerate(parts):
        if (part.number("split.no") or 0, part.number("split.count") or 1) != (number, count):
            raise ModelCorrupt(f"{part.path} does not say that it is part {number + 1} of {count}", hint=_AGAIN)
    shapes = {name: shape for part in parts for name, shape in part.shapes.items()}
    declared = first.number("split.tensors.count")
    if len(shapes) < sum(part.tensors for part in parts) or declared not in (None, len(shapes)):
        raise ModelCorrupt(
            (f"{first.path} holds" if count == 1 else f"the {count} parts of {first.path} hold")
            + f" {len(shapes):,} different tensors"
            + ("" if declared is None else f", and should hold {declared:,}"),
            hint=_AGAIN,
        )
    return replace(
        first,
        shapes=shapes,
        data_bytes=sum(part.data_bytes for part in parts),
        parts=tuple(part.path for part in parts),
        places={name: place for part in parts for name, place in part.places.items()},
    )


def check_layers(file: GgufFile) -> None:
    """Raise `ModelCorrupt` where a file lacks weights.

    These are its embeddings, a whole layer, a bias or norm that other layers have, and what a model of its kind always
    has (`gguf_optional`).
    """
    _refuse_whole_numbers(file)
    layers = _layers(file)
    empty = _empty(file)
    gone = [n for n in range(_needed(file)) if n not in layers and not {"attn", "ffn"} <= empty.get(n, set())]
    lacking = [name for name in unlike_others(file) if len(_shape_elsewhere(file, name)) == 1]
    lacking += [] if "token_embd.weight" in file.shapes else ["token_embd.weight"]
    lacking += lacking_in_all(file)
    if gone:
        usual = _usual(layers)
        lacking += [f"blk.{layer}.{rest}" for layer in gone for rest in usual or ["*"]]
    if lacking:
        raise ModelCorrupt(f"{file.path} lacks {named(lacking)}", hint=_AGAIN)


def _refuse_whole_numbers(file: GgufFile) -> None:
    """llama.cpp ends the process where a matrix or a norm holds whole numbers."""
    odd = [name for name, place in file.places.items() if place.kind in _WHOLE_NUMBERS and _COMPUTED.search(name)]
    if odd:
        raise ModelCorrupt(f"{file.path} holds whole numbers as weights, {named(odd)}", hint=_AGAIN)


def unlike_others(file: GgufFile) -> list[str]:
    """Weights that a layer lacks, and is else like the layers that have them: probably missing.

    Layers may differ: in some models a few have no attention or no feed-forward part, which the file's metadata says,
    take their values from their keys, or have a bias more. So only what most layers have is missed, norms apart.
    """
    layers, empty = _layers(file), _empty(file)
    kinds = sorted({frozenset(rests) for rests in layers.values()}, key=lambda kind: (-len(kind), sorted(kind)))
    counts = Counter(rest for rests in layers.values() for rest in rests)
    found = []
    for layer, rests in sorted(layers.items()):
        fuller = next((kind for kind in kinds if kind > rests), rests)
        lacking = {
            rest
            for rest in fuller - rests
            if rest.split("_")[0] not in empty.get(layer, ()) and ("norm" in rest or 2 * counts[rest] > len(layers))
        }
        found += [f"blk.{layer}.{rest}" for rest in sorted(lacking) if lacking != {"attn_v.weight"}]
    return found


def fewer_than_labelled(file: GgufFile) -> str | None:
    """Where a file holds fewer parameters than its label says (``135M``), which is rounded, and the label.

    Labels that count otherwise (``8x7B``, ``30B-A3B``) say nothing here.
    """
    label = re.fullmatch(r"(\d+)(?:\.(\d+))?([KMBT])", file.text("general.size_label") or "", re.IGNORECASE)
    if label is None or not file.shapes:
        return None
    whole, fraction, unit = label.groups(default="")
    one = 10.0 ** (3 * "KMBT".index(unit.upper()) + 3)
    told = float(f"{whole}.{fraction or 0}") * one
    least = min((told - one / 10 ** len(fraction) / 2) * 0.99, told * 0.98)
    return label.group() if file.parameters < least else None


def _empty(file: GgufFile) -> dict[int, set[str]]:
    """The parts, ``attn`` and ``ffn``, that layers do not have by the file's own metadata."""
    sizes = {"attention.head_count": "attn", "attention.head_count_kv": "attn", "feed_forward_length": "ffn"}
    found: dict[int, set[str]] = defaultdict(set)
    for key, part in sizes.items():
        for layer, size in enumerate(file.per_layer(f"{file.architecture}.{key}", _needed(file)) or ()):
            if size == 0:
                found[layer].add(part)
    return found


def _layers(file: GgufFile) -> dict[int, set[str]]:
    """The names of the weights of each layer that a model needs.

    Those of positions may stand in one layer for all; scales belong to quantised layers, sinks to some attention.
    """
    layers: dict[int, set[str]] = defaultdict(set)
    for name in file.shapes:
        if (match := _OF_LAYER.fullmatch(name)) and not _OPTIONAL.match(match["rest"]):
            layers[int(match["layer"])].add(match["rest"])
    return {layer: rests for layer, rests in layers.items() if layer < _needed(file)}


def _needed(file: GgufFile) -> int:
    """How many layers a model has, without those that only draft further tokens and may be left out."""
    count = file.number(f"{file.architecture}.block_count") or 0
    return count - (file.number(f"{file.architecture}.nextn_predict_layers") or 0)


def _usual(layers: dict[int, set[str]]) -> list[str]:
    kinds = Counter(frozenset(rests) for rests in layers.values())
    return sorted(kinds.most_common(1)[0][0]) if kinds else []


def _shape_elsewhere(file: GgufFile, name: str) -> tuple[int, ...]:
    rest = name.split(".", 2)[2]
    return next(shape for other, shape in file.shapes.items() if other.endswith(f".{rest}") and other.count(".") > 2)


def refuse_other_kinds_of_model(file: GgufFile) -> None:
    """Raise a `ModelUnsupported` for a file that says that it holds no model, or one that reads in both directions."""
    kind, architecture = file.text("general.type") or "model", file.architecture
    if kind != "model":
        raise unsupported(file, f"it holds no model but {kind!r}")
    if file.metadata.get(f"{architecture}.attention.causal") is False or file.number(f"{architecture}.pooling_type"):
        raise unsupported(file, "it makes embeddings, not text")


def unsupported(file: GgufFile, reason: str) -> ModelUnsupported:
    return ModelUnsupported(
        f"{file.path} ({file.architecture}) cannot be a member: {reason}",
        hint="give the GGUF file of a text-generation model",
    )
