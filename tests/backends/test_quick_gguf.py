"""The shortened reading of GGUF files against gguf's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unisono.backends.transformers.quick_gguf import FEW, without_long_arrays

gguf = pytest.importorskip("gguf")


def written(path: Path, endianess: Any) -> Path:
    writer = gguf.GGUFWriter(path, "llama", endianess=endianess)
    writer.add_array("tokenizer.ggml.tokens", [f"<{n}>é" * (n % 3) for n in range(FEW + 1)])
    writer.add_array("tokenizer.ggml.scores", [float(n) for n in range(FEW + 2)])
    writer.add_array("tokenizer.ggml.token_type", list(range(FEW)))
    writer.add_array("llama.feed_forward_length", [3, 4, 5])
    writer.add_uint32("llama.block_count", 2)
    writer.add_tensor("a", np.arange(96, dtype=np.float32).reshape(3, 32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("endianess", list(gguf.GGUFEndian))
def test_long_arrays_keep_their_length_and_all_else_is_as_it_was(tmp_path: Path, endianess: Any) -> None:
    path = written(tmp_path / "model.gguf", endianess)
    whole = gguf.GGUFReader(path)
    with without_long_arrays():
        short = gguf.GGUFReader(path)
    assert type(whole) is gguf.GGUFReader is not type(short)
    assert short.fields.keys() == whole.fields.keys()
    for name, field in whole.fields.items():
        found = short.fields[name]
        assert (found.offset, found.types, len(found.data)) == (field.offset, field.types, len(field.data))
        if len(field.data) > FEW:
            assert len(found.parts) < 10
            assert np.array_equal(found.parts[found.data[-1]], field.parts[field.data[0]])
        else:
            assert found.contents() == field.contents()
    [tensor], [expected] = short.tensors, whole.tensors
    assert np.array_equal(tensor.data, expected.data)
    assert tensor.data_offset == expected.data_offset
