"""One replica of Ray Serve: the server's app and engine, without its HTTP server. It does not know Ray."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from unisono.config.ensemble import load_spec
from unisono.errors import UnisonoError
from unisono.ray.arguments import Arguments
from unisono.server.app import make_app
from unisono.server.async_engine import AsyncEngine
from unisono.server.ensembles import load_ensembles, named_files
from unisono.server.errors import words_of
from unisono.server.middleware import Receive, Scope, Send, read_keys
from unisono.server.telemetry import Metrics, to_stderr


class Unhealthy(RuntimeError):
    """A replica that has to be replaced."""


class Replica:
    """Loads ensembles, and answers as `unisono serve` does."""

    def __init__(self, arguments: Arguments) -> None:
        """Read files and keys. Raises a `UnisonoError`."""
        files = named_files(arguments.ensembles)
        specs = {name: load_spec(path) for name, path in files.items()}
        keys = None if arguments.api_key_file is None else read_keys(Path(arguments.api_key_file))
        self._engine = AsyncEngine(
            lambda: load_ensembles(
                specs,
                batch=arguments.batch,
                queue=arguments.queue,
                chunk=arguments.chunk,
                alone=arguments.members_alone,
            ),
            arguments.server_limits(),
            Metrics(),
        )
        self._app = make_app(
            self._engine,
            keys,
            local=keys is None and not arguments.no_keys,
            log_prompts=arguments.log_prompts,
            gac_model=next(iter(files)) if arguments.gac_api else None,
            origins=arguments.allow_origin,
        )
        self._logs = contextlib.ExitStack()

    async def start(self) -> None:
        """Load, and wait for it: requests come when a replica has started. Raises what loading raised."""
        self._logs.enter_context(to_stderr())
        self._engine.start()
        while self._engine.state == "loading":
            await asyncio.sleep(0.05)
        if isinstance(error := self._engine.error, UnisonoError):
            raise Unhealthy(words_of(error))
        self.check()

    def check(self) -> None:
        """Raise an `Unhealthy` where only another process can help.

        A member that is lost is not such a case: its actor is started again, and the others go on or refuse.
        """
        if self._engine.state in ("broken", "closed"):
            raise Unhealthy(self._engine.reason)

    async def stop(self) -> None:
        """End the engine. Requests have ended by then, or have had their time."""
        await self._engine.drain(0)
        await self._engine.close()
        self._logs.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI app. Starting and stopping are not left to the lifespan, which says nothing of failures."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})
