"""What runs in a Ray actor: a worker without a server. It does not know Ray."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path

from unisono.config.ensemble import load_spec
from unisono.errors import UnisonoError
from unisono.members import silent
from unisono.server.errors import Refusal, refusal_of_status
from unisono.server.limits import ServerLimits
from unisono.server.telemetry import say, to_stderr, where
from unisono.worker.app import WorkerApp
from unisono.worker.metrics import WorkerMetrics
from unisono.worker.served_member import ServedMember, load_member
from unisono.worker.service import MemberService

BODY = 1 << 28
"""The most bytes of a call."""
CALLS = 256
"""The most calls that run or wait."""
IDLE_SECONDS = 60.0
"""After which a silent client loses its slots."""
LINGER_SECONDS = 600.0
"""After which an actor with a name, to which nobody has spoken, ends."""
SPEAK_SECONDS = 60.0
"""Between two signs of life of those who use one."""


@dataclass(frozen=True, slots=True)
class Loading:
    """What an actor loads: the same on whichever node it is started."""

    name: str
    member: str
    """The member's keys as JSON, but for its name."""
    folder: str
    slots: int
    lingers: bool = False
    """Whether it ends by itself when nobody speaks to it: nobody owns it."""

    def load(self) -> ServedMember:
        """Load the member. Raises a `UnisonoError`."""
        spec = load_spec({"members": [{"name": self.name, **json.loads(self.member)}]})
        return load_member(spec.model_copy(update={"folder": Path(self.folder)}), self.name, self.slots, silent)


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a member could not be loaded: what is left of an error on its way through Ray."""

    kind: str
    """The name of one of `unisono.errors`, or of another error."""
    message: str
    hint: str | None


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a call, as HTTP has it."""

    status: int
    retry_after: int | None
    content: bytes


class MemberActor:
    """All of it runs in the event loop of the actor; the member has threads of its own."""

    def __init__(self, loading: Loading) -> None:
        self._loading = loading
        self._service: MemberService | None = None
        self._app: WorkerApp | None = None
        self._heard = time.monotonic()
        self._logs = contextlib.ExitStack()
        """What is open for as long as the process lives."""

    async def loaded(self) -> Fault | None:
        """Load the member, and wait for it; return why that failed."""
        service = self._begun()
        while service.state == "loading":
            await asyncio.sleep(0.02)
        if (error := service.error) is None:
            return None
        message, hint = (error.message, error.hint) if isinstance(error, UnisonoError) else (repr(error), None)
        return Fault(type(error).__name__, message, hint)

    async def made_of(self) -> Loading:
        return self._loading

    async def call(self, path: str, body: bytes) -> Reply:
        """Answer a call as a worker does."""
        self._begun()
        assert self._app is not None
        self._heard = time.monotonic()
        try:
            _, content = await self._app.answer(path, body)
        except Refusal as refusal:
            return Reply(refusal.status, refusal.retry_after, refusal.body())
        except Exception as error:
            say("internal", level=logging.ERROR, error=where(error))
            return Reply(500, None, refusal_of_status(500, "POST").body())
        return Reply(200, None, content if isinstance(content, bytes) else b"".join(content))

    def end(self) -> None:
        """End this actor for good."""
        raise NotImplementedError

    async def close(self) -> None:
        """Free the model, where the process goes on."""
        if self._service is not None:
            await self._service.close()
        self._logs.close()

    async def _linger(self) -> None:
        while (left := self._heard + LINGER_SECONDS - time.monotonic()) > 0:
            await asyncio.sleep(left)
        say("forgotten", member=self._loading.name, seconds=LINGER_SECONDS)
        self.end()

    def _begun(self) -> MemberService:
        """The service, which begins to load with the first call: after a restart, too."""
        if self._service is None:
            self._logs.enter_context(to_stderr())
            limits = ServerLimits(body=BODY, concurrency=CALLS)
            self._service = MemberService(self._loading.load, limits, WorkerMetrics(), IDLE_SECONDS)
            self._app = WorkerApp(self._service, None)
            self._service.start()
            if self._loading.lingers:
                self._lingering = asyncio.create_task(self._linger())
        return self._service
