"""A model behind an endpoint, as the engine knows models: slots are lists of ids here, and a pass is questions."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from unisono.backends.base import Array, BackendFacts, Feed, Slot
from unisono.backends.endpoint.adapter import Adapter, Description, Question
from unisono.backends.endpoint.caller import Caller
from unisono.backends.feed_checks import check_feeds, check_ids, check_rewind, check_top
from unisono.backends.top_logprobs import TopLogprobs
from unisono.errors import MemberUnavailable, ModelError

_LEAVING_SECONDS = 2.0
_UNLOADING_SECONDS = 0.5  # which are waited: the process may end behind it


@dataclass(slots=True)
class _Held:
    ids: array[int] = field(default_factory=lambda: array("i"))
    """Numbers of 4 bytes, as they are sent: all of them are in each question."""
    engine: int = 0
    """How many of these the engine is believed to have read."""
    asked: bool = False
    """Whether it may hold something of this slot: it was asked, though it may not have answered."""


class EndpointBackend:
    """Only `advance` waits for the endpoint. A slot is as it was when that fails."""

    def __init__(
        self,
        client: Caller,
        adapter: Adapter,
        description: Description,
        *,
        context: int,
        slots: int,
        warnings: tuple[str, ...] = (),
    ) -> None:
        self.facts = BackendFacts(
            device=client.address,
            rows=description.rows,
            context=context,
            slots=slots,
            warnings=warnings,
            truncated=description.truncated,
            keeps_prefixes=description.keeps_prefixes,
        )
        self._client = client
        self._adapter = adapter
        self._slots: dict[Slot, _Held] = {}
        self._loaded = True

    def open(self, copy_of: Slot | None = None) -> Slot:
        self._begin_call()
        held = _Held() if copy_of is None else self._held(copy_of)
        for slot in map(Slot, range(self.facts.slots)):
            if slot not in self._slots:
                self._slots[slot] = _Held(held.ids[:], held.engine)
                return slot
        raise RuntimeError(f"all {self.facts.slots} slots are taken")

    def advance(self, feeds: Sequence[Feed]) -> Array | TopLogprobs:
        self._begin_call()
        check_feeds(feeds, lambda slot: len(self._held(slot).ids), self.facts)
        check_ids(feeds, self.facts.rows)
        if self.facts.truncated is not None:
            check_top(feeds, self.facts.rows, self.facts.truncated)
        if not feeds:
            return self._nothing()
        for feed in feeds:
            self._slots[feed.slot].asked = True
        told = self._ask([self._question(feed) for feed in feeds])
        for feed in feeds:
            held = self._slots[feed.slot]
            held.ids.extend(feed.ids)
            held.engine = len(held.ids)
        return told

    def rewind(self, slot: Slot, length: int) -> None:
        self._begin_call()
        held = self._held(slot)
        check_rewind(slot, len(held.ids), length)
        del held.ids[length:]
        held.engine = min(held.engine, length)

    def close(self, slot: Slot) -> None:
        self._begin_call()
        if self._held(slot).asked:
            self._client.start(self._adapter.leave([slot]), _LEAVING_SECONDS)
        del self._slots[slot]

    def unload(self, *, says_so: bool = True) -> None:
        """Forget the model. Whether the endpoint is told that its slots are free is the caller's affair."""
        self._client.stop()
        if says_so and self._loaded and any(held.asked for held in self._slots.values()):
            with contextlib.suppress(MemberUnavailable):
                self._client.check()
                self._client.run(self._adapter.leave(None), _UNLOADING_SECONDS)
        self._loaded = False
        self._slots.clear()

    def _question(self, feed: Feed) -> Question:
        held = self._slots[feed.slot]
        return Question(
            slot=feed.slot,
            ids=held.ids + array("i", feed.ids),
            held=held.engine,
            wanted=feed.wanted,
            top=feed.top,
            also=feed.also,
        )

    def _ask(self, questions: list[Question]) -> Array | TopLogprobs:
        try:
            told = self._adapter.ask(questions)
        except MemberUnavailable:
            raise
        except ModelError as error:  # what is told is no distribution
            raise self._client.failed(error.message) from error
        wanted = sum(question.wanted for question in questions)
        if isinstance(told, TopLogprobs) != (self.facts.truncated is not None) or tuple(told.shape) != (
            wanted,
            self.facts.rows,
        ):
            raise self._client.failed(
                f"it gave distributions of the shape {tuple(told.shape)}, expected is {(wanted, self.facts.rows)}"
            )
        return told

    def _nothing(self) -> Array | TopLogprobs:
        if self.facts.truncated is None:
            return np.empty((0, self.facts.rows), np.float32)
        none = np.empty(0)
        return TopLogprobs(
            np.empty((0, 0), np.int32), np.empty((0, 0), np.float32), unseen_N=none, kth_N=none, rows=self.facts.rows
        )

    def _held(self, slot: Slot) -> _Held:
        if slot not in self._slots:
            raise ValueError(f"slot {slot} is not open")
        return self._slots[slot]

    def _begin_call(self) -> None:
        if not self._loaded:
            raise RuntimeError(f"the model of member {self._client.member!r} has been unloaded")
