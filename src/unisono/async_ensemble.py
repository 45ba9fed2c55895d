"""The facade for asyncio: concurrent requests share the steps of one engine thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Self, Unpack, overload

from unisono.chat.messages import Message, Prompt
from unisono.config.ensemble import Source
from unisono.engine.client import Received
from unisono.engine.engine_thread import EngineThread
from unisono.engine.request import Ended, Event, Failed, GenerationOptions, Request, Wrote
from unisono.engine.scheduler import RequestId
from unisono.engine.service import Service
from unisono.ensemble import Ensemble
from unisono.errors import ClosedError
from unisono.members import Report, silent
from unisono.records import Generation
from unisono.step_records import Part

_Inbox = asyncio.Queue[Event | Exception]


class AsyncEnsemble:
    """An ensemble for asyncio. Concurrent requests are batched; those without a free slot wait.

    ```python
    async with await AsyncEnsemble.load("duo.yaml", batch=8) as duo:
        answers = await asyncio.gather(*(duo.generate(prompt) for prompt in prompts))
    ```
    """

    def __init__(self, ensemble: Ensemble) -> None:
        """Take ownership of an ensemble. Call it within a running event loop."""
        self._ensemble = ensemble
        self._inboxes: dict[RequestId, _Inbox] = {}
        self._is_closed = False
        self._thread = EngineThread(lambda: ensemble.service, self)
        self._thread.start()

    @classmethod
    async def load(
        cls,
        spec: Source | None = None,
        *,
        batch: int = 1,
        report: Report = silent,
        **members: str | Mapping[str, Any],
    ) -> Self:
        """Load an ensemble without blocking the loop; the arguments and errors are those of `Ensemble.load`."""
        return cls(await asyncio.to_thread(Ensemble.load, spec, batch=batch, report=report, **members))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    @property
    def members(self) -> tuple[str, ...]:
        """The names of the members that vote, in order."""
        return self._ensemble.members

    @overload
    async def generate(
        self,
        prompt: str | Prompt | None = None,
        *,
        messages: Sequence[Message] | None = None,
        n: None = None,
        **options: Unpack[GenerationOptions],
    ) -> Generation: ...
    @overload
    async def generate(
        self,
        prompt: str | Prompt | None = None,
        *,
        messages: Sequence[Message] | None = None,
        n: int,
        **options: Unpack[GenerationOptions],
    ) -> list[Generation]: ...
    async def generate(
        self,
        prompt: str | Prompt | None = None,
        *,
        messages: Sequence[Message] | None = None,
        n: int | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Generation | list[Generation]:
        """Generate a text, or ``n`` texts of one prompt; the arguments and errors are those of `Ensemble.generate`.

        A cancelled task frees its slots.
        """
        request = self._ensemble.request(prompt, messages, options, n)
        texts: dict[int, Generation] = {}
        async with aclosing(self._events(request)) as events:
            async for event in events:
                if isinstance(event, Ended):
                    texts[event.index] = event.generation
        ordered = [texts[index] for index in range(request.n)]
        return ordered[0] if n is None else ordered

    def stream(
        self,
        prompt: str | Prompt | None = None,
        *,
        messages: Sequence[Message] | None = None,
        **options: Unpack[GenerationOptions],
    ) -> AsyncStream:
        """Generate one text and yield it, in whole characters, as it grows; see `generate`.

        Closing the iterator (`contextlib.aclosing`), or cancelling its task, frees its slots.
        """
        return AsyncStream(self._events(self._ensemble.request(prompt, messages, options)))

    async def close(self) -> None:
        """Cancel all requests, end the thread and unload all members. A second call has no effect."""
        self._is_closed = True
        await self._thread.close()

    async def _events(self, request: Request) -> AsyncGenerator[Event, None]:
        if self._is_closed:
            raise ClosedError("the ensemble is closed", hint="load it again, or await its texts before it is closed")
        prepared = await self._thread.read(self._ensemble.service.prepare, request)
        inbox: _Inbox = asyncio.Queue()
        try:
            await self._thread.submit([prepared], lambda request_ids: self._inboxes.update({request_ids[0]: inbox}))
            left = request.n
            while left:
                event = await inbox.get()
                if isinstance(event, Exception):
                    raise event
                if isinstance(event, Failed):
                    raise event.error
                left -= isinstance(event, Ended)
                yield event
        finally:
            for request_id in [each for each, its_inbox in self._inboxes.items() if its_inbox is inbox]:
                del self._inboxes[request_id]
                self._thread.cancel(request_id)

    # Called by the engine's thread, in the loop.

    def loaded(self, service: Service) -> None:
        """The service is there: it was before."""

    def emitted(self, events: Sequence[Event], now: float, seconds: float, served: int) -> None:
        """Deliver the events of a step."""
        for event in events:
            if event.request_id in self._inboxes:
                self._inboxes[event.request_id].put_nowait(event)

    def crashed(self, error: Exception) -> None:
        """Fail all requests; later ones are served."""
        for inbox in self._inboxes.values():
            inbox.put_nowait(error)

    def ended(self, error: BaseException | None) -> Exception:
        """Fail what is left: no more events will come."""
        closed = ClosedError("the ensemble was closed before the text ended")
        closed.__cause__ = error
        for inbox in self._inboxes.values():
            inbox.put_nowait(closed)
        return closed


class AsyncStream(Received):
    """A text while it is being generated; see `AsyncEnsemble.stream`. Generation begins when it is first awaited.

    Iterate over it to get the answer's text. `parts` yields reasoning too, and `reasoning` is the reasoning so far.
    After the end, `generation` is the finished record.
    """

    def __init__(self, events: AsyncGenerator[Event, None]) -> None:
        super().__init__()
        self._events = events

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        while (found := await self._next()) is not None:
            part, text = found
            if part == "answer":
                return text
        raise StopAsyncIteration

    async def parts(self) -> AsyncIterator[tuple[Part, str]]:
        """Yield all text from here on: ``("reasoning", text)`` and ``("answer", text)``."""
        while (found := await self._next()) is not None:
            yield found

    async def aclose(self) -> None:
        """Stop generating and free the text's slots. A second call has no effect."""
        await self._events.aclose()

    async def _next(self) -> tuple[Part, str] | None:
        while not self._waiting:
            event = await anext(self._events, None)
            if event is None:
                return None
            if isinstance(event, Wrote):
                self._waiting += event.parts
            elif isinstance(event, Ended):
                self._generation = event.generation
        return self._yielded()
