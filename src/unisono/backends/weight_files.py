"""Looks at safetensors files and their indices before weights are read: whether they are whole and all there."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from unisono.backends.bounded_files import (
    LONGEST_HEADER,
    MOST_IN_HEADER,
    MOST_TENSORS,
    parse_json,
    refuse_hollow,
)
from unisono.backends.file_kinds import AGAIN, refuse_other_kinds
from unisono.errors import ModelCorrupt, ModelError, ModelNotFound, shown
from unisono.user_files import open_plain, read_bytes

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I8", "U8", "BOOL"), 8),
}
"""Per element of a safetensors dtype; those of other dtypes are not checked."""
CONSTANTS = (
    r"rotary_emb\.inv_freq$|(^|\.)(masked_bias|attn\.(attention\.)?bias|attn\.causal_mask|position_ids)$"
    r"|num_batches_tracked$"
)
"""What old checkpoints hold, and models compute."""
HEADERS_KEPT = 4
"""A load looks at a file's header a dozen times; one of 100,000 tensors takes half a second to parse."""
MAY_LACK = re.compile(rf"^lm_head\.weight$|(^|\.)mtp\.|{CONSTANTS}")
"""What an index may name and no file hold: an output layer that is tied, what drafts further tokens, constants.

Where a model does need one of them, its weights are incomplete when it is loaded."""


def check_safetensors(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a safetensors file's tensors. Raises a `ModelError` unless all are whole."""
    refuse_other_kinds(path, "safetensors")
    refuse_hollow(path)
    size = path.stat().st_size
    try:
        length, header = _header(path)
        end = _covered({name: _place_of(name, **tensor) for name, tensor in header.items()})
        shapes = {name: tuple(tensor["shape"]) for name, tensor in header.items()}
    except (EOFError, struct.error) as error:
        raise ModelCorrupt(f"{path} is cut short: {error}", hint=AGAIN) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelCorrupt(f"{path} is damaged, or no safetensors file: {error}", hint=AGAIN) from error
    if 8 + length + end != size:
        problem = "cut short" if 8 + length + end > size else "damaged"
        raise ModelCorrupt(
            f"{path} is {problem}: it should have {8 + length + end:,} bytes, and has {size:,}", hint=AGAIN
        )
    return shapes


def first_dimensions(path: Path) -> dict[str, int]:
    """The first dimension of each tensor in a safetensors file; none where its header cannot be read."""
    return {name: shape[0] for name, shape in shapes(path).items() if shape}


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in a safetensors file; none where its header cannot be read."""
    try:
        return {name: tuple(map(int, tensor["shape"])) for name, tensor in _readable(path).items()}
    except (ValueError, TypeError, KeyError, OverflowError):
        return {}


def formats(path: Path) -> dict[str, str]:
    """The number format of each tensor in a safetensors file; none where its header cannot be read."""
    return {name: str(tensor.get("dtype")) for name, tensor in _readable(path).items()}


def _readable(path: Path) -> dict[str, dict[str, Any]]:
    try:
        _, header = _header(path)
        return {name: dict(tensor) for name, tensor in header.items()}
    except (OSError, EOFError, ValueError, struct.error, AttributeError, TypeError, KeyError):
        return {}


def _header(path: Path) -> tuple[int, Mapping[str, Any]]:
    """The length of a safetensors file's header, and its entries by tensor."""
    found = path.stat()
    return _read_header(path, found.st_size, (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns))


@functools.lru_cache(maxsize=HEADERS_KEPT)
def _read_header(path: Path, size: int, _version: tuple[int, ...]) -> tuple[int, Mapping[str, Any]]:
    with open_plain(path) as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if not 2 <= length <= LONGEST_HEADER:
            raise ValueError(f"its head would have {length:,} bytes")
        if 8 + length > size:
            raise EOFError(f"its head has {length:,} bytes, the file has {size:,}")
        header: dict[str, Any] = parse_json(file.read(length), MOST_IN_HEADER, once=True)
    header.pop("__metadata__", None)
    if len(header) > MOST_TENSORS:
        raise ValueError(f"it has {len(header):,} tensors, and at most {MOST_TENSORS:,} are read")
    return length, header


def _covered(places: Mapping[str, tuple[int, int]]) -> int:
    """The end of the bytes that tensors take, one after the other without gaps. Raises a `ValueError`."""
    reached = 0
    for name, (begin, end) in sorted(places.items(), key=lambda item: item[1]):
        if begin != reached:
            raise ValueError(f"{name} begins at {begin:,}, and what stands before it ends at {reached:,}")
        reached = end
    return reached


def _place_of(name: str, *, dtype: str, shape: list[int], data_offsets: list[int]) -> tuple[int, int]:
    begin, end = data_offsets
    if not all(type(each) is int and 0 <= each < 1 << 63 for each in (begin, end, *shape)):
        raise ValueError(f"the shape or the place of {name} is no row of whole numbers")
    bits = BITS.get(dtype)
    if not 0 <= begin <= end or (bits is not None and (end - begin) * 8 != math.prod(shape) * bits):
        raise ValueError(f"the {dtype} {shape} of {name} do not fit its {end - begin:,} bytes")
    return begin, end


def check_shards(index: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors in the files of an index. Raises a `ModelError` unless all are whole."""
    places, files = read_index(index), [file.name for file in shards(index)]
    held = {file: check_safetensors(index.parent / file) for file in files}
    _refuse_differing(index, held)
    lacking = [name for name, file in places.items() if name not in held[file] and not MAY_LACK.search(name)]
    if lacking:
        raise ModelCorrupt(
            f"the files that {index} names lack {named(lacking)}", hint="download the model again: its parts do not fit"
        )
    return {name: shape for shapes in held.values() for name, shape in shapes.items()}


def shards(index: Path) -> list[Path]:
    """The files that an index names. Raises `ModelNotFound` where one is missing."""
    files = [index.parent / file for file in sorted(set(read_index(index).values()))]
    for number, file in enumerate(files, 1):
        if not file.is_file():
            raise ModelNotFound(
                f"part {number} of {len(files)} of the weights is missing: {file}",
                hint="download the missing file, or the model again",
            )
    return files


def _refuse_differing(index: Path, held: Mapping[str, Mapping[str, object]]) -> None:
    """Refuse a tensor that several parts hold with different bytes: which one is read is left to chance."""
    first: dict[str, str] = {}
    for file, names in held.items():
        for name in names:
            other = first.setdefault(name, file)
            if other != file and differ((index.parent / other, name), (index.parent / file, name)):
                raise ModelCorrupt(
                    f"two parts of the weights hold {name}, and differ: {index.parent / other} and {file}", hint=AGAIN
                )


def differ(first: tuple[Path, str], second: tuple[Path, str], most: int | None = None) -> bool:
    """Whether two tensors of safetensors files differ, in their first ``most`` chunks of 64 KiB."""
    pairs = itertools.zip_longest(chunks(*first), chunks(*second))
    return any(one != other for one, other in itertools.islice(pairs, most))


def chunks(path: Path, name: str, size: int = 1 << 16) -> Iterator[bytes]:
    """The bytes of a tensor of a safetensors file, which is whole."""
    length, header = _header(path)
    begin, end = header[name]["data_offsets"]
    with open_plain(path) as file:
        file.seek(8 + length + begin)
        for start in range(begin, end, size):
            yield file.read(min(size, end - start))


def read_index(index: Path) -> dict[str, str]:
    """The file of each tensor, by an index's word. Raises a `ModelError` for a file that is none."""
    refuse_other_kinds(index, "text")
    try:
        places = dict(parse_json(read_bytes(index, LONGEST_HEADER), MOST_IN_HEADER, once=True)["weight_map"])
        if not all(isinstance(file, str) for file in places.values()):
            raise TypeError("its files have no names")
        if outside := next(
            (file for file in set(places.values()) if file == ".." or Path(file).name != file or "\0" in file), None
        ):
            raise ValueError(f"it names {shown(outside)}, which is no file of its own folder")
    except OSError as error:
        raise ModelError(f"{index} cannot be read: {error.strerror}", hint="check the file") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ModelCorrupt(f"{index} is not an index of weights ({error})", hint=AGAIN) from error
    return places


@contextlib.contextmanager
def naming(who: str) -> Iterator[None]:
    """Begin the message of a `ModelError` with ``who``."""
    try:
        yield
    except ModelError as error:
        raise type(error)(who + error.message, hint=error.hint) from error


def named(names: Iterable[str], most: int = 6) -> str:
    """How many weights, and the first of them by name."""
    ordered = sorted(names)
    more = f" and {len(ordered) - most:,} more" if len(ordered) > most else ""
    return f"{len(ordered):,} of the weights: {', '.join(ordered[:most])}{more}"


def listed(names: Iterable[str], most: int = 4) -> str:
    """Some of the names, and how many more there are."""
    first, more = (ordered := sorted(names))[:most], len(ordered) - most
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")
