"""The engine for asyncio: clients' calls, and the requests that they make, which `async_preparer` prepares."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

from unisono.chat.messages import Prompt, content_of
from unisono.engine.beginning import BeginningError
from unisono.engine.engine_thread import EngineThread
from unisono.engine.request import Ended, Event, Failed, GenerationRequest
from unisono.engine.scheduler import RequestId
from unisono.engine.service import Service
from unisono.errors import MemberUnavailable, PromptError, UnisonoError
from unisono.free_pages import PROCESS
from unisono.records import Limits
from unisono.server import readiness
from unisono.server.async_preparer import AsyncPreparer
from unisono.server.constraint import OWN
from unisono.server.errors import OVERLOADED, Refusal, began_too_late, not_ready, refusal_of, shutting_down
from unisono.server.limits import CHARACTERS, ServerLimits, prompt_field
from unisono.server.prompt_cut import PromptCut
from unisono.server.request_handle import RequestHandle
from unisono.server.telemetry import Metrics, say, where

T = TypeVar("T")
State = Literal["loading", "serving", "draining", "broken", "closed"]
REASONS: dict[State, str] = {
    "loading": "the models are being loaded",
    "draining": "it is shutting down",
    "broken": "the engine has failed",
    "closed": "it has shut down",
}
"""Why the server is not ready."""
PROBE_SECONDS = 10.0
"""Between two attempts to use a failing model, and to give free memory back."""
PROBE = "a"
ASKS_ALL = {"gate": "always", "sampling": "greedy"}
"""The options of a probe by which a lost member is asked whether it is back."""
FAILURES = 3
"""Consecutive failed requests of a model after which the server is not ready."""


class AsyncEngine:
    """Owns the engine's thread. Call its methods in the event loop that `start` was called in."""

    def __init__(self, load: Callable[[], Service], limits: ServerLimits, metrics: Metrics) -> None:
        """Make an engine that `start` starts. Its thread calls ``load`` and unloads the models."""
        self.limits = limits
        self.metrics = metrics
        self.state: State = "loading"
        self.error: BaseException | None = None
        self.thread = EngineThread(load, self)
        self._service: Service | None = None
        self._preparer = AsyncPreparer(self.thread, limits)
        self._calls: set[RequestHandle] = set()
        self._by_request: dict[RequestId, RequestHandle] = {}
        self._seconds = 1.0
        self._idle = asyncio.Event()
        self._idle.set()
        self._failures: dict[str, int] = {}
        """By model, how many requests in a row failed."""
        self._probing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to load, in the background."""
        self.thread.start()
        self._probing = asyncio.create_task(self._probe())

    @property
    def service(self) -> Service:
        """The service. Raises a `Refusal` while it cannot be used."""
        if self.state in ("draining", "closed"):
            raise shutting_down()
        if self._service is None or self.state != "serving":
            raise not_ready(self.reason or self.state)
        return self._service

    @property
    def over(self) -> asyncio.Event:
        return self.thread.over

    @property
    def models(self) -> tuple[str, ...]:
        return () if self._service is None else self._service.models

    @property
    def failing(self) -> list[str]:
        return [model for model, failures in self._failures.items() if failures >= FAILURES]

    @property
    def reason(self) -> str | None:
        """Why the server is not ready; ``None`` when it is."""
        if self.state in REASONS:
            return REASONS[self.state]
        if self.failing:
            return f"{', '.join(self.failing)}: the last {FAILURES} requests failed"
        return None if self._service is None else readiness.lost(self._service)

    @property
    def readiness(self) -> readiness.State:
        return readiness.state_of(self.reason, self._service if self.state == "serving" else None)

    @property
    def retry_after(self) -> int:
        """Seconds until a new request may find room: the mean duration of recent requests, from 1 to 60."""
        return max(1, min(60, round(self._seconds)))

    @contextlib.contextmanager
    def call(self) -> Iterator[RequestHandle]:
        """One client's call. On exit, its unfinished requests are cancelled.

        Raises a `Refusal` if the server is not ready or too many calls are running.
        """
        _ = self.service  # which refuses while the server is not ready
        if len(self._calls) >= self.limits.concurrency:
            words = f"{len(self._calls)} requests are running, the most this server takes; try again later"
            raise Refusal(429, words, kind=OVERLOADED, code="too_many_requests", retry_after=self.retry_after)
        handle, began = RequestHandle(self.metrics), time.monotonic()
        self._calls.add(handle)
        self._idle.clear()
        try:
            yield handle
        finally:
            self._calls.discard(handle)
            if handle.request_ids:
                self._seconds += 0.1 * (time.monotonic() - began - self._seconds)
            for request_id in handle.request_ids:
                del self._by_request[request_id]
            for request_id in handle.running:
                self.thread.cancel(request_id)
            handle.running = {}
            if not self._calls:
                self._idle.set()

    async def begin(
        self,
        handle: RequestHandle,
        requests: Sequence[GenerationRequest],
        constraint_field: str = OWN,
        sampling_field: str = "unisono.sampling",
        cuts: Sequence[PromptCut] = (),
    ) -> None:
        """Prepare and queue the requests of a call, one per prompt. Raises a `Refusal`."""
        handle.requests, handle.constraint_field, service = requests, constraint_field, self.service
        try:
            async with asyncio.timeout(self.limits.timeout):
                if (count := len(requests)) > (most := service.queue):
                    scored = sum(request.score for request in requests)
                    twice = "" if scored in (0, count) else ", each scored and written on by a request of its own"
                    words = (
                        f"the prompt is a list of {scored or count}{twice}, and this server lets {most} wait at most"
                    )
                    raise Refusal(400, words, param="prompt", code="invalid_value")
                for request in requests:
                    texts = [request.prompt.text or "", *map(content_of, request.prompt.messages or ())]
                    if (characters := sum(map(len, texts))) > CHARACTERS * self.limits.prompt:
                        raise self.limits.too_long("prompt", characters, field=prompt_field(request.prompt))
                handle.prepared = [
                    await self._preparer.prepare(service, request, constraint_field, self.retry_after)
                    for request in requests
                ]
                for cut, prepared in itertools.product(cuts, handle.prepared):
                    for name, ids in prepared.ids.items():
                        cut.check(name, len(ids))
                await self.thread.submit(handle.prepared, partial(self._queued, handle), self.limits.timeout)
        except TimeoutError:
            raise began_too_late() from None
        except Exception as error:
            param = blamed(error, requests[0], sampling_field)
            raise refusal_of(error, param=param, retry_after=self.retry_after) from error

    async def read_in_time(self, param: str, size: int, work: Callable[..., T], *arguments: Any) -> T:
        """Do what encodes so many characters and runs no model, within the time of a request.

        Raises a `Refusal`, which names ``param`` where the text is wrong.
        """
        try:
            async with asyncio.timeout(self.limits.timeout):
                return await self._preparer.read(self.retry_after, size, work, *arguments)
        except TimeoutError:
            raise began_too_late() from None
        except UnisonoError as error:
            raise refusal_of(error, param=param, retry_after=self.retry_after) from error

    def _queued(self, handle: RequestHandle, request_ids: list[RequestId]) -> None:
        handle.request_ids = request_ids
        handle.running = {name: request.n for name, request in zip(request_ids, handle.requests, strict=True)}
        self._by_request |= dict.fromkeys(request_ids, handle)

    async def drain(self, grace: float) -> None:
        """Take no new calls, give running ones some seconds to finish, then fail the rest."""
        if self.state == "serving":
            self.state = "draining"
            say("draining", running=len(self._calls), grace_seconds=grace)
            await _wait(self._idle, grace)
        self.state = "draining" if self.state == "loading" else self.state
        for call in self._calls:
            call.fail(shutting_down())
        self.thread.refuse(shutting_down())
        self._preparer.close()
        await _wait(self._idle, 1)

    async def close(self, patience: float = 10.0) -> bool:
        """End the engine's thread, and return whether it ended within some seconds; see `EngineThread.close`."""
        if self.state != "broken":
            self.state = "closed"
        if self._probing is not None:
            self._probing.cancel()
        self._preparer.close()
        return await self.thread.close(patience)

    # Called by the engine's thread, in the loop.

    def loaded(self, service: Service) -> None:
        self._service = service
        self._preparer.lend(service)
        self.metrics.follow(lambda: service.served, lambda: service.waiting)
        self.metrics.follow_members(service)
        if self.state == "loading":
            self.state = "serving"
            say("ready", models=list(service.models))
            self.metrics.ready.set_function(lambda: float(self.reason is None))

    def emitted(self, events: Sequence[Event], now: float, seconds: float, served: int) -> None:
        self.metrics.batch.observe(served)
        self.metrics.turn_seconds.observe(seconds)
        for event in events:
            if (handle := self._by_request.get(event.request_id)) is None:
                continue
            model = handle.put(event, now)
            if isinstance(event, Ended):
                self._failures.pop(model, None)
            elif isinstance(event, Failed) and isinstance(event.error, MemberUnavailable):
                self.metrics.failures.labels(model).inc()  # what was lost has been logged
            elif isinstance(event, Failed) and not isinstance(event.error, UnisonoError):
                notes = getattr(event.error, "__notes__", [])
                say("failed", level=40, model=model, error=f"{type(event.error).__name__}: {event.error}", notes=notes)
                self.metrics.failures.labels(model).inc()
                self._failures[model] = self._failures.get(model, 0) + 1

    def crashed(self, error: Exception) -> None:
        """Fail all queued and running requests. Later ones are served."""
        say("crashed", level=40, error=where(error))
        for call in self._calls:
            if call.request_ids:
                call.fail(error)

    def ended(self, error: BaseException | None) -> Exception:
        """Fail all calls: no more events will come."""
        self.error = error
        if error is not None:
            self.state = "broken"
            say("broken", level=50, error=where(error))
        refusal = shutting_down() if error is None else not_ready("the engine has failed")
        for call in self._calls:
            call.fail(refusal)
        return refusal

    async def _probe(self) -> None:
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            await asyncio.to_thread(PROCESS.give_back)
            due = {} if self._service is None else readiness.due(self._service)
            for model in dict.fromkeys((*self.failing, *due)):
                with contextlib.suppress(Exception):
                    async with asyncio.timeout(self.limits.timeout):
                        await self._try(model, ASKS_ALL if model in due else {})

    async def _try(self, model: str, options: Mapping[str, str]) -> None:
        messages = ({"role": "user", "content": PROBE},)
        for prompt in (Prompt(text=PROBE), Prompt(messages=messages)):  # type: ignore[arg-type]
            with contextlib.suppress(Refusal), self.call() as call:  # a member with a system message reads no raw text
                await self.begin(call, [GenerationRequest("", prompt, Limits(1), model=model, options=options)])
                await call.finish()
                return


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


def blamed(error: Exception, request: GenerationRequest, sampling_field: str) -> str | None:
    """The field of a well-formed request because of which it cannot be served."""
    if isinstance(error, BeginningError):
        return "prefill"
    if isinstance(error, PromptError):
        return prompt_field(request.prompt)
    if request.n > 1:
        return "n"
    return sampling_field if request.method is not None and request.method.sampling.beam_width > 1 else None
