"""Configurations of the GaC research release, read as ensembles of ours.

What a key means there is taken from the release's README, ``utils/gac_gen_call.py``, ``utils/gac_gen_utils.py`` and
``utils/ray_actor.py`` (github.com/yaoching0/GaC; Yu et al., arXiv 2406.12585).
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from unisono.config.ensemble import load_spec
from unisono.config.gac_config import MODELS, NORM, THRESHOLD, GacConfig, Where, read_config
from unisono.config.gate import Gate
from unisono.config.yaml_source import path_of
from unisono.errors import shown

WIDTH = 110
LONGEST_NAME = 64
WHOLE_GPU = 10_000
"""Parts in which Ray counts a GPU."""

LIMIT_OF_MEMORY = (
    "no counterpart: a model takes the memory that it needs, and one that does not fit is refused; GaC would put what "
    "is beyond the limit on the disk"
)
QUANTIZED = (
    "no counterpart: transformers loads the model in float16, which takes two to four times the memory; for quantised "
    "weights write a GGUF file of this model as its model, and leave dtype out"
)
SPREAD = (
    "written as device_map auto, which spreads the layers over all GPUs that are visible, where GaC uses this many "
    "that are free; CUDA_VISIBLE_DEVICES leaves some out"
)
NO_SCORE_NEEDED = f"no effect, as in GaC: with {NORM} 'average' all votes count the same"
NO_VOTE = "0 is no vote: the model is not loaded, where GaC runs it in vain"
IGNORED_THRESHOLD = "no effect, as in GaC: no model is 'primary', so all are asked at every step"
ALWAYS_ASKED = "written as gate always: no probability is above it, so that all models are asked at every step"
NEVER_ASKED = "written as gate first:0: every probability is above it, so that the others are never asked"
SILENT_PRIMARY = (
    "written as gate always: its score is 0, by which GaC multiplies both sides before it compares them, so that "
    "all models are asked at every step"
)
ALONE = "no effect, as in GaC: no other model has a vote"
RELATIVE = (
    "a relative path: unisono takes it from the folder of the ensemble file, GaC from the folder that its server "
    "was started in"
)


@dataclass(frozen=True, slots=True)
class Note:
    """What became of keys that are not simply written in another word, and why."""

    keys: tuple[str, ...]
    """As in ``CONFIG_API_SERVER[0].max_memory``."""
    lines: tuple[int, ...]
    why: str

    def __str__(self) -> str:
        lines = ", ".join(map(str, self.lines))
        return f"{', '.join(self.keys)} (line{'s' * (len(self.lines) > 1)} {lines}): {self.why}"


@dataclass(frozen=True, slots=True)
class Imported:
    """An ensemble that means what a configuration of GaC means, and what of that is not in it or in another form."""

    spec: Mapping[str, Any]
    notes: tuple[Note, ...]

    def to_yaml(self, source: str) -> str:
        """The ensemble file, its notes above it as comments. ``source`` is the name of the configuration."""
        title = f"Made by `unisono import-gac` from {shown(source)}, a configuration of GaC (arXiv 2406.12585)."
        lines = _comment(title, "# ", "# ")
        if self.notes:
            lines += ["#", "# What has no counterpart, or another form (docs/from-gac.md):"]
        for note in self.notes:
            lines += _comment(str(note), "# - ", "#   ")
        body = yaml.safe_dump(dict(self.spec), sort_keys=False, allow_unicode=True, width=1000)
        return "\n".join(lines) + "\n" + body


def import_gac(text: str, path: Path) -> Imported:
    """Turn a configuration of the GaC release into an ensemble of ours; ``path`` is its name in messages.

    Raises:
        SpecError: it is no configuration that GaC could run; the message has the line, the column and the key.
    """
    config = read_config(text, path)
    said: dict[str, list[Where]] = {}
    members = _members(config, said)
    spec = {"members": members, **_method(config, [str(member["name"]) for member in members], said)}
    load_spec(spec)
    notes = (Note(tuple(map(path_of, keys)), tuple(map(config.line_of, keys)), why) for why, keys in said.items())
    return Imported(spec, tuple(notes))


def _members(config: GacConfig, said: dict[str, list[Where]]) -> list[dict[str, Any]]:
    members: list[dict[str, Any]] = []
    for index, (model, gpus) in enumerate(
        zip(config.models, placed([m.get("num_gpus") for m in config.models]), strict=True)
    ):
        at = (MODELS, index)
        name = _name(model["name"], index, [member["name"] for member in members])
        if name != model["name"]:
            _say(
                said,
                f"written {name}: a name has letters, digits, '.', '_' and '-', and no two are alike",
                at,
                "name",
            )
        if _is_relative(model["weight"]):
            _say(said, RELATIVE, at, "weight")
        member: dict[str, Any] = {"name": name, "model": model["weight"]}
        if config.by_score:
            member["weight"] = model["score"]
            if not model["score"]:
                _say(said, NO_VOTE, at, "score")
        elif "score" in model:
            _say(said, NO_SCORE_NEEDED, at, "score")
        member["dtype"] = "float16"
        if model.get("quantization", "none") != "none":
            _say(said, QUANTIZED, at, "quantization")
        if len(gpus) > 1:
            member["options"] = {"device_map": "auto"}
            _say(said, SPREAD, at, "num_gpus")
        elif "num_gpus" in model:
            member["device"] = f"cuda:{gpus[0]}" if gpus else "cpu"
        if "max_memory" in model:
            _say(said, LIMIT_OF_MEMORY, at, "max_memory")
        members.append(member)
    return members


def _method(config: GacConfig, names: Sequence[str], said: dict[str, list[Where]]) -> dict[str, str]:
    """Lead and gate. GaC asks the others unless the primary's largest probability is above the threshold."""
    primary, threshold = config.primary, config.threshold
    if primary is None or threshold is None:
        _say(said, IGNORED_THRESHOLD, (), THRESHOLD)
        return {}
    if config.by_score and not config.models[primary]["score"]:
        _say(said, SILENT_PRIMARY, (MODELS, primary), "priority")
        _say(said, SILENT_PRIMARY, (), THRESHOLD)
        return {}
    if sum(not config.by_score or bool(model["score"]) for model in config.models) == 1:
        _say(said, ALONE, (MODELS, primary), "priority")
        _say(said, ALONE, (), THRESHOLD)
        return {}
    if threshold >= 1:
        _say(said, ALWAYS_ASKED, (), THRESHOLD)
        gate = Gate()
    elif threshold < 0:
        _say(said, NEVER_ASKED, (), THRESHOLD)
        gate = Gate("first", n=0)
    else:
        gate = Gate("confidence", threshold=threshold)
    return {"lead": names[primary], "gate": str(gate)}


def placed(demands: Sequence[float | None]) -> list[tuple[int, ...]]:
    """Which GPUs models get, one after the other, as Ray gives them to ``demands``: a part of one, or a whole number.

    Whole GPUs are the first that are free; a part of one is of the GPU where it leaves the least
    (``NodeResourceInstanceSet::TryAllocate`` in Ray's ``resource_instance_set.cc``).
    """
    free: list[int] = []
    given = []
    for demand in demands:
        parts = round((demand or 0) * WHOLE_GPU)
        whole = parts // WHOLE_GPU
        need = [WHOLE_GPU] * whole if whole else [parts] * bool(parts)
        taken = []
        for part in need:
            able = [gpu for gpu, left in enumerate(free) if left >= part]
            if not able:
                able = [len(free)]
                free.append(WHOLE_GPU)
            gpu = min(able, key=lambda gpu: (free[gpu], gpu))
            free[gpu] -= part
            taken.append(gpu)
        given.append(tuple(taken))
    return given


def _name(name: str, index: int, taken: Sequence[str]) -> str:
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name)
    plain = plain.lstrip("._-")[:LONGEST_NAME] or f"model-{index + 1}"
    free, number = plain, 1
    while free in taken:
        number += 1
        free = f"{plain[: LONGEST_NAME - len(str(number)) - 1]}-{number}"
    return free


def _is_relative(weight: str) -> bool:
    """Whether a path is relative: a hub id has one slash at most, and begins with no point."""
    return weight.startswith(".") or (weight.count("/") > 1 and not weight.startswith(("/", "~")))


def _say(said: dict[str, list[Where]], why: str, at: Where, key: str) -> None:
    said.setdefault(why, []).append((*at, key))


def _comment(text: str, first: str, other: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=other, break_long_words=False, break_on_hyphens=False
    )
