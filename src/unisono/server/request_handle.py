"""A client's call while it runs: its requests, and what has come of them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from unisono.engine.request import Ended, Event, Failed, GenerationRequest, PreparedRequest, Wrote
from unisono.engine.scheduler import RequestId
from unisono.errors import SpecError
from unisono.records import Generation
from unisono.server.constraint import OWN, said_of
from unisono.server.errors import Refusal, refusal_of
from unisono.server.telemetry import Metrics

_Came = tuple[int, Wrote | Ended] | Exception


class RequestHandle:
    """A running call, made by `AsyncEngine.call`. A list of prompts becomes several requests of ``n`` texts each."""

    def __init__(self, metrics: Metrics) -> None:
        self.requests: Sequence[GenerationRequest] = ()
        self.prepared: Sequence[PreparedRequest] = ()
        """What the requests became, in their order."""
        self.constraint_field = OWN
        """The field that their constraint comes from."""
        self.request_ids: list[RequestId] = []
        self.running: dict[RequestId, int] = {}
        """The requests that have not ended, with the number of their unfinished texts."""
        self.ended: dict[int, Generation] = {}
        """The finished texts, by choice."""
        self.first_piece: float | None = None
        self._began = time.perf_counter()
        self._metrics = metrics
        self._events: asyncio.Queue[_Came] = asyncio.Queue()
        self._over = asyncio.Event()
        """Set with the last event."""
        self._last_event: dict[int, float] = {}
        """When each choice last had an event."""

    async def events(self, pause: float = 0.0) -> AsyncIterator[tuple[int, Wrote | Ended]]:
        """Yield events with their choice until all texts have ended. Raises a `Refusal` if a request failed.

        After events, a ``pause`` in seconds ends early only with the call. What came meanwhile of a choice is joined.
        """
        while self.running or not self._events.empty():
            came = [await self._events.get()]
            if pause:
                while not self._events.empty():
                    came.append(self._events.get_nowait())
                came = _joined(came)
            for event in came:
                if isinstance(event, Exception):
                    raise self._refusal_of(event) from event
                yield event
            if pause and self.running:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._over.wait(), pause)

    def _refusal_of(self, error: Exception) -> Refusal:
        """What a client learns of an error. Of a request that is written, only the constraint can prove wrong."""
        if isinstance(error, SpecError) and any(request.constraint for request in self.requests):
            return refusal_of(said_of(error, self.constraint_field), param=self.constraint_field)
        return refusal_of(error)

    async def finish(self) -> None:
        async for _ in self.events():
            pass

    def put(self, event: Event, now: float) -> str:
        """Take an event that happened at ``now`` (`time.perf_counter`); return the model it concerns."""
        place = self.request_ids.index(event.request_id)
        request = self.requests[place]
        if isinstance(event, Failed):
            self.fail(event.error)
            return request.model
        choice = sum(each.n for each in self.requests[:place]) + event.index
        if isinstance(event, Ended):
            self.ended[choice] = event.generation
            if not request.score:
                self._metrics.ended(request.model, event.index, event.generation)
            self.running[event.request_id] -= 1
            if not self.running[event.request_id]:
                del self.running[event.request_id]
            if not self.running:
                self._over.set()
        elif not request.score:
            if self.first_piece is None:
                self.first_piece = now - self._began
                self._metrics.first_piece.labels(request.model).observe(self.first_piece)
            if choice in self._last_event:
                self._metrics.between_pieces.labels(request.model).observe(now - self._last_event[choice])
            self._last_event[choice] = now
        self._events.put_nowait((choice, event))
        return request.model

    def fail(self, error: Exception) -> None:
        """End the call with an error, after its earlier events. A call that is complete stays so."""
        if self.running or not self.request_ids:
            self._events.put_nowait(error)
            self._over.set()


def _joined(came: Sequence[_Came]) -> list[_Came]:
    """Events, those that wrote on at a choice as one; a choice ends after them."""
    written: dict[int, Wrote] = {}
    ends: list[_Came] = []
    for each in came:
        if isinstance(each, Exception):
            ends.append(each)
            continue
        choice, event = each
        if isinstance(event, Ended):
            ends.append(each)
        else:
            written[choice] = _both(written[choice], event) if choice in written else event
    return [*written.items(), *ends]


def _both(one: Wrote, other: Wrote) -> Wrote:
    return replace(
        other,
        text=one.text + other.text,
        steps=one.steps + other.steps,
        reasoning=one.reasoning + other.reasoning,
    )
