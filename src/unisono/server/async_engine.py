"""The engine behind asyncio: one thread takes the service's steps, another prepares requests.

Requests are prepared in a thread of their own, so that a long prompt's tokenisation delays neither a step nor the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal, TypeVar

from unisono.chat.messages import Prompt
from unisono.engine.engine_thread import EngineThread
from unisono.engine.request import Ended, Event, Failed, GenerationRequest, PreparedRequest
from unisono.engine.scheduler import RequestId
from unisono.engine.service import Service
from unisono.errors import UnisonoError
from unisono.records import Limits
from unisono.server.errors import OVERLOADED, Refusal, not_ready, shutting_down
from unisono.server.limits import ServerLimits
from unisono.server.logs import say, where
from unisono.server.metrics import Metrics
from unisono.server.request_handle import RequestHandle

State = Literal["loading", "serving", "draining", "broken", "closed"]
PROBE_SECONDS = 10.0
"""Between two attempts at a model that fails."""
PROBE = "a"

T = TypeVar("T")
FAILURES = 3
"""Requests in a row that a model's failure ended, after which the server is not ready."""


class Health:
    """Counts failures by model: the server is not ready while one fails, until it works again."""

    def __init__(self) -> None:
        self._failures: dict[str, int] = {}

    def failed(self, model: str) -> None:
        """Note that a request failed, and neither by its own fault nor for lack of time."""
        self._failures[model] = self._failures.get(model, 0) + 1

    def wrote(self, model: str) -> None:
        """Note that a text was completed."""
        self._failures.pop(model, None)

    @property
    def failing(self) -> list[str]:
        """The models that fail."""
        return [model for model, failures in self._failures.items() if failures >= FAILURES]

    @property
    def reason(self) -> str | None:
        """Why the server is not ready, if it is so."""
        return f"it fails again and again: {', '.join(self.failing)}" if self.failing else None


class AsyncEngine:
    """Owns the engine's thread. All methods are for the loop that `start` was called in."""

    def __init__(self, load: Callable[[], Service], limits: ServerLimits, metrics: Metrics) -> None:
        """Prepare it; `start` begins.

        Args:
            load: loads the models; called in the engine's thread, which unloads them.
            limits: of the server.
            metrics: what is counted into.
        """
        self.limits = limits
        self.metrics = metrics
        self.state: State = "loading"
        self.error: BaseException | None = None
        """Why it is broken."""
        self.over = asyncio.Event()
        """Set when the engine's thread has ended."""
        self.health = Health()
        self._thread = EngineThread(load, self)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="unisono-reader")
        self._service: Service | None = None
        self._calls: set[RequestHandle] = set()
        self._by_request: dict[RequestId, RequestHandle] = {}
        self._seconds = 1.0
        self._queueing: set[asyncio.Future[None]] = set()
        self._idle = asyncio.Event()
        self._probing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to load, in the background."""
        self._loop = asyncio.get_running_loop()
        self._thread.start(self._loop)
        self._probing = self._loop.create_task(self._probe())

    @property
    def service(self) -> Service:
        """The service. Raises a `Refusal` while it cannot be asked."""
        if self.state in ("draining", "closed"):
            raise shutting_down()
        if self._service is None or self.state != "serving":
            raise not_ready(self.reason or self.state)
        return self._service

    @property
    def models(self) -> tuple[str, ...]:
        """The models, as soon as they are loaded."""
        return () if self._service is None else self._service.models

    @property
    def reason(self) -> str | None:
        """Why it is not ready; ``None`` when it is."""
        words = {"loading": "the models are being loaded", "draining": "it is shutting down"}
        words |= {"broken": "the engine has failed", "closed": "it has shut down"}
        return words.get(self.state) or self.health.reason

    @property
    def retry_after(self) -> int:
        """Seconds after which another request may find room: what requests take of late, within reason."""
        return max(1, min(60, round(self._seconds)))

    @contextlib.contextmanager
    def call(self) -> Iterator[RequestHandle]:
        """One client's call, for as long as it listens: what has not ended by then is cancelled.

        Raises:
            Refusal: the server is not ready, or too many calls are under way.
        """
        assert self.service is not None
        if len(self._calls) >= self.limits.concurrency:
            raise Refusal(
                429,
                f"{len(self._calls)} requests are under way, as many as this server takes; try again in a while",
                kind=OVERLOADED,
                code="too_many_requests",
                retry_after=self.retry_after,
            )
        handle, began = RequestHandle(self, self.metrics), time.monotonic()
        self._calls.add(handle)
        self._idle.clear()
        try:
            yield handle
        finally:
            self._calls.discard(handle)
            if handle.request_ids:
                self._seconds += 0.1 * (time.monotonic() - began - self._seconds)
            for request_id in handle.leave():
                self._by_request.pop(request_id, None)
                self._thread.submit(partial(Service.cancel, request_id=request_id))
            if not self._calls:
                self._idle.set()

    @property
    def queue(self) -> int:
        """How many requests may wait."""
        return self.service.queue

    async def prepare(self, request: GenerationRequest) -> PreparedRequest:
        """See whether a request can be served, beside the steps. Raises what `Service.prepare` raises."""
        return await self.read(partial(self.service.prepare, request))

    async def read(self, work: Callable[[], T]) -> T:
        """Do something that takes a while and runs no model, in the thread that reads prompts."""
        return await self._loop.run_in_executor(self._reader, work)

    async def submit(self, handle: RequestHandle, prepared: Sequence[PreparedRequest]) -> None:
        """Queue what a call asks for, all or none. Raises a `QueueFull`."""
        queued: asyncio.Future[None] = self._loop.create_future()

        def submit(service: Service) -> None:
            request_ids: list[RequestId] = []
            try:
                request_ids.extend(service.submit(one, timeout=self.limits.timeout) for one in prepared)
            except Exception as error:
                for request_id in request_ids:
                    service.cancel(request_id)
                self._thread.post(self._refuse, queued, error)
            else:
                self._thread.post(self._accept, handle, queued, request_ids)

        self._queueing.add(queued)
        self._thread.submit(submit)
        try:
            await queued
        finally:
            self._queueing.discard(queued)

    def _accept(self, handle: RequestHandle, queued: asyncio.Future[None], request_ids: list[RequestId]) -> None:
        """Begin to pass events on; the requests of a call that has left meanwhile are cancelled."""
        if queued.done() or handle not in self._calls:
            for request_id in request_ids:
                self._thread.submit(partial(Service.cancel, request_id=request_id))
            return
        self._by_request |= dict.fromkeys(request_ids, handle)
        handle.accept(request_ids)
        queued.set_result(None)

    def _refuse(self, queued: asyncio.Future[None], error: Exception) -> None:
        if not queued.done():
            queued.set_exception(error)

    async def drain(self, grace: float) -> None:
        """Take no more work; let what runs finish for some seconds, then tell the rest that it ends."""
        if self.state == "serving":
            self.state = "draining"
            say("draining", running=len(self._calls), grace_seconds=grace)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self.idle()
        self.state = "draining" if self.state == "loading" else self.state
        for call in self._calls:
            call.fail(shutting_down())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self.idle()

    async def idle(self) -> None:
        """Wait until no call is under way."""
        if self._calls:
            await self._idle.wait()

    async def close(self, patience: float = 10.0) -> bool:
        """End the engine's thread, which unloads the models; return whether it has ended.

        Args:
            patience: seconds to wait for it; a pass or a load that is under way is not interrupted.
        """
        if self.state != "broken":
            self.state = "closed"
        if self._probing is not None:
            self._probing.cancel()
        self._thread.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self.over.wait()
        self._reader.shutdown(wait=False, cancel_futures=True)
        return self.over.is_set()

    # What the engine's thread tells, in the loop.

    def loaded(self, service: Service) -> None:
        """The models are there."""
        self._service = service
        self.metrics.follow(lambda: service.served, lambda: service.waiting)
        if self.state == "loading":
            self.state = "serving"
            say("ready", models=list(service.models))
            self.metrics.ready.set_function(lambda: float(self.reason is None))

    def emitted(self, events: Sequence[Event], now: float, seconds: float, served: int) -> None:
        """Pass on the events of a step."""
        self.metrics.batch.observe(served)
        self.metrics.turn_seconds.observe(seconds)
        for event in events:
            handle = self._by_request.get(event.request_id)
            if handle is None:
                continue
            model = handle.put(event, now)
            if isinstance(event, Ended):
                self.health.wrote(model)
            elif isinstance(event, Failed) and not isinstance(event.error, UnisonoError):
                notes = getattr(event.error, "__notes__", [])
                say("failed", level=40, model=model, error=f"{type(event.error).__name__}: {event.error}", notes=notes)
                self.metrics.failures.labels(model).inc()
                self.health.failed(model)

    def crashed(self, error: Exception) -> None:
        """All that was being written is lost; whoever comes next is served."""
        say("crashed", level=40, error=where(error))
        for call in self._calls:
            if call.request_ids:
                call.fail(error)

    def ended(self, error: BaseException | None) -> None:
        """Nothing comes any more."""
        self.error = error
        if error is not None:
            self.state = "broken"
            say("broken", level=50, error=where(error))
        refusal = shutting_down() if error is None else not_ready("the engine has failed")
        for call in self._calls:
            call.fail(refusal)
        for queued in self._queueing:
            self._refuse(queued, refusal)
        self.over.set()

    async def _probe(self) -> None:
        """Try models that fail again and again, so that the server is ready when they work once more."""
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            for model in self.health.failing:
                with contextlib.suppress(Exception):
                    async with asyncio.timeout(self.limits.timeout):
                        await self._try(model)

    async def _try(self, model: str) -> None:
        messages = ({"role": "user", "content": PROBE},)
        for prompt in (Prompt(text=PROBE), Prompt(messages=messages)):  # type: ignore[arg-type]
            with contextlib.suppress(Refusal), self.call() as call:  # one that has a system message reads no raw text
                await call.begin([GenerationRequest("", prompt, Limits(1), model=model)])
                async for _ in call.events():
                    pass
                return
