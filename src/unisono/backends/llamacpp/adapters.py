"""Adapters of llama.cpp, which are of a whole context: a pass is one decode for each (docs/adr/0029)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from unisono.backends.base import Feed, Slot
from unisono.backends.feed_checks import check_feeds, check_ids
from unisono.backends.llamacpp.model import FloatRows, LlamaCppBackend
from unisono.errors import ModelError, ModelUnsupported


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


def load_adapter(library: Any, path: str, model: Any, last_errors: Callable[[], str]) -> Any:
    """Load an adapter of a loaded model, which frees it. Raises a `ModelUnsupported`."""
    found = library.llama_adapter_lora_init(model, os.fsencode(path))
    if not found:
        raise ModelUnsupported(
            f"llama.cpp could not read the adapter {path!r}: {last_errors()}", hint="it may be made for another model"
        )
    return found
