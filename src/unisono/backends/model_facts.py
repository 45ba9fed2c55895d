"""The numbers by which a model's files describe it, held to bounds before anything is made of them.

Bounds are several times what the largest known models have. A number beyond them is damage, or asks for all the memory.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unisono.errors import ModelCorrupt, shown

LAYERS, WIDTH, VOCABULARY, CONTEXT = 1_000, 1_000_000, 10_000_000, 1_000_000_000
LONGEST_LIST = 1_000
"""Numbers of one key: one a layer, the ids that end a text."""
LONGEST_MAPPING = 5_000
DEEPEST = 50
_HINT = "its files are damaged, or no model's: download it again"


@dataclass(frozen=True, slots=True)
class Bound:
    low: float
    high: float
    whole: bool = True
    zero: bool = True
    """Whether 0 is a value where the lowest is 0."""

    def holds(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if isinstance(value, float) and not math.isfinite(value):
            return False
        if self.whole and value != int(value):
            return False
        return self.low <= value <= self.high and (self.zero or value != 0)

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        return f"{kind} {f'from {self.low:,}' if self.zero else 'above 0'} to {self.high:,}"


_LAYERS, _WIDTH, _HEADS = Bound(1, LAYERS), Bound(1, WIDTH), Bound(1, 100_000)
_SOME_WIDTH, _SOME_HEADS, _EXPERTS = Bound(0, 10 * WIDTH), Bound(0, 100_000), Bound(0, 100_000)
_CONTEXT, _WINDOW, _ID = Bound(1, CONTEXT), Bound(0, CONTEXT), Bound(-1, VOCABULARY)
_TOKEN = Bound(0, VOCABULARY)
_POSITIVE = Bound(0, 1e15, whole=False, zero=False)
_EPSILON = Bound(0, 1, whole=False)


CONFIG: Mapping[str, Bound] = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), _LAYERS),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model"), _WIDTH),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "moe_intermediate_size", "q_lora_rank"), _SOME_WIDTH),
    **dict.fromkeys(("head_dim", "v_head_dim"), _SOME_WIDTH),
    **dict.fromkeys(("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "state_size"), _SOME_WIDTH),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads"), _HEADS),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "n_head_kv"), _HEADS),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "n_shared_experts"), _EXPERTS),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "num_experts_per_token"), _EXPERTS),
    **dict.fromkeys(("num_nextn_predict_layers", "first_k_dense_replace"), Bound(0, LAYERS)),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), _CONTEXT),
    "original_max_position_embeddings": _CONTEXT,
    **dict.fromkeys(("sliding_window", "attention_chunk_size"), _WINDOW),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "decoder_start_token_id"), _ID),
    **dict.fromkeys(("rope_theta", "rope_local_base_freq", "rotary_emb_base", "query_pre_attn_scalar"), _POSITIVE),
    **dict.fromkeys(("logits_scaling", "final_logit_softcapping", "attn_logit_softcapping"), _POSITIVE),
    **dict.fromkeys(("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"), _EPSILON),
    **dict.fromkeys(("factor", "low_freq_factor", "high_freq_factor", "attention_factor"), _POSITIVE),
    **dict.fromkeys(("long_factor", "short_factor"), _POSITIVE),
    "partial_rotary_factor": Bound(0, 16, whole=False, zero=False),
    "num_labels": Bound(0, LONGEST_MAPPING),
    "vocab_size": Bound(1, VOCABULARY),
}
"""Of a configuration of transformers; a key may have ``null``, or a list with a value for each layer."""

_EXPERTS_OF_GGUF = "expert_count", "expert_used_count"
_GROUPS_OF_GGUF = "expert_group_count", "expert_group_used_count"

GGUF: Mapping[str, Bound] = {
    "block_count": Bound(0, LAYERS),
    "nextn_predict_layers": Bound(0, LAYERS),
    **dict.fromkeys(("embedding_length", "attention.key_length", "attention.value_length"), _WIDTH),
    **dict.fromkeys(("feed_forward_length", "expert_feed_forward_length", "rope.dimension_count"), _SOME_WIDTH),
    **dict.fromkeys(("attention.head_count", "attention.head_count_kv"), _SOME_HEADS),
    **dict.fromkeys((*_EXPERTS_OF_GGUF, *_GROUPS_OF_GGUF, "expert_shared_count"), Bound(0, 512)),
    "context_length": _CONTEXT,
    "rope.scaling.original_context_length": _WINDOW,
    "attention.sliding_window": _WINDOW,
    "vocab_size": Bound(1, VOCABULARY),
    **dict.fromkeys(("rope.freq_base", "rope.freq_base_swa", "rope.scaling.factor"), Bound(0, 1e15, whole=False)),
    **dict.fromkeys(("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"), _EPSILON),
}
"""Of a GGUF file, after the name of its architecture. llama.cpp ends the process for more than 512 experts."""

_COUNTS, _COUNT = re.compile(r"(num|n)_|.*_(layers|heads|size|dim|rank)$"), Bound(-1, 10 * WIDTH)
"""Keys of other numbers of things, of which libraries make lists."""
_WITH_LANGUAGE = ("text_config", "llm_config", "language_config", "decoder")
_ALTERNATIVES = (
    (("num_attention_heads", "n_head", "n_heads"), ("num_key_value_heads", "num_kv_heads"), True),
    (("num_experts", "num_local_experts", "n_routed_experts"), ("num_experts_per_tok", "moe_topk"), False),
)
"""Keys of a number, those of one that is no larger, and whether the former is a multiple of the latter."""


def check_config(stated: Mapping[str, Any], source: object) -> None:
    """Raise `ModelCorrupt` unless the numbers of a configuration can be a model's; ``source`` names it in messages."""
    for where, key, value, inner in _walk(stated, "", 0, source):
        bound = CONFIG.get(key, _COUNT)
        if inner and bound.whole and bound.low > 0:
            bound = Bound(0, bound.high)  # parts that see or hear are not made where only text is read
        _check(f"{where}{key}", value, bound, source)
    parts = {key: part for key in _WITH_LANGUAGE if (part := stated.get(key)) is not None}
    for key, part in parts.items():
        if not isinstance(part, Mapping):
            raise ModelCorrupt(f"{source}: {key} is {shown(part)}: it has to be a configuration", hint=_HINT)
    for each in (stated, *parts.values()):
        for several, fewer, multiple in _ALTERNATIVES:
            _check_parts(each, several, fewer, multiple, source)


def _walk(
    part: Mapping[str, Any], where: str, depth: int, source: object, inner: bool = False
) -> Iterator[tuple[str, str, Any, bool]]:
    if depth > DEEPEST:
        raise ModelCorrupt(f"{source} is nested in more than {DEEPEST} levels", hint=_HINT)
    if len(part) > LONGEST_MAPPING:
        words = f"{len(part):,} keys, and at most {LONGEST_MAPPING:,} are read"
        raise ModelCorrupt(f"{source}: {where.rstrip('.') or 'it'} has {words}", hint=_HINT)
    for given, value in part.items():
        key = str(given)  # the library makes numbers of those of labels
        if isinstance(value, Mapping):
            other = inner or (key.endswith("_config") and key not in _WITH_LANGUAGE)
            yield from _walk(value, f"{where}{key}.", depth + 1, source, other)
        elif value is not None and (key in CONFIG or (type(value) is int and _COUNTS.match(key))):
            yield where, key, value, inner


def _check(key: str, value: object, bound: Bound, source: object) -> None:
    several = isinstance(value, np.ndarray | list)
    values = list(value[: LONGEST_LIST + 1]) if isinstance(value, np.ndarray | list) else [value]
    if len(values) > LONGEST_LIST:
        raise ModelCorrupt(f"{source}: {key} has more values than {LONGEST_LIST:,}", hint=_HINT)
    for each in (each.item() if isinstance(each, np.generic) else each for each in values):
        if not bound.holds(each) and not (each is None and several):
            raise ModelCorrupt(f"{source}: {key} is {shown(each)}: it has to be {bound}", hint=_HINT)


def _check_parts(
    facts: Mapping[str, Any], several: Iterable[str], fewer: Iterable[str], multiple: bool, source: object
) -> None:
    whole, part = (next(((key, facts[key]) for key in keys if key in facts), None) for keys in (several, fewer))
    if whole is None or part is None or not isinstance(whole[1], int) or not isinstance(part[1], int):
        return
    if part[1] > whole[1] or (multiple and part[1] and whole[1] % part[1]):
        words = "which it does not divide" if multiple else "which is less"
        raise ModelCorrupt(f"{source}: {part[0]} is {part[1]:,} and {whole[0]} is {whole[1]:,}, {words}", hint=_HINT)


def check_tokenizer(content: object, source: object) -> None:
    """Raise `ModelCorrupt` where a tokenizer's file has ids that no model has; ``content`` is its JSON."""
    whole = content if isinstance(content, Mapping) else {}
    model = whole.get("model")
    vocab = model.get("vocab") if isinstance(model, Mapping) else None
    added = whole.get("added_tokens")
    ids = dict(vocab) if isinstance(vocab, Mapping) else {}
    for token in added if isinstance(added, list) else ():
        if isinstance(token, Mapping):
            ids[f"added_tokens: {token.get('content')}"] = token.get("id")
    for text, token in ids.items():
        if type(token) is not int or not 0 <= token <= VOCABULARY:
            raise ModelCorrupt(
                f"{source}: the id of {shown(text)} is {shown(token)}: it has to be {_TOKEN}", hint=_HINT
            )


def check_layers_held(layers: object, names: Iterable[str], source: object) -> None:
    """Raise `ModelCorrupt` where a configuration has more than twice the layers of which its files hold weights."""
    numbers = [int(match[1]) for name in names if (match := _OF_LAYER.search(name))]
    held = max(numbers, default=-1) + 1
    if held and isinstance(layers, int) and layers > 2 * held:
        raise ModelCorrupt(
            f"{source} has {layers:,} layers by its configuration, and its files hold weights of {held:,}",
            hint="its files are of different models: download all of them again",
        )


_OF_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d{1,6})\.")


def check_gguf(path: Path, architecture: str, metadata: Mapping[str, Any]) -> None:
    """Raise `ModelCorrupt` unless the numbers in the head of a GGUF file can be a model's."""
    _check("general.alignment", metadata.get("general.alignment", 32), Bound(1, 1 << 16), path)
    for name, bound in GGUF.items():
        if (value := metadata.get(f"{architecture}.{name}")) is not None:
            _check(f"{architecture}.{name}", value, bound, path)
    layers = metadata.get(f"{architecture}.block_count")
    for name in ("attention.head_count", "attention.head_count_kv", "feed_forward_length"):
        value = metadata.get(f"{architecture}.{name}")
        if isinstance(value, np.ndarray) and isinstance(layers, int) and len(value) < layers:
            raise ModelCorrupt(
                f"{path}: {architecture}.{name} has {len(value):,} values for {layers:,} layers", hint=_HINT
            )
    short = {name: metadata.get(f"{architecture}.{name}") for name in GGUF}
    _check_parts(short, ("attention.head_count",), ("attention.head_count_kv",), True, path)
    _check_parts(short, ("block_count",), ("nextn_predict_layers",), False, path)
    _check_experts(path, architecture, metadata)
    _check_ids(path, metadata)


def _check_experts(path: Path, architecture: str, metadata: Mapping[str, Any]) -> None:
    """Refuse numbers of experts that contradict one another: llama.cpp ends the process over them."""

    def most(name: str) -> int:
        value = metadata.get(f"{architecture}.{name}")
        return int(np.max(value, initial=0)) if isinstance(value, int | np.ndarray) else 0

    count, used, groups, chosen = map(most, (*_EXPERTS_OF_GGUF, *_GROUPS_OF_GGUF))
    if architecture.startswith("hunyuan") and count <= 1:
        return
    for wrong, name, value, words in (
        (used > count, _EXPERTS_OF_GGUF[1], used, f"it has {count:,} experts"),
        (count and not used, _EXPERTS_OF_GGUF[1], used, f"it has {count:,} experts, of which none would answer"),
        (groups >= max(1, count) and groups, _GROUPS_OF_GGUF[0], groups, f"it has {count:,} experts"),
        (groups > 1 and count % groups, _GROUPS_OF_GGUF[0], groups, f"it has {count:,} experts, in groups of a size"),
        (groups > 1 and not 0 < chosen < groups, _GROUPS_OF_GGUF[1], chosen, f"it has {groups:,} groups of experts"),
    ):
        if wrong:
            raise ModelCorrupt(f"{path}: {architecture}.{name} is {value:,}, and {words}", hint=_HINT)


def _check_ids(path: Path, metadata: Mapping[str, Any]) -> None:
    tokens = metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list) and len(set(tokens)) < len(tokens):
        twice = next((text for text, count in Counter(tokens).items() if count > 1 and text), None)
        if twice is not None:  # which ends the process in llama.cpp; it gives names to empty ones
            raise ModelCorrupt(f"{path} has the token {shown(twice)} twice", hint=_HINT)
    for name in ("bos", "eos", "eot", "eom", "padding", "unknown"):
        key = f"tokenizer.ggml.{name}_token_id"
        value = metadata.get(key)
        none = value is None or (isinstance(value, int) and value in (-1, 2**32 - 1))  # which stand for no token
        if not none:
            _check(key, value, _ID, path)  # one that names no token is none, as in llama.cpp


def check_shapes(made: Mapping[str, tuple[int, ...]], held: Mapping[str, tuple[int, ...]], source: object) -> None:
    """Raise `ModelCorrupt` where a model would have a weight far larger than that in its files.

    Formats pack eight numbers into one. What differs by less is found when the weights are loaded.
    """
    for name, shape in made.items():
        if name in held and math.prod(shape) > 16 * max(1, math.prod(held[name])):
            by_config, by_file = (" × ".join(f"{each:,}" for each in either) for either in (shape, held[name]))
            raise ModelCorrupt(
                f"{source}: {name} is {by_config} by its configuration, and {by_file} in its files",
                hint="its files are of different models: download all of them again",
            )


def check_ids(ids: Iterable[int], tokens: int, source: object) -> None:
    """Raise `ModelCorrupt` for ids of a tokenizer that leave most of a table empty, or lie beyond any vocabulary."""
    most = min(VOCABULARY, 4 * tokens + 100_000)
    for each in ids:
        if not 0 <= each <= most:
            raise ModelCorrupt(
                f"{source} has the token id {each:,}: with {tokens:,} tokens ids go from 0 to {most:,}", hint=_HINT
            )
