"""Requests to a member in a Ray actor: what HTTP carries elsewhere, Ray's calls carry here."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Mapping
from typing import Any

from unisono.backends.endpoint.caller import Answer, Caller
from unisono.config.ray import RaySource
from unisono.errors import MemberUnavailable, UnisonoError
from unisono.ray import cluster
from unisono.ray.actor import SPEAK_SECONDS, Fault, Loading


class ActorCaller(Caller):
    """Asks one actor for one member, and has it made anew where Ray has given it up."""

    def __init__(self, member: str, source: RaySource, loading: Loading) -> None:
        super().__init__(member, f"{source.location}/{member}", timeout=source.timeout, retries=source.retries)
        self._source = source
        self._loading = loading
        self._actor: Any = None
        self._making = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("an actor is asked by the process that is in the cluster")

    def actor(self) -> Any:
        """The actor, made where there is none. Raises a `UnisonoError`; may wait for its place."""
        with self._making:
            if self._actor is None:
                cluster.connect(self._source.spec.address)
                self._actor = cluster.make(self._source, self._loading)
                if self._loading.lingers and not self._started:
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
            self._actor = None
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
        began = time.monotonic()
        try:
            actor = self._actor or await asyncio.to_thread(self.actor)
            reply = await cluster.call(actor, path, content or b"")
        except UnisonoError as error:
            raise self.failed(error.message) from error
        except Exception as error:
            if (reason := cluster.lost(error)) is None:
                raise
            if cluster.is_over(error):
                await asyncio.to_thread(self.end)
            self.lose(reason, began)
            return self.failed(reason), None
        told = {} if reply.retry_after is None else {"retry-after": str(reply.retry_after)}
        return self.judge(path, Answer(reply.status, told, reply.content), accepted)

    def end(self) -> None:
        """End the actor, unless it has a name: others may use that."""
        actor, self._actor = self._actor, None
        if actor is not None:
            cluster.end(actor, self._source)

    async def _speak(self) -> None:
        """Let an actor with a name know that it is used."""
        while True:
            await asyncio.sleep(SPEAK_SECONDS)
            with contextlib.suppress(MemberUnavailable):
                await self.request("GET", "/health")
