"""The engine's thread: it loads a service, steps it, and unloads it.

Commands go in through a queue, between two steps; the events of a step go out by one call in the listener's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from unisono.engine.request import Event
from unisono.engine.service import Service

CRASHES = 3
"""Steps that may break one after the other before the thread gives up."""

Command = Callable[[Service], None]


class Listener(Protocol):
    """Receives what the thread has to say; all of it is called in the loop."""

    def loaded(self, service: Service) -> None:
        """The service is there."""

    def emitted(self, events: Sequence[Event], now: float, seconds: float, served: int) -> None:
        """The events of a step that ended now, took so long, and served this many requests."""

    def crashed(self, error: Exception) -> None:
        """A step broke, by a fault of ours: all requests are lost."""

    def ended(self, error: BaseException | None) -> None:
        """The thread has ended, by an error or because it was told to."""


class EngineThread:
    """Owns the thread. It is a daemon: a pass that nobody needs any more does not keep the process."""

    def __init__(self, load: Callable[[], Service], listener: Listener) -> None:
        """Prepare it.

        Args:
            load: loads the models; called in the thread, which unloads them.
            listener: receives events.
        """
        self._load = load
        self._listener = listener
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="unisono-engine", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to load; the listener is called in this loop."""
        self._loop = loop
        self._thread.start()

    def submit(self, command: Command) -> None:
        """Do something to the service, in the thread, before its next step."""
        self._commands.put(command)

    def stop(self) -> None:
        """End after the commands so far; what is being generated is given up."""
        self._commands.put(None)

    def post(self, call: Callable[..., None], *arguments: Any) -> None:
        """From the thread: call something in the loop; once that is closed, nobody listens any more."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *arguments)

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            service = self._load()
            try:
                self.post(self._listener.loaded, service)
                self._serve(service)
            finally:
                service.unload()
        except BaseException as caught:
            error = caught
        self.post(self._listener.ended, error)

    def _serve(self, service: Service) -> None:
        """Step until told to end. Raises what broke the last of several steps one after the other."""
        crashes = 0
        while True:
            try:
                if not self._run_commands(service):
                    return
                if service.busy:
                    self._step(service)
                    crashes = 0
            except Exception as error:
                crashes += 1
                self.post(self._listener.crashed, error)
                try:
                    service.close()
                except Exception as further:  # no crash of its own: all requests are given up all the same
                    self.post(self._listener.crashed, further)
                if crashes == CRASHES:
                    raise

    def _step(self, service: Service) -> None:
        began, served = time.perf_counter(), service.served
        events = service.step()
        now = time.perf_counter()
        self.post(self._listener.emitted, events, now, now - began, max(served, service.served))

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
