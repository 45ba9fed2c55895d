"""Workers of fake members: in a thread of this process, or in a process of their own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2

from unisono.backends.endpoint.adapter import Question
from unisono.backends.endpoint.worker_frames import TYPE, Call, call_frame
from unisono.config.ensemble import load_spec
from unisono.members import silent
from unisono.server.http.server import Server
from unisono.server.launch import bind
from unisono.server.limits import ServerLimits
from unisono.worker.app import WorkerApp
from unisono.worker.metrics import WorkerMetrics
from unisono.worker.served_member import load_member
from unisono.worker.service import MemberService

SESSION = "a-session-of-tests"


@dataclass(frozen=True)
class Worker:
    url: str
    service: MemberService
    token: str | None

    @property
    def model(self) -> str:
        return self.service.member.fingerprint

    def spec(self, name: str, **keys: Any) -> dict[str, Any]:
        """What another ensemble says of its member."""
        return {"name": name, "backend": "endpoint", "url": self.url, **keys}

    def post(self, path: str, content: Any, kind: str = "application/json", **headers: str) -> httpx2.Response:
        body = {"json": content} if kind == "application/json" else {"content": content}
        own = {"authorization": f"Bearer {self.token}"} if self.token else {}
        return httpx2.post(self.url + path, **body, headers={**own, "content-type": kind, **headers}, timeout=30)

    def ask(self, *questions: Question, session: str = SESSION, number: int = 1, model: str = "") -> httpx2.Response:
        call = call_frame(Call(session, number, model or self.model, questions))
        return self.post("/v1/advance", b"".join(call), TYPE)


@contextlib.contextmanager
def working(
    member: dict[str, Any],
    *,
    slots: int = 8,
    idle: float = 60,
    port: int = 0,
    token: str | None = None,
    limits: ServerLimits | None = None,
) -> Iterator[Worker]:
    """Serve a member on a free port."""
    spec = load_spec({"members": [member]})
    bound, loops = bind("127.0.0.1", port), list[asyncio.AbstractEventLoop]()

    def make() -> None:
        async def main() -> None:
            load = lambda: load_member(spec, member["name"], slots, silent)  # noqa: E731
            service = MemberService(load, limits or ServerLimits(), WorkerMetrics(), idle)
            server = Server(service, WorkerApp(service, token))
            made.append((service, server))
            loops.append(asyncio.get_running_loop())
            await server.serve_on(bound)

        asyncio.run(main())

    made: list[tuple[MemberService, Server]] = []
    address = f"http://127.0.0.1:{bound.getsockname()[1]}"
    thread = threading.Thread(target=make)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not made or made[0][0].state == "loading":
            assert time.monotonic() < deadline
            time.sleep(0.005)
        yield Worker(address, made[0][0], token)
    finally:
        made[0][1].should_exit = True
        thread.join(30)
        assert not thread.is_alive()
