"""Frames: a JSON head and arrays of numbers as bytes, so that rows of a megabyte are neither parsed nor copied.

A frame is, in this order, all numbers little-endian:

- 8 bytes: the magic ``unisono`` and the version of the format, a byte;
- 4 bytes: the length of the head, an unsigned number;
- the head, a JSON object, and spaces up to a multiple of `ALIGNED` bytes of the frame. Its ``arrays`` lists ``[name,
  type, shape, offset]`` of each array: a type of `TYPES`, the sizes of its axes, and where it begins after the head;
- the arrays, in the order of the list. Each begins at the next multiple of `ALIGNED` bytes after what stands before it,
  which zeros fill, and the last one ends the frame.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisono.errors import shown

MAGIC = b"unisono"
VERSION = 1
START = struct.Struct("<7sBI")
ALIGNED = 64
TYPES: dict[str, np.dtype[Any]] = {
    "u1": np.dtype("u1"),
    "i4": np.dtype("<i4"),
    "f4": np.dtype("<f4"),
    "f8": np.dtype("<f8"),
}
"""Of the numbers of an array: unsigned bytes, and integers and floats of so many bytes."""
LONGEST = 2**31 - 1
"""The most numbers along an axis."""
AXES = 4
"""The most axes of an array."""
HEAD = 2**24
"""The most bytes of a head."""

Buffer = bytes | bytearray | memoryview


class FrameError(ValueError):
    """Bytes that are no frame of this version."""


@dataclass(frozen=True, slots=True)
class Frame:
    head: dict[str, Any]
    """Without ``arrays``."""
    arrays: dict[str, NDArray[Any]]
    """Views of the bytes that were read."""

    def array(self, name: str, type_name: str, axes: int) -> NDArray[Any]:
        """An array that has to be there. Raises a `FrameError`."""
        found = self.arrays.get(name)
        if found is None:
            raise FrameError(f"it has no array {name!r}")
        if found.dtype != TYPES[type_name] or found.ndim != axes:
            raise FrameError(f"its array {name!r} is {_words(found)}, not {type_name} of {axes} axes")
        return found


def write_frame(head: Mapping[str, object], arrays: Mapping[str, NDArray[Any]]) -> list[memoryview]:
    """The parts of a frame, to be sent one after the other; arrays are not copied."""
    laid_out = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    listed: list[list[object]] = []
    body: list[memoryview] = []
    end = 0
    for name, array in laid_out.items():
        offset = _aligned(end)
        listed.append([name, _type_name(array), list(array.shape), offset])
        body += [memoryview(bytes(offset - end))] if offset > end else []
        body += [array.reshape(-1).view("u1").data] if array.nbytes else []
        end = offset + array.nbytes
    text = json.dumps({**head, "arrays": listed}, separators=(",", ":"), allow_nan=False).encode()
    text = text.ljust(_aligned(START.size + len(text)) - START.size)
    return [memoryview(START.pack(MAGIC, VERSION, len(text)) + text), *body]


def read_frame(data: Buffer) -> Frame:
    """Read a frame; its arrays are views of ``data``. Raises a `FrameError` that names what is wrong."""
    if len(data) < START.size:
        raise FrameError(f"it has {len(data)} bytes, and a frame begins with {START.size}")
    magic, version, length = START.unpack_from(data)
    if magic != MAGIC:
        raise FrameError("it does not begin as a frame does")
    if version != VERSION:
        raise FrameError(f"it is a frame of version {version}; this is version {VERSION}")
    if length > min(HEAD, len(data) - START.size):
        raise FrameError(f"its head of {length} bytes is longer than what is there, or than {HEAD} bytes")
    head = _read_head(bytes(data[START.size : START.size + length]))
    listed = head.pop("arrays", None)
    if not isinstance(listed, list):
        raise FrameError("its head has no list of arrays")
    arrays: dict[str, NDArray[Any]] = {}
    body = memoryview(data)[START.size + length :]
    if (START.size + length) % ALIGNED:
        raise FrameError(f"its head does not end at a multiple of {ALIGNED} bytes")
    at = 0
    for entry in listed:
        name, array, at = _read_array(body, entry, at)
        if name in arrays:
            raise FrameError(f"it has two arrays {shown(name)}")
        arrays[name] = array
    if at != len(body):
        raise FrameError(f"{len(body) - at} bytes follow its last array")
    return Frame(head, arrays)


def _type_name(array: NDArray[Any]) -> str:
    name = next((name for name, dtype in TYPES.items() if dtype == array.dtype), None)
    if name is None:
        raise ValueError(f"a frame has no arrays of {array.dtype}")
    return name


def _aligned(at: int) -> int:
    return -(-at // ALIGNED) * ALIGNED


def _read_head(text: bytes) -> dict[str, Any]:
    try:
        head = json.loads(text.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
    except FrameError:
        raise
    except (ValueError, RecursionError):  # of bytes that are no UTF-8, too; the error may cite what was sent
        raise FrameError("its head is not JSON") from None
    if not isinstance(head, dict):
        raise FrameError("its head is no JSON object")
    return head


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise FrameError("its head has a key twice")
    return found


def _no_constant(name: str) -> float:
    raise FrameError(f"its head has {name}, which is no JSON")


def _read_array(body: memoryview, entry: object, at: int) -> tuple[str, NDArray[Any], int]:
    """An array of the list, and where it ends, if it begins where it has to after what ends at ``at``."""
    match entry:
        case [str(name), str(type_name), list(shape), int(offset)] if type_name in TYPES:
            dtype = TYPES[type_name]
        case _:
            raise FrameError("an entry of its arrays is not [name, type, shape, offset]")
    if len(shape) > AXES or not all(type(size) is int and 0 <= size <= LONGEST for size in shape):
        raise FrameError(f"its array {shown(name)} has a shape that cannot be")
    if offset != _aligned(at):
        raise FrameError(f"its array {shown(name)} begins at {offset}, not at {_aligned(at)}")
    end = offset + math.prod(shape) * dtype.itemsize
    if end > len(body):
        raise FrameError(f"its array {shown(name)} ends at {end}, and {len(body)} bytes follow the head")
    if any(body[at:offset]):
        raise FrameError(f"before its array {shown(name)} stands something other than zeros")
    return name, np.frombuffer(body[offset:end], dtype).reshape(shape), end


def _words(array: NDArray[Any]) -> str:
    return f"{_type_name(array)} of {array.ndim} axes"
