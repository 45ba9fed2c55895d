"""Requests to a member in a Ray actor: what HTTP carries elsewhere, Ray's calls carry here."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Sequence
from typing import Any

from unisono.backends.endpoint.caller import Answer, Caller, EndpointRequest
from unisono.backends.endpoint.direct import Late, Refused
from unisono.backends.endpoint.worker import ADVANCE
from unisono.config.ray import RaySource
from unisono.errors import MemberUnavailable
from unisono.ray import cluster
from unisono.ray.actor import SPEAK_SECONDS, Fault, Loading, Reply

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
        self._away: str | None = None
        """Why the actor does not answer, until it does again."""
        self._speaks = False

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("an actor is asked by the process that is in the cluster")

    def actor(self) -> Any:
        """The actor, made where there is none. Raises a `UnisonoError`; may wait for its place."""
        with self._making:
            if self._actor is None:
                cluster.connect(self._source.spec.address)
                self._actor = cluster.make(self._source, self._loading)
                if self._loading.lingers and not self._speaks:
                    self._speaks = True
                    self.start(self._speak(), float("inf"))
            return self._actor

    def loaded(self) -> Fault | None:
        """Wait for the actor's model; return why it cannot be loaded. Raises a `UnisonoError`."""
        actor = self.actor()
        try:
            fault = cluster.loaded(actor)
        except Exception as error:
            if (reason := cluster.lost(error)) is None:
                raise
            self.end()
            raise self.failed(reason) from error
        self._away = None
        return fault

    async def attempt_once(self, request: EndpointRequest) -> Answer | tuple[MemberUnavailable, float | None]:
        began, actor = time.monotonic(), self.present()
        try:
            reply = await cluster.call(actor, request.path, request.content or b"")
        except Exception as error:
            raise self.without(error, began) from error
        return self.judge(request, Answer(reply.status, headers_of(reply), reply.content))

    def present(self) -> Any:
        """The actor. Raises a `MemberUnavailable` while it is away."""
        if self._away is not None or self._actor is None:
            raise self.unreached(self._away or "its actor has ended", RETURN_SECONDS)
        return self._actor

    def without(self, error: Exception, began: float) -> Exception:
        """What is raised where a call that ``began`` then fails so; a lost actor is waited for.

        Ray keeps a call to an actor that it is starting until that is there. So one waits in the background, and all
        others fail at once.
        """
        if (reason := cluster.lost(error)) is None:
            return error
        self.lose(reason, began)
        if self._away is None:
            self._away = reason
            self.start(self._return(error), float("inf"))
        return self.unreached(reason)

    def end(self) -> None:
        """End the actor, unless it has a name: others may use that."""
        actor, self._actor = self._actor, None
        if actor is not None:
            cluster.end(actor, self._source)

    async def _return(self, error: Exception | None) -> None:
        while self._away is not None:
            if error is not None and cluster.is_over(error):
                await asyncio.to_thread(self.end)
            error = None
            try:
                actor = self._actor or await asyncio.to_thread(self.actor)
                if (await cluster.call(actor, "/ready", b"")).status == 200:
                    self._away = None
                    self.hear()
            except Exception as later:  # it is looked for again, whatever it is
                error = later
            await asyncio.sleep(RETURN_SECONDS)

    async def _speak(self) -> None:
        """Let an actor with a name know that it is used."""
        while True:
            await asyncio.sleep(SPEAK_SECONDS)
            with contextlib.suppress(MemberUnavailable):
                await self.request("GET", "/health")


class ActorSteps:
    """Carries the calls of steps: Ray's own way to wait needs no loop."""

    usable = True
    is_near = True

    def __init__(self, caller: ActorCaller) -> None:
        self._caller = caller

    def ask(self, parts: Sequence[memoryview], most: int, deadline: float) -> bytes:
        began, actor = time.monotonic(), self._caller.present()
        try:
            reply = cluster.call_and_wait(actor, ADVANCE, b"".join(parts), max(0.0, deadline - began))
        except TimeoutError:
            raise Late from None
        except Exception as error:
            raise self._caller.without(error, began) from error
        if reply.status != 200:
            raise Refused(reply.status, headers_of(reply), reply.content)
        return reply.content

    def close(self) -> None:
        """Nothing is kept."""


def headers_of(reply: Reply) -> dict[str, str]:
    return {} if reply.retry_after is None else {"retry-after": str(reply.retry_after)}
