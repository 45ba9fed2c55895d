"""Looks at a model's configuration before its weights are loaded: what it is, how it remembers, how long it may be."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Set
from functools import lru_cache
from pathlib import Path
from typing import Any

from unisono.backends import weight_files
from unisono.backends.base import LoadRequest
from unisono.backends.model_facts import check_config, check_layers_held, check_shapes
from unisono.backends.transformers.direction import check_direction_said
from unisono.errors import ModelUnsupported, shown

MASKED = {"full_attention", "sliding_attention"}
"""Layer kinds that rewind exactly and support rows of unequal length through a mask."""
STATES = ("linear_attention", "conv")
"""Layer kinds with a state in place of keys and values."""
HYBRID = ("hybrid", "hybrid_sliding")
"""Layer kinds with both."""
SLIDING = ("sliding_attention", "hybrid_sliding")
FORGETFUL = ("moe", "mlp")
"""Layers that remember nothing."""
DRAFTING = ("Eagle", "EAGLE", "Medusa", "Speculator", "DFlash")
"""Parts of the names of architectures that are no model by themselves."""
LANGUAGE_HEADS = ("CausalLM", "LMHead", "ConditionalGeneration")
SUPPRESSING = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids")
RESHAPING: Mapping[str, tuple[object, ...]] = {
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty", "num_beams"), (None, 1)),
    **dict.fromkeys(("no_repeat_ngram_size", "min_length", "min_new_tokens", "penalty_alpha"), (None, 0)),
    "stop_strings": (None, [], ""),
    **dict.fromkeys((*SUPPRESSING, "sequence_bias"), (None, [], {})),
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id", "exponential_decay_length_penalty"), (None,)),
    "guidance_scale": (None, 1),
    "token_healing": (None, False),
    **dict.fromkeys(("watermarking_config", "dola_layers", "force_words_ids", "constraints"), (None, {}, [])),
}
"""Keys of `generation_config.json` that change greedy texts, and the values that do not."""
PLAIN_ATTENTION = ("eager", "sdpa")
"""What computes attention wherever torch runs, with any mask."""
LOOPED = "num_layers_per_stack"
"""How many layers a model holds that runs them several times (HRM), and counts each time in `num_hidden_layers`."""
LIBRARY = "transformers."
DEFAULT_CONTEXT = 4096
"""For models without a limit (ALiBi and the like)."""


def without_useless_padding(config: Any) -> None:
    """Take a padding id beyond the rows out of a configuration: nothing is padded here, and torch refuses it."""
    text = config.get_text_config(decoder=True)
    rows, padding = getattr(text, "vocab_size", None), getattr(text, "pad_token_id", None)
    if isinstance(rows, int) and isinstance(padding, int) and not -rows <= padding < rows:
        text.pad_token_id = None


def without_habits(config: Any, attention: str | None) -> None:
    """Take out of a configuration how its author ran the model: what is returned, and kernels that are not here.

    ``attention`` is what the member asks for. Which kernel computes it changes nothing in an attention.
    """
    for part in (config, config.get_text_config(decoder=True)):
        part.return_dict = True
        if attention is None and getattr(part, "_attn_implementation", None) not in (None, *PLAIN_ATTENTION):
            part._attn_implementation = None


def not_applied(stated: Mapping[str, Any], never: Set[int] = frozenset()) -> str:
    """A warning of what a generation config asks for and an ensemble does not do; empty where there is none.

    That ids are suppressed that are ``never`` written is done.
    """
    left = {key: _left(key, stated[key], never) for key in RESHAPING if key in stated}
    asked = [f"{key} {shown(stated[key])}" for key, value in left.items() if value not in RESHAPING[key]]
    if not asked:
        return ""
    return (
        f"its generation_config.json asks for {', '.join(asked)}, which transformers' generate does and an "
        "ensemble does not: `sampling` and the request say how pieces are chosen"
    )


def _left(key: str, value: Any, never: Set[int]) -> Any:
    if key not in SUPPRESSING or not isinstance(value, list):
        return value
    return [each for each in value if never.isdisjoint(each if isinstance(each, list) else [each])]


def code_of(config: Any) -> str | None:
    """The class of its own that a model's folder or repository holds; ``None`` for one of the library's alone."""
    own = (getattr(config, "auto_map", None) or {}).get("AutoModelForCausalLM")
    return None if own is None else str(own)


def code_not_run(config: Any, model_class: Any) -> str:
    """A warning where a model has code of its own and the library's class of another name runs; empty where not."""
    own, used = code_of(config), getattr(model_class, "__name__", "")
    if own is None or own.rpartition(".")[2] == used:
        return ""
    return (
        f"its configuration names code of its own ({own}), which is not run: transformers' {used} computes in its "
        "place; set options: {trust_remote_code: true} if you trust its author"
    )


def check_made_of(config: Any, request: LoadRequest, who: str) -> None:
    """Hold a configuration, defaults filled in, against bounds and what its files have. Raises `ModelCorrupt`."""
    text = config.get_text_config(decoder=True)
    check_config(text.to_dict(), who)
    if request.source.kind == "folder":
        files = sorted(request.source.path.glob("*.safetensors"))
        names = [name for file in files for name in weight_files.first_dimensions(file)]
        held = getattr(text, LOOPED, None) or getattr(text, "num_hidden_layers", None)
        check_layers_held(held, names, who)


def check_weight_shapes(model: Any, folder: Path, who: str) -> None:
    """Hold a model without weights against the heads of the files in its folder. Raises `ModelCorrupt`."""
    made = {name: tuple(each.shape) for name, each in model.named_parameters()}
    for file in sorted(folder.glob("*.safetensors")):
        check_shapes(made, weight_files.shapes(file), who)


def check_language_model(config: Any, model_class: Any, who: str) -> None:
    """Raise a `ModelUnsupported` unless the model generates token by token and its memory can be kept."""
    _check_no_draft(config, who)
    hint = "use a decoder-only language model (one of transformers' …ForCausalLM)"
    kind = getattr(config, "model_type", "unknown")
    if getattr(config, "is_encoder_decoder", False):
        raise ModelUnsupported(f"{who} is an encoder-decoder model ({kind}), not a causal language model", hint=hint)
    if model_class is None:
        raise ModelUnsupported(f"{who} is a model of the type {kind!r}, not a causal language model", hint=hint)
    names = list(map(str, getattr(config, "architectures", None) or ()))
    known = (*LANGUAGE_HEADS, getattr(model_class, "__name__", ""))
    if names and not any(part in name for name in names for part in known if part):
        raise ModelUnsupported(f"{who} is a {names[0]}, which has no head that predicts the next token", hint=hint)
    check_direction_said(config, who)
    check_cache(model_class, who)
    text = config.get_text_config(decoder=True)
    kept = (*STATES, *HYBRID, *FORGETFUL) if _updates_states(model_class) else ()
    odd = set(layer_kinds(text)).difference(MASKED, kept)
    if odd:
        raise ModelUnsupported(
            f"{who} has layers ({', '.join(sorted(odd))}) whose memory of a text can neither be rewound nor kept",
            hint="use a model whose layers have full or sliding-window attention, or states in transformers' cache",
        )
    layers = zip(layer_kinds(text), layer_configs(text), strict=True)
    if any(kind in SLIDING and not getattr(layer, "sliding_window", None) for kind, layer in layers):
        raise ModelUnsupported(
            f"{who} has layers with sliding windows (layer_types), and does not say how long these are",
            hint="set sliding_window in its config.json, and use_sliding_window to true where its code asks for that",
        )


def _check_no_draft(config: Any, who: str) -> None:
    """Raise a `ModelUnsupported` for what only drafts tokens of another model, from that model's hidden states."""
    names = list(map(str, getattr(config, "architectures", None) or ()))
    named = next((name for name in names if any(word in name for word in DRAFTING)), None)
    if named is not None or getattr(config, "draft_vocab_size", None) is not None:
        raise ModelUnsupported(
            f"{who} is a {named or 'model with a draft_vocab_size'}, which drafts tokens for another model and reads "
            "that model's hidden states",
            hint="give the model that it drafts for; drafts of unisono are asked for by `speculate`",
        )


def check_cache(model_class: Any, who: str) -> None:
    """Raise a `ModelUnsupported` for a model that takes no cache from us: it would forget what it has read."""
    if memory_argument(model_class) is not None:
        return
    if getattr(model_class, "_is_stateful", False):
        raise ModelUnsupported(
            f"{who} is a {model_class.__name__}, whose recurrent state is not in transformers' cache",
            hint="use a model whose layers have full or sliding-window attention, or states in transformers' cache",
        )
    raise ModelUnsupported(
        f"{who} is a {model_class.__name__}, which keeps no keys and values of the tokens that it has read",
        hint="use a decoder-only language model whose forward takes past_key_values",
    )


def memory_argument(model_class: Any) -> str | None:
    """The argument of a model's forward by which it gets its memory of a text; ``None`` where there is none for us."""
    parameters = inspect.signature(model_class.forward).parameters
    if not getattr(model_class, "_is_stateful", False):
        return "past_key_values" if "past_key_values" in parameters else None
    if "state" in parameters:  # RWKV: a list of tensors
        return "state"
    names = ("past_key_values", "cache_params") if _updates_states(model_class) else ()
    return next((name for name in names if name in parameters), None)


def has_states(model_class: Any, text: Any) -> bool:
    """Whether a model, which is not refused, keeps a state that no rewind can cut back."""
    return memory_argument(model_class) == "state" or not set(layer_kinds(text)).isdisjoint((*STATES, *HYBRID))


def _updates_states(model_class: Any) -> bool:
    """Whether a model's code keeps its states in transformers' cache, rather than in one of its own."""
    module = inspect.getmodule(model_class)
    try:
        code = inspect.getsource(module) if module is not None else ""
    except (OSError, TypeError):
        return False
    return "update_conv_state(" in code or "update_recurrent_state(" in code


def layer_kinds(text: Any) -> list[str]:
    """Each layer's kind of attention, as its code computes it."""
    kinds = _read(text, "layer_types")
    if kinds is not None:
        return list(kinds)
    if _read(text, "sliding_window") is not None:
        kind = "sliding_attention"
    elif _read(text, "attention_chunk_size") is not None:
        kind = "chunked_attention"
    else:
        kind = "full_attention"
    return [kind] * int(text.num_hidden_layers)


def _read(text: Any, key: str) -> Any:
    """What a configuration says, where its class knows that key: those of the library keep any.

    The library's own cache goes by keys that its models do not read, and forgets what their masks let them see.
    """
    return getattr(text, key, None) if knows(text, key) else None


def knows(config: Any, key: str) -> bool:
    """Whether the class of a configuration has a key by itself."""
    kind: Any = type(config)
    return not kind.__module__.startswith(LIBRARY) or _has_usually(kind, key)


@lru_cache
def _has_usually(kind: Any, key: str) -> bool:
    try:
        return hasattr(kind(), key)
    except Exception:  # some cannot be made of defaults alone
        return True


def layer_windows(text: Any) -> list[int | None]:
    kinds = zip(layer_kinds(text), layer_configs(text), strict=True)
    return [int(layer.sliding_window) if kind in SLIDING else None for kind, layer in kinds]


def layer_configs(text: Any) -> list[Any]:
    """The configuration of each layer. Where layers differ, transformers refuses to read it from that of the model."""
    count, differ = len(layer_kinds(text)), getattr(text, "is_heterogeneous", False)
    return [text.per_layer_config[layer] for layer in range(count)] if differ else [text] * count


def trained_context(text: Any) -> int | None:
    """The model's trained context.

    Where the rotary embedding changes with the sequence length (dynamic, longrope), it is the length up to which the
    embedding is constant. Beyond it, an older cache differs from a fresh one.
    """
    limits = [getattr(text, name, None) for name in ("max_position_embeddings", "n_positions", "max_seq_len")]
    limit = next((int(each) for each in limits if each), None)
    rope = getattr(text, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("dynamic", "longrope"):
        key = "original_max_position_embeddings"
        original = getattr(text, key, None) or rope.get(key)  # as the library, in the end
        limit = int(original) if original else limit
    return limit


def context_of(text: Any, asked: int | None) -> int:
    """Tokens per slot: the requested context, within the trained one."""
    limit = trained_context(text)
    return min(asked or limit or DEFAULT_CONTEXT, limit or asked or DEFAULT_CONTEXT)


def cache_numbers(text: Any) -> int:
    """Numbers per token in the key-value cache."""
    kinds = zip(layer_kinds(text), layer_configs(text), strict=True)
    return sum(_cache_numbers_of_layer(layer) for kind, layer in kinds if kind not in (*STATES, *FORGETFUL))


def _cache_numbers_of_layer(layer: Any) -> int:
    heads = getattr(layer, "num_key_value_heads", None) or layer.num_attention_heads
    width = getattr(layer, "head_dim", None) or layer.hidden_size // layer.num_attention_heads
    return 2 * int(heads) * int(width)
