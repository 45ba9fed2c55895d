"""A loaded llama.cpp model with a recurrent state, alone or beside keys and values: states are kept at seams."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from unisono.backends.base import Feed, Slot
from unisono.backends.feed_checks import check_feeds, check_ids, check_rewind
from unisono.backends.llamacpp.model import FloatRows, LlamaCppBackend
from unisono.backends.seams import LONG, Memory
from unisono.errors import ModelError

WHOLE, STATE_ONLY = 0, 1
"""Flags of llama.cpp: a slot with its keys and values, or its state alone."""
EMPTY = b""


class StateLlamaCppBackend(LlamaCppBackend):
    """llama.cpp holds what a slot has read up to some length, at its last seam or after it.

    llama.cpp writes over a state, so each seam costs a copy to the host. One is made before a block, which may be a
    draft, after a long one, and every `LONG` tokens otherwise.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._memories: dict[Slot, Memory[bytes]] = {}

    def open(self, copy_of: Slot | None = None) -> Slot:
        self._check_loaded()
        held = 0 if copy_of is None else self._length(copy_of)
        slot = super().open()
        self._memories[slot] = Memory(EMPTY) if copy_of is None else self._memories[copy_of].copy()
        if copy_of is not None and held:
            try:
                self._put(slot, self._taken(copy_of, WHOLE), WHOLE)
            except BaseException:
                self.close(slot)
                raise
            self._lengths[slot] = held
        return slot

    def advance(self, feeds: Sequence[Feed]) -> FloatRows:
        """Read each feed after the ids that its slot holds and llama.cpp has not read."""
        self._check_loaded()
        check_feeds(feeds, lambda slot: len(self._memory(slot).ids), self.facts)
        check_ids(feeds, self.facts.rows)
        try:
            if again := [feed for feed in map(self._again, feeds) if len(feed.ids) > LONG]:
                super().advance(again)
            for feed in feeds:
                self._keep_before(feed)
            logits_NV = super().advance([replace(feed, ids=[*self._again(feed).ids, *feed.ids]) for feed in feeds])
        except BaseException:  # a state cannot be undone
            for feed in feeds:
                self._restore(feed.slot)
            raise
        for feed in feeds:
            memory, end = self._memories[feed.slot], self._length(feed.slot)
            memory.read(list(feed.ids), {end: self._taken(feed.slot, STATE_ONLY)} if len(feed.ids) > LONG else {})
        return logits_NV

    def rewind(self, slot: Slot, length: int) -> None:
        memory = self._memory(slot)
        check_rewind(slot, len(memory.ids), length)
        memory.rewind(length)
        if length < self._length(slot):
            self._restore(slot)

    def close(self, slot: Slot) -> None:
        super().close(slot)
        del self._memories[slot]

    def _memory(self, slot: Slot) -> Memory[bytes]:
        self._length(slot)
        return self._memories[slot]

    def _again(self, feed: Feed) -> Feed:
        """What has to be read again before a feed."""
        return Feed(feed.slot, self._memories[feed.slot].ids[self._length(feed.slot) :], 0)

    def _keep_before(self, feed: Feed) -> None:
        memory, length = self._memories[feed.slot], self._length(feed.slot)
        far = length - memory.seam
        if length == len(memory.ids) and far and (len(feed.ids) > 1 or far >= LONG):
            memory.read([], {length: self._taken(feed.slot, STATE_ONLY)})

    def _restore(self, slot: Slot) -> None:
        """Bring llama.cpp's state of a slot back to its last seam."""
        memory = self._memories[slot]
        if memory.seam:
            self._put(slot, memory.state, STATE_ONLY)
        self._library.llama_memory_seq_rm(self._cache, slot, memory.seam, -1)
        self._lengths[slot] = memory.seam

    def _taken(self, slot: Slot, flags: int) -> bytes:
        size = self._library.llama_state_seq_get_size_ext(self._context, slot, flags)
        copy = (ctypes.c_uint8 * size)()
        if self._library.llama_state_seq_get_data_ext(self._context, copy, size, slot, flags) != size:
            raise ModelError(f"member {self._name!r}: llama.cpp could not copy the state of slot {slot}")
        return bytes(copy)

    def _put(self, slot: Slot, state: bytes, flags: int) -> None:
        copy = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        if not self._library.llama_state_seq_set_data_ext(self._context, copy, len(state), slot, flags):
            raise ModelError(f"member {self._name!r}: llama.cpp could not restore the state of slot {slot}")
