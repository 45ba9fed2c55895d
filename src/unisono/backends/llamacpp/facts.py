"""What the head of a GGUF file tells of the model in it, as llama.cpp will run it."""

from __future__ import annotations

from unisono.backends.gguf.file import GgufFile
from unisono.backends.llamacpp.options import CACHE_TYPES, Options
from unisono.errors import ModelUnsupported

_MOST_LAYERS = 512
"""LLAMA_MAX_LAYERS; llama.cpp ends the process where a file declares more, or none."""


def refuse_other_models(file: GgufFile) -> None:
    """Refuse files that hold something else than the weights of a language model.

    Raises:
        ModelUnsupported: the file says so itself.
    """
    kind, architecture = file.text("general.type") or "model", file.architecture
    if kind != "model":
        raise unsupported(file, f"it holds no model but {kind!r}")
    if not file.tensors:
        raise unsupported(file, "it holds a vocabulary without weights")
    if file.text("tokenizer.ggml.model") is None:
        raise unsupported(file, "it has no tokenizer")
    if file.metadata.get(f"{architecture}.attention.causal") is False or file.number(f"{architecture}.pooling_type"):
        raise unsupported(file, "it makes embeddings, not text")
    if not 0 < (file.number(f"{architecture}.block_count") or 0) <= _MOST_LAYERS:
        raise unsupported(file, "it does not say how many layers it has")


def unsupported(file: GgufFile, reason: str) -> ModelUnsupported:
    """The error that says why a sound file cannot be a member."""
    return ModelUnsupported(
        f"{file.path} ({file.architecture}) cannot be a member: {reason}",
        hint="give the GGUF file of a text-generation model with attention in every layer",
    )


def trained_context(file: GgufFile) -> int | None:
    """Tokens that the model was trained to see at once."""
    return file.number(f"{file.architecture}.context_length")


def cache_bytes_a_token(file: GgufFile, options: Options) -> float:
    """Estimate what one token needs in the key-value cache: keys and values of every head and layer."""
    prefix = f"{file.architecture}."
    layers = file.number(prefix + "block_count") or 0
    heads = file.per_layer(prefix + "attention.head_count", layers) or [1] * layers
    shared = file.per_layer(prefix + "attention.head_count_kv", layers) or heads
    width = (file.number(prefix + "embedding_length") or 0) // max(1, *heads, 1)
    key = file.number(prefix + "attention.key_length") or width
    value = file.number(prefix + "attention.value_length") or width
    return sum(shared) * (key + value) * CACHE_TYPES[options.cache_dtype][1]
