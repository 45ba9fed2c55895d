"""The engine's thread: it loads a service, steps it, and unloads it. A second thread prepares requests meanwhile.

Commands go in through a queue, between two steps; the events of a step go out by one call in the listener's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, TypeVar

from unisono.engine.request import Event, PreparedRequest
from unisono.engine.scheduler import RequestId
from unisono.engine.service import Service

CRASHES = 3
"""Steps that may break one after the other before the thread gives up."""

Command = Callable[[Service], None]
T = TypeVar("T")


class Listener(Protocol):
    """Receives what the thread has to say; all of it is called in the loop."""

    def loaded(self, service: Service) -> None:
        """The service is there."""

    def emitted(self, events: Sequence[Event], now: float, seconds: float, served: int) -> None:
        """The events of a step that ended now, took so long, and served this many requests."""

    def crashed(self, error: Exception) -> None:
        """A step broke, by a fault of ours: all requests are lost."""

    def ended(self, error: BaseException | None) -> Exception:
        """The thread has ended, by an error or because it was told to. Returns what later requests are refused with."""


class EngineThread:
    """Owns the thread. It is a daemon: a pass that nobody needs any more does not keep the process.

    All but `start` is called in the loop that `start` was called in.
    """

    def __init__(self, load: Callable[[], Service], listener: Listener) -> None:
        """Prepare it.

        Args:
            load: loads the models; called in the thread, which unloads them.
            listener: receives events.
        """
        self.over = asyncio.Event()
        """Set once the thread has ended."""
        self._load = load
        self._listener = listener
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._queueing: set[asyncio.Future[None]] = set()
        self._refusal: Exception | None = None
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="unisono-reader")
        self._thread = threading.Thread(target=self._run, name="unisono-engine", daemon=True)

    def start(self) -> None:
        """Begin to load; the listener is called in the running loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def read(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do something slow that runs no model, such as `Service.prepare`, beside the steps and the loop."""
        return await self._loop.run_in_executor(self._reader, work, *arguments)

    async def submit(
        self,
        prepared: Sequence[PreparedRequest],
        accept: Callable[[list[RequestId]], None],
        timeout: float | None = None,
    ) -> None:
        """Put requests in line before the next step: all or none, and none if the caller is cancelled.

        ``accept`` is told their ids before any of their events comes. Raises what `Service.submit` raises, or, once the
        thread has ended, what the listener says.
        """
        if self._refusal is not None:
            raise self._refusal
        queueing = self._loop.create_future()

        def submit(service: Service) -> None:
            request_ids: list[RequestId] = []
            try:
                request_ids.extend(service.submit(each, timeout=timeout) for each in prepared)
            except Exception as error:
                for request_id in request_ids:
                    service.cancel(request_id)
                self._post(settle, error)
            else:
                self._post(settle, request_ids)

        def settle(outcome: Exception | list[RequestId]) -> None:
            if isinstance(outcome, list) and queueing.done():
                for request_id in outcome:
                    self.cancel(request_id)
            elif isinstance(outcome, list):
                accept(outcome)
                queueing.set_result(None)
            elif not queueing.done():
                queueing.set_exception(outcome)

        self._commands.put(submit)
        self._queueing.add(queueing)
        try:
            await queueing
        finally:
            self._queueing.discard(queueing)

    def cancel(self, request_id: RequestId) -> None:
        """Give a request up before the next step. Harmless when it is over."""
        self._commands.put(partial(Service.cancel, request_id=request_id))

    def refuse(self, error: Exception) -> None:
        """Fail what is just being submitted."""
        for queueing in self._queueing:
            if not queueing.done():
                queueing.set_exception(error)

    async def close(self, patience: float | None = None) -> bool:
        """End after the commands so far: what is being generated is given up, and all models are unloaded.

        Waits at most ``patience`` seconds, and returns whether the thread has ended: a running pass or load is not
        interrupted.
        """
        self._commands.put(None)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.over.wait(), patience)
        self._reader.shutdown(wait=False, cancel_futures=True)
        return self.over.is_set()

    def _ended(self, error: BaseException | None) -> None:
        self._refusal = self._listener.ended(error)
        self.refuse(self._refusal)
        self.over.set()

    def _post(self, call: Callable[..., None], *arguments: Any) -> None:
        """From the thread: call something in the loop; once that is closed, nobody listens any more."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *arguments)

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            service = self._load()
            try:
                self._post(self._listener.loaded, service)
                self._serve(service)
            finally:
                service.unload()
        except BaseException as caught:
            error = caught
        self._post(self._ended, error)

    def _serve(self, service: Service) -> None:
        """Step until told to end. Raises what broke the last of several steps one after the other."""
        crashes = 0
        while True:
            try:
                if not self._run_commands(service):
                    return
                if service.busy:
                    began, served = time.perf_counter(), service.served
                    events = service.step()
                    now = time.perf_counter()
                    self._post(self._listener.emitted, events, now, now - began, max(served, service.served))
                    crashes = 0
            except Exception as error:
                crashes += 1
                self._post(self._listener.crashed, error)
                try:
                    service.close()
                except Exception as further:  # no crash of its own: all requests are given up all the same
                    self._post(self._listener.crashed, further)
                if crashes == CRASHES:
                    raise

    def _run_commands(self, service: Service) -> bool:
        """Run the commands, waiting for one while there is nothing else to do; return whether to go on."""
        wait = not service.busy
        with contextlib.suppress(queue.Empty):
            while True:
                command = self._commands.get() if wait else self._commands.get_nowait()
                if command is None:
                    return False
                command(service)
                wait = False
        return True
