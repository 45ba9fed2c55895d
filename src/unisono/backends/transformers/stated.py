"""What a model's config.json says and transformers does not read, or reads otherwise than another of its keys says.

A configuration keeps any key, and its model reads those that its class knows: the rest changes nothing, in silence.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any

from unisono.backends.transformers.model_config import knows, layer_kinds
from unisono.errors import shown

WINDOW, SWITCH, KINDS = "sliding_window", "use_sliding_window", "layer_types"
SCALES = (
    *("logit_scale", "logits_scaling", "embedding_multiplier", "residual_multiplier", "scale_emb", "scale_depth"),
    *("attention_multiplier", "query_pre_attn_scalar"),
)
NO_ROPE = "no_rope_layers"
"""Of each layer, whether its heads rotate."""
CAPS = ("attn_logit_softcapping", "final_logit_softcapping", "clip_qkv")
SWITCHES = ("alibi", "parallel_attn", "use_parallel_residual")
NEUTRAL = {**dict.fromkeys(SCALES, (None, 1)), **dict.fromkeys((*CAPS, *SWITCHES, WINDOW), (None, 0, False))}
"""Keys that change what a model computes and show in no weight, and the values that change nothing."""
SYNONYMS = (
    ("hidden_act", "hidden_activation", "activation_function", "activation"),
    ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "norm_epsilon", "norm_eps"),
)
"""Names that classes give to one number or function. Where a file does not have its class's, the usual one is taken."""
SAME = {
    "swish": "silu",
    "gelu_new": "gelu_pytorch_tanh",
    "gelu_fast": "gelu_pytorch_tanh",
    "gelu_python": "gelu",
}
PART = ("partial_rotary_factor", "rotary_pct", "rope_pct")
"""How much of a head rotates."""
LENGTH = "original_max_position_embeddings"
_POSITIONS = ("rope_theta", "factor", "rope_type", "type", LENGTH)
_BESIDE, _LOCAL = ("rope_theta", LENGTH), ("rope_local_base_freq", "global_rope_theta", "local_rope_theta")
"""Of them those that may stand beside the others, too, and bases of one kind of layers."""
_SAME = {"type": "rope_type", **dict.fromkeys(_LOCAL, "rope_theta")}
NESTED = ("rope_scaling", "rope_parameters")


def unread(stated: Mapping[str, Any], config: Any, used: str, causal: Collection[str]) -> Iterator[str]:
    """Warnings of a ``stated`` config.json, of which the library made ``config``.

    ``used`` is the class of the model that is made, and ``causal`` are the names of all of the library's.
    """
    text, made = _text_part(stated), config.get_text_config(decoder=True)
    kind = type(made).__name__
    if is_dataclass(made):  # others do not tell what a configuration knows
        known = {each.name for each in fields(made)}.union(getattr(made, "attribute_map", ()))
        yield from _unknown_keys(text, made, kind, known)
        yield from _other_names(text, made, kind, known)
    yield from _window_of_no_layer(text, made, kind)
    yield from _part_that_rotates(text, made, kind)
    yield from _contradictions(text, made)
    named = [str(each) for each in stated.get("architectures") or ()]
    its_type = stated.get("model_type") in (None, config.model_type)  # else the library has chosen another
    if len(named) == 1 and used and its_type and named[0] != used and named[0] in causal:
        yield (
            f"its config.json names the architecture {named[0]}, and model_type {shown(stated.get('model_type'))}, by "
            f"which transformers makes a {used}: one of them is wrong"
        )


def _window_of_no_layer(text: Mapping[str, Any], made: Any, kind: str) -> Iterator[str]:
    """Where a file says how far layers look back, and the library lets none of them look so."""
    window, wanted = text.get(WINDOW), text.get(SWITCH)
    if not window or not knows(made, SWITCH) or wanted is False or text.get(KINDS) is not None:
        return
    if SWITCH not in text:
        yield (
            f"its config.json says {WINDOW} {shown(window)} and not {SWITCH}, without which transformers' {kind} has "
            "no window: its text may be another than its model's"
        )
    elif wanted and "sliding_attention" not in layer_kinds(made):
        yield (
            f"its config.json says {WINDOW} {shown(window)} and {SWITCH}, and transformers' {kind} gives the window to "
            f"no layer: those from max_window_layers on have it, {shown(getattr(made, 'max_window_layers', None))} of "
            f"{made.num_hidden_layers}"
        )


def _text_part(stated: Mapping[str, Any]) -> Mapping[str, Any]:
    part = stated.get("text_config")
    return part if isinstance(part, Mapping) else stated


def _in_vain(key: str, value: object, kind: str) -> str:
    return (
        f"its config.json says {key} {shown(value)}, which transformers' {kind} does not read: its text may be another "
        "than its model's"
    )


def _unknown_keys(text: Mapping[str, Any], made: Any, kind: str, known: Collection[str]) -> Iterator[str]:
    for key, neutral in NEUTRAL.items():
        value = text.get(key)
        if key in known or not isinstance(value, int | float) or value in neutral:
            continue
        if key == WINDOW and value >= (getattr(made, "max_position_embeddings", None) or value):
            continue  # no text is longer
        yield _in_vain(key, value, kind)
    kinds = text.get(KINDS)
    if isinstance(kinds, list) and not knows(made, KINDS) and kinds != (own := layer_kinds(made)):
        yield f"{_in_vain(KINDS, kinds, kind)}; all of its layers have {own[0]}"
    turning = text.get(NO_ROPE)
    if isinstance(turning, list) and not all(turning) and not knows(made, NO_ROPE):
        yield _in_vain(NO_ROPE, turning, kind)


def _other_names(text: Mapping[str, Any], made: Any, kind: str, known: Collection[str]) -> Iterator[str]:
    """Where a file has another name for what its class reads, and not the class's own."""
    for names in SYNONYMS:
        own = [name for name in names if name in known]
        if not own or any(text.get(name) is not None for name in own):
            continue
        taken = [getattr(made, name, None) for name in own]
        for name in names:
            value = text.get(name)
            if value is not None and not any(_same(value, each) for each in taken):
                yield f"{_in_vain(name, value, kind)}; its {own[0]} is {shown(taken[0])}"


def _same(value: object, other: object) -> bool:
    def usual(each: object) -> object:
        return SAME.get(each, each) if isinstance(each, str) else each

    return usual(value) == usual(other)


def _part_that_rotates(text: Mapping[str, Any], made: Any, kind: str) -> Iterator[str]:
    """Where a part of a head is to rotate, and the class's code rotates another."""
    rope = _of_each_kind(getattr(made, "rope_parameters", None))
    taken = [each[PART[0]] for each in rope if PART[0] in each] if _code_has(type(made).__module__, PART[0]) else [1]
    said = {key: text.get(key) for key in PART}
    for place in NESTED:
        said |= {f"{place}.{PART[0]}": each.get(PART[0]) for each in _of_each_kind(text.get(place))}
    for key, value in said.items() if rope and taken else ():
        if isinstance(value, int | float) and value not in taken:
            yield f"{_in_vain(key, value, kind)}; the part that rotates is {shown(taken[0])}"


@lru_cache
def _code_has(own: str, word: str) -> bool:
    """Whether a configuration's ``own`` module has a word, or that of its model beside it."""
    try:
        beside = own.replace(".configuration_", ".modeling_")
        return any(word in inspect.getsource(importlib.import_module(name)) for name in (own, beside))
    except (ImportError, OSError, TypeError):
        return True


def _of_each_kind(rope: object) -> list[Mapping[str, Any]]:
    """The parameters of positions: of all layers, or of each kind of them."""
    if not isinstance(rope, Mapping):
        return []
    return [each for each in rope.values() if isinstance(each, Mapping)] or [rope]


def _contradictions(text: Mapping[str, Any], made: Any) -> Iterator[str]:
    """Where two keys say different things of positions, of which the library reads one."""
    rope = _of_each_kind(getattr(made, "rope_parameters", None))
    said: dict[str, dict[str, Any]] = {}
    nested = {f"{key}.": part for key in NESTED if isinstance(part := text.get(key), Mapping)}
    for place, part in {"": text, **nested}.items():
        for key in _POSITIONS if place else (*_BESIDE, *(_LOCAL if len(rope) > 1 else ())):
            if isinstance(value := part.get(key), str | int | float):
                said.setdefault(_SAME.get(key, key), {})[place + key] = value
    for key, values in said.items():
        # of the last, the library takes in the end what stands beside the others
        taken = [(getattr(made, key, None) if key == LENGTH else None) or each.get(key) for each in rope]
        several = len(taken) > 1 and key in _BESIDE and any(each not in taken for each in values.values())
        if (len(taken) == 1 and len({*values.values()}) > 1) or several:
            told = " and ".join(f"{place} {shown(value)}" for place, value in values.items())
            own = " and ".join(dict.fromkeys(map(shown, taken)))
            yield f"its config.json says {told}; its positions are made with {key} {own}"
    if not said.get(LENGTH) and any(each.get("rope_type") == "yarn" for each in rope):
        yield (
            f"its config.json scales positions by yarn, and does not say {LENGTH}: transformers takes "
            f"max_position_embeddings, {shown(getattr(made, 'max_position_embeddings', None))}, for it"
        )
