"""Adapters of llama.cpp, which are of a whole context: a pass is one decode for each (docs/adr/0029)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unisono.backends.adapter_base import check_base
from unisono.backends.base import Feed, Slot, check_feeds, check_ids
from unisono.backends.gguf import GgufFile, read_head
from unisono.backends.llamacpp.model import FloatRows, LlamaCppBackend
from unisono.backends.weight_files import listed
from unisono.errors import ModelError, ModelUnsupported, shown

_HALVES = (".lora_a", ".lora_b")


class AdaptedLlamaCppBackend(LlamaCppBackend):
    """A slot keeps the adapter that it was opened with, as its keys and values depend on it."""

    def __init__(self, *args: Any, adapters: Mapping[str, Any]) -> None:
        """``adapters`` are what llama.cpp has loaded, by name."""
        super().__init__(*args)
        self._adapters = adapters
        self._adapter_of: dict[Slot, str | None] = {}
        self._current: str | None = None

    def open(self, copy_of: Slot | None = None, *, adapter: str | None = None) -> Slot:
        slot = super().open(copy_of)
        self._adapter_of[slot] = adapter if copy_of is None else self._adapter_of[copy_of]
        return slot

    def close(self, slot: Slot) -> None:
        super().close(slot)
        del self._adapter_of[slot]

    def advance(self, feeds: Sequence[Feed]) -> FloatRows:
        self._check_loaded()
        lengths = check_feeds(feeds, self._length, self.facts)
        check_ids(feeds, self.facts.rows)
        groups: dict[str | None, list[int]] = {}
        for place, feed in enumerate(feeds):
            groups.setdefault(self._adapter_of[feed.slot], []).append(place)
        if len(groups) == 1:
            self._use(next(iter(groups)))
            return super().advance(feeds)
        ends = np.cumsum([0, *(feed.wanted for feed in feeds)])
        logits_NV, read = np.empty((int(ends[-1]), self.facts.rows), np.float32), list[int]()
        try:
            for adapter, places in groups.items():
                self._use(adapter)
                own_NV = super().advance([feeds[place] for place in places])
                read += places
                rows = [row for place in places for row in range(ends[place], ends[place + 1])]
                logits_NV[rows] = own_NV
        except BaseException:  # one pass: it has read all of its feeds, or none
            for place in read:
                self.rewind(feeds[place].slot, lengths[place])
            raise
        return logits_NV

    def _use(self, adapter: str | None) -> None:
        if adapter == self._current:
            return
        library, names = self._library, [adapter] if adapter is not None else []
        chosen = (library.llama_adapter_lora_p_ctypes * len(names))(*(self._adapters[name] for name in names))
        scales = (ctypes.c_float * len(names))(*(1.0 for _ in names))
        if library.llama_set_adapters_lora(self._context, chosen, len(names), scales):
            raise ModelError(f"member {self._name!r}: llama.cpp could not apply the adapter {adapter!r}")
        self._current = adapter


def check_adapter(path: Path, model: GgufFile) -> tuple[str, ...]:
    """Hold an adapter's head against that of its model; its numbers are not read.

    Returns what is to be warned of. Raises a `ModelError`.
    """
    file, who = read_head(path), f"the adapter {str(path)!r}"
    if file.text("general.type") != "adapter" or file.text("adapter.type") != "lora":
        raise ModelUnsupported(
            f"{who} says that it is {shown(file.text('adapter.type') or file.text('general.type'))}, and no LoRA",
            hint="make one of PEFT's folder with llama.cpp's convert_lora_to_gguf.py",
        )
    if file.architecture != model.architecture:
        raise ModelUnsupported(
            f"{who} is of the architecture {file.architecture}, and the model of {model.architecture}",
            hint="it is made for another model",
        )
    if odd := [name for name in file.shapes if not name.endswith(_HALVES)]:
        raise ModelUnsupported(f"{who} holds {listed(odd)}, beside the pairs of LoRA", hint="merge it into the weights")
    if other := [name for name in file.shapes if name.removesuffix(name[-7:]) not in model.shapes]:
        raise ModelUnsupported(
            f"{who} is for {listed(other)}, which the model does not have", hint="it is made for another model"
        )
    if file.metadata.get("adapter.alora.invocation_tokens") is not None:
        raise ModelUnsupported(f"{who} is one that a text activates", hint="merge it into the weights")
    return _check_base(file, model, who)


def _check_base(file: GgufFile, model: GgufFile, who: str) -> tuple[str, ...]:
    """Hold the base that an adapter states, by its name or its address, against the names of the model."""
    names = [model.path.name, *(model.text(f"general.{key}") for key in ("name", "basename", "repo_url"))]
    stated = [text for key in ("repo_url", "name") if (text := file.text(f"general.base_model.0.{key}"))]
    if not stated:
        return (f"{who} does not say which model it was trained on: one of another of the same shape spoils this one",)
    for place, base in enumerate(stated):  # one of the two may be written otherwise
        try:
            return check_base(base, [name for name in names if name], who, "convert it again with the model's name")
        except ModelUnsupported:
            if place + 1 == len(stated):
                raise
    raise AssertionError("each base is let in or refused")


def load_adapter(library: Any, path: str, model: Any, last_errors: Callable[[], str]) -> Any:
    """Load an adapter of a loaded model, which frees it. Raises a `ModelUnsupported`."""
    found = library.llama_adapter_lora_init(model, os.fsencode(path))
    if not found:
        raise ModelUnsupported(
            f"llama.cpp could not read the adapter {path!r}: {last_errors()}", hint="it may be made for another model"
        )
    return found
