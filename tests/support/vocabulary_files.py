"""Tiny random models with the vocabularies that come with llama.cpp's source, as GGUF files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from support.tiny_gguf import HEADS, INNER, LAYERS, WIDTH, tiny_tensors

CONTEXT = 8192
_KINDS = {
    bool: gguf.GGUFValueType.BOOL,
    int: gguf.GGUFValueType.UINT32,
    float: gguf.GGUFValueType.FLOAT32,
    str: gguf.GGUFValueType.STRING,
}
_ITEMS = {"int32": gguf.GGUFValueType.INT32, "float32": gguf.GGUFValueType.FLOAT32}


def write_with_vocabulary(path: Path, metadata: Mapping[str, Any], template: str) -> Path:
    """Write a random llama model with a file's tokenizer, and with a chat template where the file has none."""
    keys = {key: value for key, value in metadata.items() if key.startswith("tokenizer.")}
    keys.setdefault("tokenizer.chat_template", template)
    rows = len(keys["tokenizer.ggml.tokens"])
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in keys.items():
        if isinstance(value, np.ndarray):
            writer.add_key_value(key, value.tolist(), gguf.GGUFValueType.ARRAY, sub_type=_ITEMS[str(value.dtype)])
        elif isinstance(value, list):
            writer.add_key_value(key, value, gguf.GGUFValueType.ARRAY, sub_type=gguf.GGUFValueType.STRING)
        else:
            writer.add_key_value(key, value, _KINDS[type(value)])
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(rows)
    table = np.random.default_rng(5).standard_normal((rows, WIDTH)).astype(np.float32) * 0.3
    for name, values in (tiny_tensors() | {"token_embd.weight": table}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
