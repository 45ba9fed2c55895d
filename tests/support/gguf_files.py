"""GGUF files like another, with some of their metadata, tensors or layers changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter

Change = Callable[[str, np.ndarray[Any, Any]], tuple[str, np.ndarray[Any, Any]] | None]
"""A tensor's name and data, to what they become; ``None`` leaves the tensor out."""


def rewrite_gguf(
    source: Path, target: Path, *, metadata: Mapping[str, object] | None = None, change: Change | None = None
) -> Path:
    """Write ``target``, which is ``source`` with other metadata (``None`` drops a key) and changed tensors."""
    reader = GGUFReader(source)
    metadata = dict(metadata or {})
    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = metadata.get(name, field.contents()) if name in metadata else field.contents()
        kind = field.types[0]
        if value is not None:
            inner = field.types[-1] if kind == GGUFValueType.ARRAY else None
            writer.add_key_value(name, value, kind, sub_type=inner)
    for tensor in reader.tensors:
        changed = (tensor.name, tensor.data) if change is None else change(tensor.name, tensor.data)
        if changed is not None:
            name, data = changed
            writer.add_tensor(name, np.ascontiguousarray(data), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def without_layer(source: Path, target: Path, layer: int) -> Path:
    """A whole and consistent file of a model that has one layer fewer."""
    reader = GGUFReader(source)
    key = f"{reader.fields['general.architecture'].contents()}.block_count"

    def change(name: str, data: np.ndarray[Any, Any]) -> tuple[str, np.ndarray[Any, Any]] | None:
        match = re.match(r"blk\.(\d+)\.", name)
        number = int(match[1]) if match else -1
        if match is None or number < layer:
            return name, data
        return None if number == layer else (f"blk.{number - 1}.{name[match.end() :]}", data)

    return rewrite_gguf(source, target, metadata={key: reader.fields[key].contents() - 1}, change=change)
