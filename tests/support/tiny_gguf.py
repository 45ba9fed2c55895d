"""Random llama models of a few thousand weights as GGUF files, whole or not, that both backends load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from unisono.vocab.pieces import BYTE_LEVEL_ALPHABET

WIDTH, INNER, HEADS, LAYERS = 32, 64, 2, 3
TOKENS = [*BYTE_LEVEL_ALPHABET, "<s>", "</s>"]


def tiny_tensors(seed: int = 5) -> dict[str, np.ndarray[Any, Any]]:
    """The weights by name, ordered as in a file, without an output layer: it is tied."""
    draw = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(TOKENS), WIDTH)}
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.{name}.weight": (WIDTH, WIDTH) for name in ("attn_q", "attn_k", "attn_v")}
        shapes |= {f"blk.{layer}.{name}.weight": (WIDTH,) for name in ("attn_norm", "ffn_norm")}
        shapes |= {f"blk.{layer}.{name}.weight": (INNER, WIDTH) for name in ("ffn_gate", "ffn_up")}
        shapes |= {f"blk.{layer}.attn_output.weight": (WIDTH, WIDTH), f"blk.{layer}.ffn_down.weight": (WIDTH, INNER)}
    shapes["output_norm.weight"] = (WIDTH,)
    return {name: (draw.standard_normal(shape) * 0.3).astype(np.float32) for name, shape in shapes.items()}


def write_tiny(
    path: Path,
    tensors: dict[str, np.ndarray[Any, Any]],
    *,
    pre: str | None = "gpt-2",
    split: tuple[int, ...] = (),
    architecture: str = "llama",
    name: str = "tiny",
    controls: tuple[str, ...] = (),
    **keys: str | float,
) -> Path:
    """Write a model, or with ``split`` (number, count, tensors of all) a part of one.

    ``controls`` are tokens beyond the weights' rows, for tokenizers alone. ``keys`` are more of its architecture's
    metadata, or others', with ``__`` for a dot.
    """
    writer = gguf.GGUFWriter(path, architecture)
    if not split or split[0] == 0:
        writer.add_name(name)
        _add_facts(writer, pre, controls, {key.replace("__", "."): value for key, value in keys.items()})
    if split:
        writer.add_uint16("split.no", split[0])
        writer.add_uint16("split.count", split[1])
        writer.add_int32("split.tensors.count", split[2])
    for each, values in tensors.items():
        writer.add_tensor(each, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_parts(folder: Path, count: int = 3) -> list[Path]:
    """Write a model in parts, and return their paths."""
    whole = list(tiny_tensors().items())
    cuts = np.linspace(0, len(whole), count + 1).astype(int)
    return [
        write_tiny(
            folder / f"tiny-{n + 1:05}-of-{count:05}.gguf",
            dict(whole[cuts[n] : cuts[n + 1]]),
            split=(n, count, len(whole)),
        )
        for n in range(count)
    ]


def _add_facts(
    writer: gguf.GGUFWriter, pre: str | None, controls: tuple[str, ...], keys: dict[str, str | float]
) -> None:
    for key, value in keys.items():
        add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32}[type(value)]
        add(key if key.startswith("general.") else f"{writer.arch}.{key}", value)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    if "rope.dimension_count" not in keys:
        writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(TOKENS))
    writer.add_file_type(0)
    writer.add_tokenizer_model("gpt2")
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list([*TOKENS, *controls])
    writer.add_token_types([1] * 256 + [3, 3] + [3] * len(controls))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    writer.add_add_bos_token(False)
