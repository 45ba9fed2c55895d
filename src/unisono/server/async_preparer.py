"""Prepares a server's requests beside its steps: in threads, and in processes where a client's text may cost much.

Short requests wait for no long ones (`long_prompts`); constraints are tried before they are compiled
(`constraint_trials`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from unisono.chat.encoding_process import size_of
from unisono.config.constraint import Constraint
from unisono.engine.engine_thread import EngineThread
from unisono.engine.request import GenerationRequest, PreparedRequest
from unisono.engine.service import Service
from unisono.errors import BackendMissing, SpecError
from unisono.server.constraint import said_of
from unisono.server.constraint_trials import ConstraintTrials
from unisono.server.errors import refusal_of, shutting_down
from unisono.server.limits import CHARACTERS, ServerLimits
from unisono.server.long_prompts import SHORT, WAITING, LongPrompts

T = TypeVar("T")


class AsyncPreparer:
    """Lets an engine's service prepare requests. Owns what does so beside the engine's thread; `close` ends it."""

    def __init__(self, thread: EngineThread, limits: ServerLimits) -> None:
        self._thread = thread
        self._limits = limits
        self._trials = ConstraintTrials()
        self._compiling = ThreadPoolExecutor(1, thread_name_prefix="unisono-grammars")
        self._long = LongPrompts(limits, WAITING * CHARACTERS * limits.prompt)

    def lend(self, service: Service) -> None:
        """Let the members of a service have long texts encoded by a process."""
        self._long.lend(service)

    async def prepare(
        self, service: Service, request: GenerationRequest, constraint_field: str, retry_after: int
    ) -> PreparedRequest:
        """Prepare a request. Raises a `Refusal`, or the error that `Service.prepare` does."""
        size = size_of(request.prompt) + (0 if request.begin is None else request.begin.length)
        try:
            if (constraint := Constraint.parse(request.constraint)) is not None:
                await self._trials.try_constraint(constraint)
                await self._compile(service, request.model, constraint)
            prepared = await self.read(retry_after, size, service.prepare, request)
        except (SpecError, BackendMissing) as error:
            if request.constraint is None:
                raise
            # If the request is fine without its constraint, the constraint is to blame.
            await self.read(retry_after, size, service.prepare, replace(request, constraint=None))
            raise refusal_of(said_of(error, constraint_field), param=constraint_field) from error
        for name, ids in prepared.ids.items():
            self._limits.check_tokens(name, len(ids) + len(prepared.given), request.prompt)
        return prepared

    async def _compile(self, service: Service, model: str, constraint: Constraint) -> None:
        """Compile a constraint, which is kept for its request: a second at most, in which others are prepared."""
        if (compile_ := service.engine(model).compile_grammar) is None:
            return
        try:
            compiling = asyncio.get_running_loop().run_in_executor(self._compiling, compile_, constraint)
        except RuntimeError:
            raise shutting_down() from None
        await compiling

    async def read(self, retry_after: int, size: int, work: Callable[..., T], *arguments: Any) -> T:
        """Do what encodes so many characters and runs no model, beside the steps and the loop.

        Short texts wait for no long ones. Raises a `Refusal` where too many long ones wait.
        """
        if size <= SHORT:
            return await self._thread.read(work, *arguments)
        return await self._long.read(size, partial(work, *arguments), retry_after)

    def close(self) -> None:
        """End the processes beside the server, and refuse those who wait for them."""
        self._trials.close()
        self._compiling.shutdown(wait=False)
        self._long.close()
