"""What a model's config.json says and transformers does not read, or reads otherwise than another of its keys says.

A configuration keeps any key, and its model reads those that its class knows: the rest changes nothing, in silence.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from unisono.errors import shown

WINDOW = "sliding_window"
SCALES = (
    *("logit_scale", "logits_scaling", "embedding_multiplier", "residual_multiplier", "scale_emb", "scale_depth"),
    *("attention_multiplier", "query_pre_attn_scalar"),
)
CAPS = ("attn_logit_softcapping", "final_logit_softcapping", "clip_qkv")
NEUTRAL = {**dict.fromkeys(SCALES, (None, 1)), **dict.fromkeys((*CAPS, WINDOW), (None, 0, False))}
"""Keys that change what a model computes and show in no weight, and the values that change nothing."""
_POSITIONS = ("rope_theta", "factor", "rope_type", "type")
"""Of them the first may stand beside the others, too."""


def unread(stated: Mapping[str, Any], config: Any, used: str, causal: Collection[str]) -> Iterator[str]:
    """Warnings of a ``stated`` config.json, of which the library made ``config``.

    ``used`` is the class of the model that is made, and ``causal`` are the names of all of the library's.
    """
    text, made = _text_part(stated), config.get_text_config(decoder=True)
    kind = type(made).__name__
    yield from _unknown_keys(text, made, kind)
    if WINDOW in text and "use_sliding_window" not in text and text[WINDOW] and getattr(made, WINDOW, None) is None:
        yield (
            f"its config.json says {WINDOW} {shown(text[WINDOW])} and not use_sliding_window, without which "
            f"transformers' {kind} has no window: its text may be another than its model's"
        )
    yield from _contradictions(text, getattr(made, "rope_parameters", None))
    named = [str(each) for each in stated.get("architectures") or ()]
    if len(named) == 1 and used and named[0] != used and named[0] in causal:
        yield (
            f"its config.json names the architecture {named[0]}, and model_type {shown(stated.get('model_type'))}, by "
            f"which transformers makes a {used}: one of them is wrong"
        )


def _text_part(stated: Mapping[str, Any]) -> Mapping[str, Any]:
    part = stated.get("text_config")
    return part if isinstance(part, Mapping) else stated


def _unknown_keys(text: Mapping[str, Any], made: Any, kind: str) -> Iterator[str]:
    if not is_dataclass(made):  # of releases that do not tell what a configuration knows
        return
    known = {each.name for each in fields(made)} | set(getattr(made, "attribute_map", ()))
    for key, neutral in NEUTRAL.items():
        value = text.get(key)
        if key in known or isinstance(value, Mapping | list | str) or value in neutral:
            continue
        if key == WINDOW and value >= (getattr(made, "max_position_embeddings", None) or value):
            continue  # no text is longer
        yield (
            f"its config.json says {key} {shown(value)}, which transformers' {kind} does not read: its text may be "
            "another than its model's"
        )


def _contradictions(text: Mapping[str, Any], made: object) -> Iterator[str]:
    """Where two keys say different things of positions, of which the library reads one."""
    if not isinstance(made, Mapping) or any(isinstance(value, Mapping) for value in made.values()):
        return  # none, or some for each kind of layers
    said: dict[str, dict[str, Any]] = {}
    for place, part in {"": text, **{f"{key}.": text.get(key) for key in ("rope_scaling", "rope_parameters")}}.items():
        for key in (_POSITIONS if place else _POSITIONS[:1]) if isinstance(part, Mapping) else ():
            if isinstance(value := part.get(key), str | int | float):
                said.setdefault("rope_type" if key == "type" else key, {})[place + key] = value
    for key, values in said.items():
        if len({*values.values()}) > 1:
            told = " and ".join(f"{place} {shown(value)}" for place, value in values.items())
            yield f"its config.json says {told}; its positions are made with {key} {shown(made.get(key))}"
