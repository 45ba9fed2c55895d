"""The files of a folder's weights: which ones transformers reads, whether they are whole, and what lies beside them."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unisono.backends import file_kinds, weight_files
from unisono.backends.base import LoadRequest
from unisono.backends.notices import Notices
from unisono.backends.weight_files import INDEX, WEIGHTS, check_safetensors, check_shards, named
from unisono.errors import ModelCorrupt, ModelError, ModelNotFound, ModelUnsupported

Shapes = Mapping[str, tuple[int, ...]]
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth")
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
NAMES_ITS_FILE = "transformers_weights"
"""The key of config.json that names the file of the weights, or their index."""
_AGAIN = "download the model again"
_MERGE = "merge it into the weights (peft: merge_and_unload, save_pretrained), and give the folder of the result"
_BESIDE = "give the base as model and this folder as adapter, or " + _MERGE
INTEGERS = ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "BOOL")
HALVES = {"F16", "BF16"}
OUTPUT = ("lm_head.weight", "embed_out.weight")
ENOUGH = 64
"""Chunks of two weights that are alike by no accident: 4 MB."""
ROUNDED = 0.005
"""By which share an index may be wrong: a layer of a hundred is a larger one."""
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")


def look_at(
    request: LoadRequest, config: Any, notices: Notices, *, allow_pickle: bool, chunks: int | None = None
) -> Shapes:
    """Check a folder's weights (`check_weights`) and hear warnings of them.

    ``chunks``: how much is compared of weights that should be one; all by default.
    """
    shapes, folder = check_weights(request, allow_pickle), request.source.path
    looks = (
        *(odd_formats(folder, config), untied(folder, config, chunks)),
        *(fewer_than_told(folder, config), twice(folder)),
    )
    found = (*beside_the_weights(folder), *itertools.chain.from_iterable(looks))
    notices.hear_all(found)
    return shapes


def check_weights(request: LoadRequest, allow_pickle: bool) -> Shapes:
    """Check that a folder holds weights that are whole and safe to load: pickles can run code.

    Returns the shapes of the tensors by name; none for pickles, which do not show them. Raises a `ModelError`.
    """
    folder, who = request.source.path, f"member {request.name!r}: "
    with weight_files.naming(who):
        chosen = _chosen(folder)
        if chosen is not None:
            return check_shards(chosen) if chosen.name.endswith(".index.json") else check_safetensors(chosen)
        pickles = _pickles(folder)
        if allow_pickle and (pickles & {PICKLE, PICKLE_INDEX}):
            _check_pickles(folder)
            return {}
        others = sorted(folder.glob("*.safetensors"))
        for file in others:
            check_safetensors(file)
    if others and not all(file.name in ADAPTER_WEIGHTS for file in others):
        raise ModelNotFound(
            f"{who}{folder} has neither {WEIGHTS} nor {INDEX}, by which the weights are found; it has {others[0].name}",
            hint="download the missing file, or the model again",
        )
    if not pickles:
        if (folder / ADAPTER).is_file():
            raise adapter_alone(folder, who)
        raise ModelNotFound(f"{who}{folder} holds no weights (no .safetensors file)", hint=_AGAIN)
    if not allow_pickle:
        raise ModelUnsupported(
            f"{who}{folder} holds only pickled weights ({min(pickles)}), which can run any code when loaded",
            hint="convert them to safetensors, or set `options: {allow_pickle: true}` if you trust their author",
        )
    raise ModelNotFound(
        f"{who}{folder} has neither {PICKLE} nor {PICKLE_INDEX}, by which pickled weights are found; it has "
        f"{min(pickles)}",
        hint=_AGAIN,
    )


def _chosen(folder: Path) -> Path | None:
    """The safetensors file, or the index of several, that transformers reads; ``None`` where there is none."""
    config = folder / "config.json"
    name = file_kinds.check_json(config).get(NAMES_ITS_FILE) if config.is_file() else None
    if name is None:
        return next((folder / name for name in (WEIGHTS, INDEX) if (folder / name).is_file()), None)
    if not isinstance(name, str) or not name.endswith((".safetensors", ".safetensors.index.json")):
        raise ModelUnsupported(
            f"{config} names {name!r} as the file of the weights ({NAMES_ITS_FILE})",
            hint="it has to be a .safetensors file of the folder, or a .safetensors.index.json",
        )
    file = folder / name
    if not Path(os.path.abspath(file)).is_relative_to(os.path.abspath(folder)):  # a link may lead elsewhere
        raise ModelUnsupported(f"{config} names {name!r}, outside of its folder ({NAMES_ITS_FILE})", hint=_AGAIN)
    if not file.is_file():
        raise ModelNotFound(f"the weights that {config} names are missing: {file} ({NAMES_ITS_FILE})", hint=_AGAIN)
    return file


def _pickles(folder: Path) -> set[str]:
    """The names of the pickled weights of a model; those of an adapter are none."""
    found = {file.name for pattern in (*PICKLES, PICKLE_INDEX) for file in folder.glob(pattern)}
    return found.difference(ADAPTER_WEIGHTS)


def _check_pickles(folder: Path) -> None:
    if (folder / PICKLE).is_file():
        file_kinds.refuse_other_kinds(folder / PICKLE, "pickle")
        return
    for file in weight_files.shards(folder / PICKLE_INDEX):
        file_kinds.refuse_other_kinds(file, "pickle")


def check_rows(folder: Path, expected: Mapping[str, int], who: str) -> None:
    """Raise a `ModelCorrupt` where a tensor in a folder has not the ``expected`` number of rows, by name."""
    for file in read_files(folder):
        for name, rows in weight_files.first_dimensions(file).items():
            if name in expected and rows != expected[name]:
                more, less = ("the weights are", "config.json") if rows > expected[name] else ("config.json is", "they")
                raise ModelCorrupt(
                    f"{who}: {more} larger than {less} by {abs(rows - expected[name]):,} ids: vocab_size is "
                    f"{expected[name]:,}, and {name} in {file.name} has {rows:,} rows",
                    hint="write the number of rows into config.json as vocab_size, or download the model again",
                )


def read_files(folder: Path) -> list[Path]:
    """The safetensors files that are read: one, or those of the index."""
    try:
        chosen = _chosen(folder)
        if chosen is None or not chosen.name.endswith(".index.json"):
            return [] if chosen is None else [chosen]
        return sorted(chosen.parent / name for name in set(weight_files.read_index(chosen).values()))
    except ModelError:
        return []  # `check_weights` says what is wrong with it


def beside_the_weights(folder: Path) -> list[str]:
    """Warnings of what a folder holds beside its weights."""
    found = [name for name in (ADAPTER, *ADAPTER_WEIGHTS) if (folder / name).is_file()]
    if not found:
        return []
    lies = f"an adapter lies beside its weights ({', '.join(found)}) and"
    return [f"{lies} is not applied: give the folder to a member by its key adapter, or {_MERGE}"]


def odd_formats(folder: Path, config: Any) -> list[str]:
    """Warnings of number formats that weights of one model do not have together, or at all."""
    if getattr(config, "quantization_config", None) is not None:
        return []
    formats = {name: kind for file in read_files(folder) for name, kind in weight_files.formats(file).items()}
    whole = [name for name, kind in formats.items() if kind in INTEGERS and name.endswith((".weight", ".bias"))]
    found = [f"its files hold whole numbers as weights, {named(whole)}"] if whole else []
    if set(formats.values()) >= HALVES:
        fewer = min(HALVES, key=list(formats.values()).count)
        odd = [name for name, kind in formats.items() if kind == fewer]
        found.append(f"its files hold some weights as {fewer}, unlike the others, {named(odd)}")
    return found


def untied(folder: Path, config: Any, chunks: int | None = None) -> list[str]:
    """A warning where a model is said to be tied and its output layer differs, in its first chunks at least, or the
    other way round.
    """
    places = {name: file for file in read_files(folder) for name in weight_files.formats(file)}
    heads, embeddings = ([name for name in places if name.endswith(ends)] for ends in (OUTPUT, EMBEDDINGS))
    if len(heads) != 1 or len(embeddings) != 1:
        return []
    [head], [embedding] = heads, embeddings
    pair = (places[head], head), (places[embedding], embedding)
    if not any(getattr(each, "tie_word_embeddings", False) for each in (config, config.get_text_config(decoder=True))):
        if weight_files.differ(*pair, min(chunks or ENOUGH, ENOUGH)):
            return []
        return [
            f"its files hold the same numbers as output layer ({head}) and embeddings ({embedding}), which its "
            "configuration does not tie: one may have been written in the other's place"
        ]
    if not weight_files.differ(*pair, chunks):
        return []
    return [
        f"its files hold an output layer ({head}) that is not its embeddings ({embedding}), though its configuration "
        "ties them: it is used as it is in the files; set tie_word_embeddings to false if that is meant"
    ]


def fewer_than_told(folder: Path, config: Any) -> list[str]:
    """A warning where an index tells of more weights than its files hold, as where a layer was left out of both.

    Its ``total_size`` is in bytes, and of some models those of another number format.
    """
    index, files = folder / INDEX, read_files(folder)
    if getattr(config, "quantization_config", None) is not None or not index.is_file() or _chosen(folder) != index:
        return []
    told = file_kinds.check_json(index).get("metadata")
    numbers = told if isinstance(told, Mapping) else {}
    held = sum(math.prod(shape) for file in files for shape in weight_files.shapes(file).values())
    sizes = {"total_parameters": [held], "total_size": [held, 2 * held, 4 * held, sum(f.stat().st_size for f in files)]}
    for key, possible in sizes.items():
        number = numbers.get(key)
        if not isinstance(number, int | float) or isinstance(number, bool) or number <= held:
            continue
        if all(abs(number - size) > ROUNDED * size for size in possible):
            return [
                f"its index tells of more weights than its files hold ({key} is {number:,.0f}, and they hold {held:,} "
                "parameters): a layer, or something else, may have been left out"
            ]
    return []


def twice(folder: Path) -> list[str]:
    """A warning where a folder holds its weights in one file and in parts, of which only the former is read."""
    if not (folder / INDEX).is_file() or _chosen(folder) != folder / WEIGHTS:
        return []
    try:
        parts = [part for part in sorted(set(weight_files.read_index(folder / INDEX).values())) if part != WEIGHTS]
    except ModelError:
        return []
    if not any((folder / part).is_file() for part in parts):
        return []
    return [
        f"its folder holds weights twice: {WEIGHTS} is read, and the {len(parts)} parts that {INDEX} names are not; "
        "delete those that are not meant"
    ]


def adapter_alone(folder: Path, who: str) -> ModelUnsupported:
    try:
        base = file_kinds.check_json(folder / ADAPTER).get("base_model_name_or_path") or "another model"
    except ModelError:
        base = "another model"
    return ModelUnsupported(f"{who}{folder} holds an adapter of {base}, and no model", hint=_BESIDE)
