"""One client's call: the requests that it makes of the service, and what happens to them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Protocol

from unisono.chat.messages import Prompt, content_of
from unisono.engine.request import Event, Failed, GenerationRequest, PreparedRequest, Wrote
from unisono.engine.scheduler import RequestId
from unisono.errors import BackendMissing, PromptError, SpecError
from unisono.server.errors import Refusal, refusal_of
from unisono.server.limits import ServerLimits
from unisono.server.metrics import Metrics


class Backing(Protocol):
    """What a call needs of the engine behind it."""

    @property
    def limits(self) -> ServerLimits:
        """The server's."""

    @property
    def queue(self) -> int:
        """How many requests may wait."""

    @property
    def retry_after(self) -> int:
        """Seconds after which another request may find room."""

    async def prepare(self, request: GenerationRequest) -> PreparedRequest:
        """See whether a request can be served, beside the steps. Raises what `Service.prepare` raises."""

    async def submit(self, handle: RequestHandle, prepared: Sequence[PreparedRequest]) -> None:
        """Queue requests, all or none. Raises a `QueueFull`."""


class RequestHandle:
    """A call under way; made by `AsyncEngine.call`. A list of prompts makes it several requests."""

    def __init__(self, engine: Backing, metrics: Metrics) -> None:
        self.requests: Sequence[GenerationRequest] = ()
        self.request_ids: list[RequestId] = []
        self.began = time.perf_counter()
        self.first_piece: float | None = None
        """Seconds until the first text of the answer."""
        self._engine = engine
        self._metrics = metrics
        self._events: asyncio.Queue[tuple[int, Event] | Exception] = asyncio.Queue()
        self._running: dict[RequestId, int] = {}
        """Requests that have not ended, and how many of their texts have not."""
        self._last_event: dict[tuple[RequestId, int], float] = {}
        """By text, when its last event came."""

    async def begin(self, requests: Sequence[GenerationRequest], constraint_field: str = "unisono.constraint") -> None:
        """Prepare requests and queue them.

        Args:
            requests: one for each prompt.
            constraint_field: the field of the call that the constraint comes from.

        Raises:
            Refusal: they cannot be served, or not now.
        """
        self.requests = requests
        limits = self._engine.limits
        try:
            async with asyncio.timeout(limits.timeout):
                if len(requests) > (most := self._engine.queue):
                    words = f"the prompt is a list of {len(requests)}, and this server lets {most} wait at most"
                    raise Refusal(400, words, param="prompt", code="invalid_value")
                for request in requests:
                    limits.check_characters("prompt", _characters(request.prompt))
                prepared = [await self._prepare(request, constraint_field) for request in requests]
                await self._engine.submit(self, prepared)
        except TimeoutError:
            raise Refusal(504, "the request took too long to begin", kind="timeout_error", code="timeout") from None
        except Exception as error:
            retry_after = self._engine.retry_after
            raise refusal_of(error, param=_blamed(error, requests[0]), retry_after=retry_after) from error

    async def _prepare(self, request: GenerationRequest, constraint_field: str) -> PreparedRequest:
        try:
            prepared = await self._engine.prepare(request)
        except (SpecError, BackendMissing) as error:
            if request.constraint is None:
                raise
            await self._engine.prepare(replace(request, constraint=None))  # if that works, the constraint is to blame
            raise refusal_of(error, param=constraint_field) from error
        for name, ids in prepared.ids.items():
            if len(ids) > (most := self._engine.limits.prompt):
                words = f"the prompt has {len(ids)} tokens for member {name!r}, and this server takes {most} at most"
                raise Refusal(400, words, code="context_length_exceeded")
        return prepared

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """What happens to the requests: the number of the request, and the event, until all have ended.

        Raises:
            Refusal: one of them failed; nothing more comes of any.
        """
        while self._running or not self._events.empty():
            event = await self._events.get()
            if isinstance(event, Exception):
                raise refusal_of(event, retry_after=self._engine.retry_after) from event
            yield event

    def accept(self, request_ids: Sequence[RequestId]) -> None:
        """Note that its requests are queued."""
        self.request_ids = list(request_ids)
        self._running = {request_id: request.n for request_id, request in zip(request_ids, self.requests, strict=True)}

    def put(self, event: Event, now: float) -> str:
        """Take an event that happened at some time by `time.perf_counter`; return the model it concerns."""
        place = self.request_ids.index(event.request_id)
        model = self.requests[place].model
        if isinstance(event, Failed):
            self.fail(event.error)
            return model
        if isinstance(event, Wrote):
            self._measure((event.request_id, event.index), model, now)
        else:
            self._metrics.ended(model, event.index, event.generation)
            self._running[event.request_id] -= 1
            if not self._running[event.request_id]:
                del self._running[event.request_id]
        self._events.put_nowait((place, event))
        return model

    def fail(self, error: Exception) -> None:
        """End it with an error, which comes after its other events; one that is complete stays so."""
        if self.request_ids and not self._running:
            return
        self._events.put_nowait(error)

    def leave(self) -> list[RequestId]:
        """Take no more events; return the requests that have not ended."""
        left = list(self._running)
        self._running = {}
        return left

    def _measure(self, text: tuple[RequestId, int], model: str, now: float) -> None:
        if self.first_piece is None:
            self.first_piece = now - self.began
            self._metrics.first_piece.labels(model).observe(self.first_piece)
        if text in self._last_event:
            self._metrics.between_pieces.labels(model).observe(now - self._last_event[text])
        self._last_event[text] = now


def _blamed(error: Exception, request: GenerationRequest) -> str | None:
    """The field of a request that was well formed and yet cannot be served."""
    if isinstance(error, PromptError):
        return "prompt" if request.prompt.messages is None else "messages"
    if request.n > 1:
        return "n"
    return "unisono.draw" if request.method is not None and request.method.draw.beam_width > 1 else None


def _characters(prompt: Prompt) -> int:
    """How much text there is to tokenise."""
    return len(prompt.text or "") + sum(len(content_of(message)) for message in prompt.messages or ())
