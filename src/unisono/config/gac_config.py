"""The configuration file of the GaC research release, read strictly.

GaC itself ignores keys that it does not know; here they are refused, so that nothing gets lost on the way over.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unisono.config.compact import plain_number
from unisono.config.yaml_source import Places, path_of, place_of, read_yaml
from unisono.errors import SpecError, nearest, shown

Where = tuple[Hashable, ...]
MODELS, NORM, THRESHOLD = "CONFIG_API_SERVER", "NORM_TYPE_API_SERVER", "THRESHOLD_API_SERVER"
KEYS = (NORM, THRESHOLD, MODELS)
MODEL_KEYS = ("weight", "max_memory", "num_gpus", "name", "score", "priority", "quantization")
NEEDED = ("weight", "name", "priority")
"""Keys of a model without which nothing can be made of it; GaC needs max_memory and num_gpus too."""
NORMS = ("average", "score")
PRIORITIES = ("primary", "supportive")
QUANTIZATIONS = ("none", "8bit", "4bit")
PLACEHOLDER = "[please replace"
HIGHEST_SCORE = 1e9
MOST_GPUS = 1024


@dataclass(frozen=True, slots=True)
class GacConfig:
    models: Sequence[Mapping[str, Any]]
    """As they stand in the file, checked."""
    by_score: bool
    """Whether votes count by score; else all count the same."""
    primary: int | None
    """The model whose confidence is looked at; ``None`` where all are asked at every step."""
    threshold: float | None
    """``None`` without a primary model, where GaC does not look at it."""
    places: Places

    def line_of(self, where: Where) -> int:
        """The line of a key, or of what it is in where YAML took it from elsewhere."""
        while where not in self.places:
            where = where[:-1]
        return self.places[where][0]


@dataclass(frozen=True, slots=True)
class _Document:
    data: Any
    places: Places
    path: Path

    def wrong(self, where: Where, message: str, hint: str | None = None) -> SpecError:
        named = path_of(where, "the configuration")
        return SpecError(f"{self.path}{place_of(where, self.places)}: {named} {message}", hint=hint)

    def mapping(self, value: object, where: Where, known: Sequence[str], needed: Sequence[str]) -> Mapping[str, Any]:
        """A mapping that has all keys it needs, and none that GaC does not know."""
        if not isinstance(value, Mapping):
            raise self.wrong(where, f"is {shown(value)}, not a mapping", f"its keys are: {', '.join(known)}")
        for key in value:
            if key not in known:
                near = nearest(str(key), known)
                raise self.wrong(
                    (*where, key if isinstance(key, str) else str(key)),
                    f"is no key of GaC{near}; known: {', '.join(known)}",
                    "take it out if a changed GaC has it; how unisono writes it is in docs/spec.md",
                )
        for key in needed:
            if key not in value:
                raise self.wrong(where, f"lacks the key {key!r}", "GaC does not start without it either")
        return value

    def choice(self, value: object, where: Where, choices: Sequence[str]) -> str:
        if not isinstance(value, str) or value not in choices:
            near = nearest(value, choices) if isinstance(value, str) else ""
            raise self.wrong(where, f"is {shown(value)}{near}", f"choose one of: {', '.join(choices)}")
        return value

    def text(self, value: object, where: Where) -> str:
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(where, f"is {shown(value)}, not a text", "write it in quotes")
        return value

    def number(self, value: object, where: Where, low: float, high: float) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            plain = plain_number(value)
            limits = f"a number from {low:,} to {high:,}" if math.isfinite(low) else "a number"
            raise self.wrong(where, f"is {shown(value)}, not {limits}", plain and f"write {plain}")
        return value


def read_config(text: str, path: Path) -> GacConfig:
    """Read a configuration; errors call the file ``path``. Raises a `SpecError` where GaC could not run it."""
    document = _Document(*read_yaml(text, path), path)
    data = document.mapping(document.data, (), KEYS, KEYS)
    by_score = document.choice(data[NORM], (NORM,), NORMS) == "score"
    models = data[MODELS]
    if not isinstance(models, list) or not models:
        raise document.wrong((MODELS,), f"is {shown(models)}, not a list of models", "each begins with '- weight:'")
    needed = (*NEEDED, "score") if by_score else NEEDED
    checked = [document.mapping(model, (MODELS, i), MODEL_KEYS, needed) for i, model in enumerate(models)]
    for i, model in enumerate(checked):
        _check_model(document, model, (MODELS, i), by_score)
    if by_score and not any(model["score"] for model in checked):
        raise document.wrong((MODELS,), "has no score above 0, so nobody would vote", "give a model a positive score")
    primary = _primary(document, checked)
    threshold = None
    if primary is not None:
        threshold = document.number(data[THRESHOLD], (THRESHOLD,), -math.inf, math.inf)
    return GacConfig(checked, by_score, primary, threshold, document.places)


def _check_model(document: _Document, model: Mapping[str, Any], at: Where, by_score: bool) -> None:
    weight = document.text(model["weight"], (*at, "weight"))
    if weight.lower().startswith(PLACEHOLDER):
        raise document.wrong(
            (*at, "weight"), "is still the placeholder of GaC's example", "write the model's folder or hub id"
        )
    if by_score:
        document.number(model["score"], (*at, "score"), 0, HIGHEST_SCORE)
    document.choice(model.get("quantization", "none"), (*at, "quantization"), QUANTIZATIONS)
    if "max_memory" in model and not isinstance(model["max_memory"], Mapping):
        raise document.wrong(
            (*at, "max_memory"), f"is {shown(model['max_memory'])}, not a mapping", "as in {0: '24GiB'}"
        )
    document.text(model["name"], (*at, "name"))
    if "num_gpus" in model:
        gpus = document.number(model["num_gpus"], (*at, "num_gpus"), 0, MOST_GPUS)
        if gpus > 1 and gpus != int(gpus):
            raise document.wrong((*at, "num_gpus"), f"is {shown(gpus)}", "Ray gives a part of one GPU, or whole ones")


def _primary(document: _Document, models: Sequence[Mapping[str, Any]]) -> int | None:
    found: int | None = None
    for index, model in enumerate(models):
        where = (MODELS, index, "priority")
        if document.choice(model["priority"], where, PRIORITIES) == "primary":
            if found is not None:
                raise document.wrong(
                    where, f"is 'primary', and so is that of {path_of((MODELS, found))}", "one model can be the gate"
                )
            found = index
    return found
