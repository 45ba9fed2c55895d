"""A member inside a ``vllm serve`` that serves others, too::

    vllm serve MODEL --middleware unisono.worker.vllm_middleware.UnisonoMember
                     --logits-processors unisono.backends.vllm.library:Rows

The server answers at a worker's paths, too, and a member there is found by its address: ``url: http://HOST:8000``.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from pathlib import Path
from typing import Any

from unisono.backends.vllm.backend import VllmBackend
from unisono.backends.vllm.versions import check_version
from unisono.config.member import MemberSpec
from unisono.config.model_source import find_model
from unisono.errors import SpecError
from unisono.members import silent
from unisono.server.limits import ServerLimits
from unisono.server.middleware import App, Receive, Scope, Send
from unisono.wanted_models import Wanted, read_model
from unisono.worker.app import WorkerApp
from unisono.worker.metrics import WorkerMetrics
from unisono.worker.served_member import ServedMember
from unisono.worker.service import MemberService

PATHS = ("/v1/member", "/v1/member/table", "/v1/encode", "/v1/advance", "/v1/leave")
NAME = "served"
IDLE_SECONDS = 60.0
"""A client that is silent for so long loses its sessions, which hold memory of the server's engine."""
BODY = 64 * 2**20
PROCESSOR = "unisono.backends.vllm.library:Rows"


class UnisonoMember:
    """Passes all requests on but those that are for a member."""

    def __init__(self, app: App) -> None:
        """Raises a `BackendMissing` for a vLLM of another series."""
        check_version("the member inside vllm serve")
        self._app = app
        self._worker: WorkerApp | None = None
        self._service: MemberService | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            check_arguments(scope["app"].state)
            try:
                await self._app(scope, receive, send)
            finally:
                if self._service is not None:
                    await self._service.close()
        elif scope["type"] == "http" and scope["path"] in PATHS:
            worker = self._worker or self._start(scope["app"].state)
            await worker(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _start(self, state: Any) -> WorkerApp:
        engine, loop = state.engine_client, asyncio.get_running_loop()
        limits = ServerLimits(body=BODY)
        self._service = MemberService(lambda: load_served(engine, loop), limits, WorkerMetrics(), IDLE_SECONDS)
        self._service.start()
        self._worker = WorkerApp(self._service, keys_of(state))
        return self._worker


def check_arguments(state: Any) -> None:
    """Raises a `SpecError` where the server lacks the processor that hands rows out."""
    given = [str(each) for each in getattr(state.args, "logits_processors", None) or ()]
    if PROCESSOR not in given:
        raise SpecError(
            "a member inside vllm serve needs its logits processor", hint=f"add --logits-processors {PROCESSOR}"
        )


def keys_of(state: Any) -> list[str] | None:
    """The API keys of the server, which are a member's, too; ``None`` without any."""
    given = getattr(state.args, "api_key", None) or [os.environ.get("VLLM_API_KEY")]
    return [key for key in given if key] or None


def load_served(engine: Any, loop: asyncio.AbstractEventLoop) -> ServedMember:
    """The member over a server's engine; its vocabulary is read from the files that the engine has."""
    config = engine.vllm_config.model_config
    options: dict[str, Any] = {"trust_remote_code": bool(config.trust_remote_code)}
    if config.revision is not None:
        options["revision"] = config.revision
    dtype = str(config.dtype).removeprefix("torch.")
    owner = MemberSpec(name=NAME, model=str(config.model), backend="vllm", dtype=dtype, options=options)
    source = find_model(owner, Path.cwd(), lambda fraction, words: None)
    shared_core = importlib.import_module("unisono.backends.vllm.shared_core")
    core = shared_core.SharedCore(engine, loop)
    wanted = Wanted(owner=owner, backend="vllm", source=source, slots=core.sessions, alone=True)
    model = read_model(wanted, silent)
    return ServedMember(name=NAME, model=model, backend=VllmBackend(NAME, core, core.sessions))
