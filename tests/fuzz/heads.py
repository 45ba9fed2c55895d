"""The heads of GGUF and safetensors files as values, and back into bytes, whatever the values are."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from gguf import GGUFReader, GGUFValueType

from fuzz.mutations import as_bytes

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, LIST = 8, 9
Head = dict[str, Any]
"""``metadata``: by key, the number of a type and a value, which is a pair again for a list. ``tensors``: by name, the
dimensions, type and offset."""


def read_gguf(path: Path) -> tuple[Head, bytes]:
    """The head of a sound file, and the bytes of its tensors."""
    reader = GGUFReader(path)
    metadata: dict[str, list[Any]] = {}
    for name, field in reader.fields.items():
        if not name.startswith("GGUF."):
            kinds = [int(each) for each in field.types]
            value = field.contents()
            metadata[name] = [kinds[0], [kinds[-1], value] if kinds[0] == GGUFValueType.ARRAY else value]
    tensors = {
        each.name: [
            [int(size) for size in each.shape],
            int(each.tensor_type),
            int(each.data_offset - reader.data_offset),
        ]
        for each in reader.tensors
    }
    return {"metadata": metadata, "tensors": tensors}, path.read_bytes()[reader.data_offset :]


def gguf_bytes(head: Head, data: bytes) -> bytes:
    """A file with a head; values that have no place in their type are cut to it."""
    metadata, tensors = _mapping(head.get("metadata")), _mapping(head.get("tensors"))
    made = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for name, pair in metadata.items():
        kind, value = pair if isinstance(pair, list) and len(pair) == 2 else (TEXT, pair)
        made += _text(name) + _packed("I", kind) + _value(kind, value)
    for name, facts in tensors.items():
        shape, kind, offset = facts if isinstance(facts, list) and len(facts) == 3 else ([facts], 0, 0)
        sizes = shape if isinstance(shape, list) else [shape]
        made += _text(name) + _packed("I", len(sizes)) + b"".join(_packed("Q", size) for size in sizes)
        made += _packed("I", kind) + _packed("Q", offset)
    return made + bytes(-len(made) % 32) + data


def _value(kind: Any, value: Any) -> bytes:
    if kind == LIST:
        inner, values = value if isinstance(value, list) and len(value) == 2 else (TEXT, [value])
        made = [_value(TEXT if inner == LIST else inner, each) for each in (values if isinstance(values, list) else [])]
        return _packed("I", inner) + _packed("Q", len(made)) + b"".join(made)
    return _packed(SCALARS[kind], value) if type(kind) is int and kind in SCALARS else _text(value)


def _packed(layout: str, value: Any) -> bytes:
    """A number in its type's bytes; 0 for what is no number."""
    try:
        return struct.pack(f"<{layout}", value)
    except (struct.error, OverflowError, TypeError):
        size = struct.calcsize(f"<{layout}")
        number: int = value if isinstance(value, int) else 0
        return (number & ((1 << 8 * size) - 1)).to_bytes(size, "little")


def _text(value: Any) -> bytes:
    data = as_bytes(value if isinstance(value, str) else json.dumps(value))
    return struct.pack("<Q", len(data)) + data


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {"": value}


def read_safetensors(path: Path) -> tuple[Any, bytes]:
    """The header of a sound file, and the bytes after it."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def safetensors_bytes(header: Any, data: bytes) -> bytes:
    head = json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + data
