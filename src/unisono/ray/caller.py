"""Requests to a member in a Ray actor: what HTTP carries elsewhere, Ray's calls carry here."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import weakref
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from unisono.backends.endpoint.caller import Answer, Caller
from unisono.backends.endpoint.worker import CALL
from unisono.config.ray import RaySource
from unisono.errors import MemberUnavailable, UnisonoError
from unisono.ray import cluster
from unisono.ray.actor import SPEAK_SECONDS, Fault, Loading, Reply
from unisono.ray.window import LEAST, MOST, Window

T = TypeVar("T")
RETURN_SECONDS = 0.5
"""Between two looks for an actor that is away."""


class ActorCaller(Caller):
    """Asks one actor for one member, and has it made anew where Ray has given it up."""

    def __init__(self, member: str, source: RaySource, loading: Loading) -> None:
        super().__init__(member, f"{source.location}/{member}", timeout=source.timeout, retries=source.retries)
        self._source = source
        self._loading = loading
        self._actor: Any = None
        self._making = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        """In which the thread of the steps waits for itself: a hop to another thread costs as much as a call."""
        self._in_loop = threading.Lock()
        self._away: str | None = None
        """Why the actor does not answer, until it does again."""
        self._speaks = False
        self._window: Window | None = None
        self._sees = True
        """Whether the actor is believed to see a window."""

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("an actor is asked by the process that is in the cluster")

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        if asyncio._get_running_loop() is not None or not self._in_loop.acquire(blocking=False):
            return super().run(coroutine, timeout)
        try:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                weakref.finalize(self, self._loop.close)
            seconds = self.timeout if timeout is None else timeout
            return self._loop.run_until_complete(self.within(coroutine, seconds, waits=True))
        finally:
            self._in_loop.release()

    def actor(self) -> Any:
        """The actor, made where there is none. Raises a `UnisonoError`; may wait for its place."""
        with self._making:
            if self._actor is None:
                cluster.connect(self._source.spec.address)
                self._actor = cluster.make(self._source, self._loading)
                self._sees = True
                if self._loading.lingers and not self._speaks:
                    self._speaks = True
                    self.start(self._speak(), float("inf"))
            return self._actor

    def loaded(self) -> Fault | None:
        """Wait for the actor's model; return why it cannot be loaded. Raises a `UnisonoError`."""
        actor = self.actor()
        try:
            return cluster.loaded(actor)
        except Exception as error:
            if (reason := cluster.lost(error)) is None:
                raise
            self.end()
            raise self.failed(reason) from error

    async def attempt_once(
        self,
        method: str,
        path: str,
        content: bytes | None,
        headers: Mapping[str, str],
        limit: int,
        accepted: tuple[int, ...],
    ) -> Answer | tuple[MemberUnavailable, float | None]:
        if self._away is not None:
            raise self.failed(self._away, RETURN_SECONDS)
        began = time.monotonic()
        window = self._window_of(limit) if path == CALL else None
        try:
            reply = await self._call(path, content or b"", window)
        except UnisonoError as error:
            raise self.failed(error.message) from error
        except BaseException as error:
            self._forget_window()  # an answer that is late may still be written there
            if not isinstance(error, Exception) or (reason := cluster.lost(error)) is None:
                raise
            self.lose(reason, began)
            self._await_return(reason, error)
            raise self.failed(reason) from error
        told = {} if reply.retry_after is None else {"retry-after": str(reply.retry_after)}
        if window is None or reply.written is None:
            self._sees = self._sees and (window is None or len(reply.content) < LEAST)
            return self.judge(path, Answer(reply.status, told, reply.content), accepted)
        return self.judge(path, Answer(reply.status, told, window.read(reply.written)), accepted)

    def end(self) -> None:
        """End the actor, unless it has a name: others may use that."""
        self._give_up()
        with self._in_loop:
            if self._loop is not None:
                self._loop.close()
                self._loop = None

    def _give_up(self) -> None:
        actor, self._actor = self._actor, None
        self._forget_window()
        if actor is not None:
            cluster.end(actor, self._source)

    async def _call(self, path: str, body: bytes, window: Window | None) -> Reply:
        actor = self._actor or await asyncio.to_thread(self.actor)
        offer = None if window is None else window.offer
        if asyncio.get_running_loop() is self._loop:
            return cluster.call_and_wait(actor, path, body, offer, self.left())
        return await cluster.call(actor, path, body, offer)

    def _await_return(self, reason: str, error: Exception) -> None:
        """Let a call wait for the actor, while all others fail.

        Ray keeps a call to an actor that it is starting until that is there, and each step would wait with it.
        """
        self._away = reason
        self.start(self._returned(error), float("inf"))

    async def _returned(self, error: Exception) -> None:
        while True:
            if cluster.is_over(error):
                await asyncio.to_thread(self._give_up)
            try:
                actor = self._actor or await asyncio.to_thread(self.actor)
                if (await cluster.call(actor, "/ready", b"")).status == 200:
                    self._away = None
                    self.hear()
                    return
            except Exception as later:
                error = later
            await asyncio.sleep(RETURN_SECONDS)

    def _window_of(self, limit: int) -> Window | None:
        """Memory for an answer of whole rows, of which ``limit`` is four times the size."""
        size = limit // 4
        if not self._sees or self._source.top is not None or not LEAST <= size <= MOST:
            return None
        if self._window is None or self._window.size < size:
            self._forget_window()
            try:
                self._window = Window(size)
            except (OSError, AttributeError):  # no such folder, no room, or a system that has neither
                self._sees = False
        return self._window

    def _forget_window(self) -> None:
        window, self._window = self._window, None
        if window is not None:
            window.close()

    async def _speak(self) -> None:
        """Let an actor with a name know that it is used."""
        while True:
            await asyncio.sleep(SPEAK_SECONDS)
            with contextlib.suppress(MemberUnavailable):
                await self.request("GET", "/health")
