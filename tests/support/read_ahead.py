"""The plain loop on real models, which reads a text that it is likely to write once, and not anew for every piece."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from unisono.backends.base import Feed, Slot, dense
from unisono.chat.messages import Prompt
from unisono.config.method import Method
from unisono.engine.engine import Engine
from unisono.engine.reference import PlainStep, plain_steps

Ids = tuple[int, ...]


class ReadAhead:
    """A backend that knows what comes behind the beginnings of some texts, each of which it has read in one block.

    A fresh slot that is fed one of them gets the same distribution as from a read of its own. Everything else is read
    by the backend itself.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._known: dict[Ids, Any] = {}
        self._fresh: set[Slot] = set()
        self._answered: set[Slot] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def read(self, ids: Sequence[int], shortest: int) -> None:
        """Read a text in one block, and keep what comes behind its beginnings of ``shortest`` ids and more."""
        if tuple(ids) in self._known:
            return
        slot = self._backend.open()
        rows_NV = np.array(dense(self._backend.advance([Feed(slot, ids, len(ids) - shortest + 1)])))
        self._backend.close(slot)
        for size, row_V in enumerate(rows_NV, shortest):
            self._known.setdefault(tuple(ids[:size]), row_V)

    def forget(self) -> None:
        self._known.clear()

    def open(self, copy_of: Slot | None = None) -> Slot:
        slot: Slot = self._backend.open(copy_of)
        if copy_of is None:
            self._fresh.add(slot)
        return slot

    def close(self, slot: Slot) -> None:
        self._fresh.discard(slot)
        self._answered.discard(slot)
        self._backend.close(slot)

    def advance(self, feeds: Sequence[Feed]) -> Any:
        assert not any(feed.slot in self._answered for feed in feeds), "it has not read what it has told"
        fresh = [feed.slot in self._fresh for feed in feeds]
        self._fresh.difference_update(feed.slot for feed in feeds)
        if fresh == [True] and feeds[0].wanted == 1:
            ids = tuple(feeds[0].ids)
            if ids in self._known:
                self._answered.add(feeds[0].slot)
            else:
                self._known[ids] = np.array(dense(self._backend.advance(feeds)))[0]
            return self._known[ids][None]
        return self._backend.advance(feeds)


class PlainLoop:
    """The plain loop on the members of an engine; it looks ahead, but at nothing that an engine keeps."""

    def __init__(self, engine: Engine) -> None:
        self._union = engine.union
        self._members = [copy.copy(member) for member in engine.members]
        for member in self._members:
            member.backend = ReadAhead(member.backend)

    def steps(
        self, prompt: Prompt, pieces: int, method: Method, likely: Any, weights: Sequence[float] = ()
    ) -> list[PlainStep]:
        """What it writes, which may well be ``likely``, a text that an engine has written.

        What begins as that is read with it, in one block; what does not is read by itself.
        """
        for member, weight in zip(self._members, weights, strict=False):
            member.weight = weight
        for member in self._members:
            member.backend.read(likely.cursors[member.name].ids, likely.prompt_tokens[member.name])  # type: ignore[attr-defined]
        return list(plain_steps(self._members, self._union, prompt, pieces, method))

    def forget(self) -> None:
        """Let go of what was read, megabytes for each piece."""
        for member in self._members:
            member.backend.forget()  # type: ignore[attr-defined]
