"""What a GGUF file says of its positions and transformers' reader leaves out, put into the configuration.

Llama 3.1 and later come with factors of their frequencies (``rope_freqs.weight``), Phi-3 with two sets of them, Gemma 3
and others with ``rope.scaling`` keys; without them a model writes wrong text. llama.cpp (llama-context.cpp, ggml's
``rope_yarn``) is the reference.
"""

from __future__ import annotations

from typing import Any

from unisono.backends.gguf import GgufFile
from unisono.backends.transformers.failures import LLAMACPP_HINT
from unisono.backends.transformers.gguf_numbers import EPSILON_KEYS, with_numbers
from unisono.errors import ModelCorrupt, ModelUnsupported

FACTORS, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
POSITIONS = frozenset({FACTORS, LONG, SHORT})
"""The tensors that become part of the configuration."""
NEVER_ROTATES = 1e29
"""Factors from here on stand for frequencies of zero."""
USUAL_BASE = 10_000.0
"""llama.cpp's where a file says none, whatever the architecture."""
_UNCLEAR = ("yarn_ext_factor", "yarn_attn_factor", "yarn_log_multiplier", "alpha")
ROOT = "query_pre_attn_scalar"
"""By whose root scores are divided: in llama.cpp the width of a head, whatever transformers' usual one is."""
_WIDE_GEMMAS = {("gemma2", 46), ("gemma3", 62)}
"""Architecture and layers of the models of 27 billion weights, whose scores are divided by another root."""
_STATED = ("block_count", "embedding_length", "context_length")


def check_stated(file: GgufFile) -> None:
    """Raise `ModelCorrupt` where a file does not say what transformers would take from its own defaults.

    llama.cpp loads no file without these keys.
    """
    attends = any(".attn_q" in name or ".attn_k" in name for name in file.shapes)
    shared = f"{file.architecture}.attention.head_count_kv"
    if file.architecture == "llama" and shared not in file.metadata:  # by which its reader puts keys in order
        raise ModelUnsupported(
            f"{file.path} does not say {shared}, without which transformers misreads it", hint=LLAMACPP_HINT
        )
    wanted = [(name,) for name in (*_STATED, *(("attention.head_count",) if attends else ()))]
    for names in (*wanted, EPSILON_KEYS):
        keys = [f"{file.architecture}.{name}" for name in names]
        if not any(key in file.metadata for key in keys):
            raise ModelCorrupt(
                f"{file.path} does not say {' or '.join(keys)}", hint="download or convert the model again"
            )


def completed(config: dict[str, Any], file: GgufFile) -> dict[str, Any]:
    """Return a configuration with a file's positions. Raises a `ModelError` where transformers knows no such ones."""
    config = with_numbers(config, file)
    rope = config.get("rope_parameters")
    if ROOT in config:
        wide = (file.architecture, file.number(f"{file.architecture}.block_count")) in _WIDE_GEMMAS
        share = config["hidden_size"] // config["num_attention_heads"]
        config = config | {ROOT: share if wide else config.get("head_dim") or share}
    if not isinstance(rope, dict):
        return config
    if not any(isinstance(each, dict) for each in rope.values()):
        return config | {"rope_parameters": _Positions(config, rope, file).parameters()}
    full, sliding = rope.get("full_attention") or {}, dict(rope.get("sliding_attention") or {})
    if (base := _float(file, "rope.freq_base_swa")) is not None:
        sliding["rope_theta"] = base
    found = _Positions(config, full, file, several=True).parameters()
    return config | {"rope_parameters": rope | {"full_attention": found, "sliding_attention": sliding}}


class _Positions:
    """The parameters of one kind of layer; of ``several``, only some scalings are known to work."""

    def __init__(self, config: dict[str, Any], own: dict[str, Any], file: GgufFile, *, several: bool = False) -> None:
        self.config = config
        self.own = own
        self.file = file
        self.several = several
        self.kind = file.text(f"{file.architecture}.rope.scaling.type") or "linear"
        scale = _float(file, "rope.scaling.factor") or _float(file, "rope.scale_linear") or 1.0
        self.scale = 1.0 if self.kind == "none" else scale
        self.length = int(config.get("max_position_embeddings") or 0)

    def parameters(self) -> dict[str, Any]:
        own = dict(self.own)
        if own.get("rope_type") == "proportional":
            self._check_proportional()
            return own
        if own.get("rope_type", "default") != "default":  # transformers has read the file's
            return own
        base = _float(self.file, "rope.freq_base")
        own["rope_theta"] = USUAL_BASE if base is None else base
        return own | self._part_that_rotates() | self._scaling()

    def _part_that_rotates(self) -> dict[str, Any]:
        rotating, width = self.file.number(f"{self.file.architecture}.rope.dimension_count"), self._width
        part = 1.0 if rotating is None else rotating / width
        known = rotating is not None and rotating == self.config.get("rotary_dim")
        if known or part == self.own.get("partial_rotary_factor", 1.0):
            return {}
        if "partial_rotary_factor" not in self.own:
            raise self._unsupported(f"rotates {rotating} of the {width} numbers of a head")
        return {"partial_rotary_factor": part}

    def _scaling(self) -> dict[str, Any]:
        attention = _float(self.file, "rope.scaling.attn_factor") or 1.0
        original = self.file.number(f"{self.file.architecture}.rope.scaling.original_context_length") or self.length
        factors = {name: self._factors(name) for name in POSITIONS.intersection(self.file.shapes)}
        if not factors and self.scale == attention == 1.0:
            return {}
        if not factors and self.kind == "linear" and attention == 1.0:
            return {"rope_type": "linear", "factor": self.scale}
        if self.several:
            raise self._unsupported(f"scales the positions of some of its layers by {self.kind}")
        if self.kind == "yarn" and not factors and attention == 1.0:
            return self._yarn(original)
        if self.kind != "yarn" and factors:
            short, long = (factors.get(FACTORS) or factors.get(name) for name in (SHORT, LONG))
            if short and long:
                rope = {"short_factor": self._scaled(short), "long_factor": self._scaled(long)}
                limit = self.length if FACTORS in factors else original
                known = {"original_max_position_embeddings": limit, "attention_factor": attention}
                return {"rope_type": "longrope", "factor": max(1.0, self.length / limit), **rope, **known}
        raise self._unsupported(f"scales its positions by {self.kind} and more")

    def _yarn(self, original: int) -> dict[str, Any]:
        prefix = f"{self.file.architecture}.rope.scaling."
        if unclear := [key for key in _UNCLEAR if prefix + key in self.file.metadata]:
            raise self._unsupported(f"scales its positions by yarn with {', '.join(unclear)}")
        betas = {key: _float(self.file, f"rope.scaling.yarn_{key}") for key in ("beta_fast", "beta_slow")}
        given = {key: beta for key, beta in betas.items() if beta is not None}
        return {
            "rope_type": "yarn",
            "factor": self.scale,
            "original_max_position_embeddings": original,
            **given,
        }

    def _factors(self, name: str) -> list[float]:
        found, part = self.file.floats(name), self.own.get("partial_rotary_factor", 1.0)
        rotating = self.file.number(f"{self.file.architecture}.rope.dimension_count") or int(self._width * part)
        if len(found) != rotating // 2:
            raise ModelCorrupt(
                f"{self.file.path} has {len(found)} factors of positions in {name}, not {rotating // 2}",
                hint="download or convert the model again",
            )
        return found

    def _scaled(self, factors: list[float]) -> list[float]:
        return [factor * self.scale for factor in factors] if self.kind == "linear" else factors

    def _check_proportional(self) -> None:
        """Some of the frequencies are zero, as the file's factors say."""
        factors = self.file.floats(FACTORS) if FACTORS in self.file.shapes else []
        whole = sum(factor == 1.0 for factor in factors)
        none = sum(factor >= NEVER_ROTATES for factor in factors)
        part = self.own.get("partial_rotary_factor", 1.0)
        if self.scale != 1.0 or whole + none < len(factors) or (factors and whole != int(len(factors) * part)):
            raise self._unsupported(f"scales its positions otherwise than {part:.0%} of them")

    @property
    def _width(self) -> int:
        return int(self.config.get("head_dim") or self.config["hidden_size"] // self.config["num_attention_heads"])

    def _unsupported(self, what: str) -> ModelUnsupported:
        return ModelUnsupported(
            f"{self.file.path} {what}, which transformers does not do for {self.file.architecture}: its text would be "
            "wrong",
            hint=LLAMACPP_HINT,
        )


def _float(file: GgufFile, key: str) -> float | None:
    value = file.metadata.get(f"{file.architecture}.{key}")
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
