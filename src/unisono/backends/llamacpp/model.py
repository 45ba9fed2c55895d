"""A loaded llama.cpp model: slots are sequences of one context, a pass is one decode."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from unisono.backends.base import BackendFacts, Feed, Slot
from unisono.backends.feed_checks import check_feeds, check_rewind
from unisono.errors import DeviceError, ModelError

FloatRows = np.ndarray[Any, np.dtype[np.float32]]


def output_rows(rows: int, slots: int, batch_tokens: int) -> int:
    """The maximum distributions per decode: about 128 MB of them, at least one per slot."""
    return max(slots, min(batch_tokens, (128 << 20) // (4 * rows)))


class LlamaCppBackend:
    def __init__(
        self, library: Any, name: str, loaded: Loaded, facts: BackendFacts, last_errors: Callable[[], str]
    ) -> None:
        self.facts = facts
        self._name = name
        self._library = library
        self._context = loaded.contexts[-1]
        self._cache = library.llama_get_memory(self._context)
        self._last_errors = last_errors
        self._loaded = loaded
        self._lengths: list[int | None] = [None] * facts.slots
        self._batch = _Batch(library, library.llama_n_batch(self._context))
        self._outputs_max = output_rows(facts.rows, facts.slots, self._batch.capacity)
        self._seen: tuple[tuple[int, int], FloatRows] | None = None
        self._none = np.empty((0, facts.rows), np.float32)
        self._copying = False  # whether the next decode has copies to make
        self._state: Any = (ctypes.c_uint8 * 0)()
        self._state_holds = facts.context // 2  # tokens of a text that is copied so: more gain nothing, or lack some

    def open(self, copy_of: Slot | None = None) -> Slot:
        """Open an empty slot, or a copy of another.

        On the host, a sequence that fills at most half of its slot is copied immediately, in time proportional to its
        length. Otherwise the next decode copies the slot's full capacity.
        """
        self._check_loaded()
        length = 0 if copy_of is None else self._length(copy_of)
        if None not in self._lengths:
            raise RuntimeError(f"all {self.facts.slots} slots are taken")
        slot = self._lengths.index(None)
        if copy_of is not None and length and not self._copy_state(copy_of, slot, length):
            self._library.llama_memory_seq_cp(self._cache, copy_of, slot, -1, -1)
            self._copying = True
        self._lengths[slot] = length
        return Slot(slot)

    def advance(self, feeds: Sequence[Feed]) -> FloatRows:
        """Run one decode if the feeds fit; the result is then a view of llama.cpp's buffer.

        Raises `ValueError` for invalid feeds, `ModelError` when llama.cpp fails and `DeviceError` when it runs out of
        device memory. Slots are unchanged after any of them.
        """
        self._check_loaded()
        lengths = check_feeds(feeds, self._length, self.facts)
        batch, total = self._batch, sum(len(feed.ids) for feed in feeds)
        staged = batch if total <= batch.capacity else _Batch(self._library, total)
        self._stage(staged, feeds, lengths, total)
        wanted = sum(feed.wanted for feed in feeds)
        try:
            if total <= batch.capacity and wanted <= self._outputs_max:
                logits_NV = self._decode(total, wanted) if total else self._none
            else:
                logits_NV = self._decode_parts(staged, total, wanted)
        except BaseException:  # Ctrl-C as well: a slot has read a feed, or it has not
            for feed, length in zip(feeds, lengths, strict=True):
                self._library.llama_memory_seq_rm(self._cache, feed.slot, length, -1)
            raise
        for feed, length in zip(feeds, lengths, strict=True):
            self._lengths[feed.slot] = length + len(feed.ids)
        return logits_NV

    def rewind(self, slot: Slot, length: int) -> None:
        held = self._length(slot)
        check_rewind(slot, held, length)
        if length < held:
            if not self._library.llama_memory_seq_rm(self._cache, slot, length, -1):
                raise ModelError(f"member {self._name!r}: llama.cpp could not cut slot {slot} back to {length}")
            self._lengths[slot] = length

    def close(self, slot: Slot) -> None:
        self._length(slot)
        self._library.llama_memory_seq_rm(self._cache, slot, 0, -1)
        self._lengths[slot] = None

    def unload(self) -> None:
        self._loaded.free()

    def _copy_state(self, source: Slot, slot: int, length: int) -> bool:
        """Copy a slot through host memory; return whether the copy is complete.

        A saved state lacks what sliding windows have dropped, so a copy rewound to there would give wrong numbers.
        While copies wait for the next decode, their sources must not be touched.
        """
        if self._copying or self.facts.device != "cpu" or length > self._state_holds:
            return False
        library, size = self._library, self._library.llama_state_seq_get_size(self._context, source)
        if len(self._state) < size:
            self._state = (ctypes.c_uint8 * (size + size // 4))()
        taken = library.llama_state_seq_get_data(self._context, self._state, size, source)
        given = library.llama_state_seq_set_data(self._context, self._state, taken, slot)
        if given and library.llama_memory_seq_pos_min(self._cache, slot) == 0:
            return True
        library.llama_memory_seq_rm(self._cache, slot, -1, -1)
        self._state_holds = length - 1
        return False

    def _check_loaded(self) -> None:
        if not self._loaded.free.alive:
            raise RuntimeError(f"the model of member {self._name!r} has been unloaded")

    def _length(self, slot: Slot) -> int:
        self._check_loaded()
        length = self._lengths[slot] if 0 <= slot < len(self._lengths) else None
        if length is None:
            raise ValueError(f"slot {slot} is not open")
        return length

    def _stage(self, batch: _Batch, feeds: Sequence[Feed], lengths: list[int], total: int) -> None:
        try:
            if total == len(feeds):  # one token each, as in every step of generation: four writes in all
                batch.tokens[:total] = [feed.ids[0] for feed in feeds]
                batch.positions[:total] = lengths
                batch.slots[:total] = [feed.slot for feed in feeds]
                batch.wanted[:total] = [feed.wanted for feed in feeds]
            else:
                end = 0
                for feed, length in zip(feeds, lengths, strict=True):
                    start, end = end, end + len(feed.ids)
                    batch.tokens[start:end] = feed.ids
                    batch.positions[start:end] = np.arange(length, length + end - start)
                    batch.slots[start:end] = feed.slot
                    batch.wanted[start : end - feed.wanted] = 0
                    batch.wanted[end - feed.wanted : end] = 1
        except OverflowError:
            raise ValueError("an id is fed that is no token of any model") from None
        fed = batch.tokens[:total]
        if total and not 0 <= fed.min() <= fed.max() < self.facts.rows:
            raise ValueError(f"an id is fed that is not among the model's 0 … {self.facts.rows - 1}")

    def _decode(self, size: int, wanted: int) -> FloatRows:
        self._batch.struct.n_tokens = size
        status = self._library.llama_decode(self._context, self._batch.struct)
        if status != 0:
            kind = DeviceError if status == -2 else ModelError
            raise kind(
                f"member {self._name!r}: llama.cpp could not compute {size} tokens "
                f"(status {status}): {self._last_errors()}",
                hint="lower batch_tokens, context or the number of prompts at once" if status == -2 else None,
            )
        self._copying = False
        if not wanted:
            return self._none
        return self._view(self._library.llama_get_logits(self._context), wanted)

    def _view(self, buffer: Any, wanted: int) -> FloatRows:
        """View llama.cpp's buffer as an array, cached: the buffer rarely moves, and creating an array is slow."""
        place = ctypes.addressof(buffer.contents), wanted
        if self._seen is None or self._seen[0] != place:
            self._seen = place, np.ctypeslib.as_array(buffer, (wanted, self.facts.rows))
        return self._seen[1]

    def _decode_parts(self, staged: _Batch, total: int, wanted: int) -> FloatRows:
        logits_NV = np.empty((wanted, self.facts.rows), np.float32)
        source = [each[:total].copy() for each in staged.columns]
        ends = np.cumsum(source[-1])
        start = row = 0
        while start < total:
            end = min(start + self._batch.capacity, int(np.searchsorted(ends, row + self._outputs_max, "right")))
            for column, values in zip(self._batch.columns, source, strict=True):
                column[: end - start] = values[start:end]
            rows = int(ends[end - 1]) - row
            logits_NV[row : row + rows] = self._decode(end - start, rows)
            start, row = end, row + rows
        return logits_NV


class _Batch:
    """The memory of a ``llama_batch``, written through numpy."""

    def __init__(self, library: Any, capacity: int) -> None:
        self.capacity = capacity
        self.tokens = np.zeros(capacity, np.int32)
        self.positions = np.zeros(capacity, np.int32)
        self.slots = np.zeros(capacity, np.int32)
        self.wanted = np.zeros(capacity, np.int8)
        self.columns: tuple[np.ndarray[Any, Any], ...] = (self.tokens, self.positions, self.slots, self.wanted)
        # llama.cpp lets a token belong to several sequences: a count, and a pointer to their numbers
        self._counts = np.ones(capacity, np.int32)
        self._pointers = (self.slots.ctypes.data + 4 * np.arange(capacity)).astype(np.uintp)
        self.struct = library.llama_batch()
        for name, array in (
            ("token", self.tokens),
            ("pos", self.positions),
            ("n_seq_id", self._counts),
            ("seq_id", self._pointers),
            ("logits", self.wanted),
        ):
            kind = dict(library.llama_batch._fields_)[name]
            setattr(self.struct, name, ctypes.cast(array.ctypes.data, kind))


class Loaded:
    """Owns a model and its contexts. `free`, garbage collection or interpreter exit releases them."""

    def __init__(self, library: Any, model: int) -> None:
        self.model = model
        self.contexts: list[int] = []
        self.free = weakref.finalize(self, _free, library, model, self.contexts)


def _free(library: Any, model: int, contexts: list[int]) -> None:
    while contexts:
        library.llama_free(contexts.pop())
    library.llama_model_free(model)
