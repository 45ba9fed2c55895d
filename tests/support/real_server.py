"""A real server on fakes, in a thread of this process, and clients for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2
import openai

from unisono.build import prepare_several
from unisono.config.ensemble import load_spec
from unisono.engine.service import Service
from unisono.loaded_models import load_service
from unisono.server.app import make_app
from unisono.server.async_engine import AsyncEngine
from unisono.server.http.server import Server
from unisono.server.launch import bind
from unisono.server.limits import ServerLimits
from unisono.server.middleware import Keys
from unisono.server.telemetry import Metrics

A, B, C = ({"name": name, "model": f"fake:{name}"} for name in "abc")
DUO: dict[str, Any] = {"duo": {"members": [A, B]}}
SAY = [{"role": "user", "content": "the cat"}]


@dataclass(frozen=True)
class Served:
    """A server that runs."""

    url: str
    engine: AsyncEngine
    server: Server
    loop: asyncio.AbstractEventLoop
    _used: contextlib.ExitStack

    @property
    def service(self) -> Service:
        return self.engine.service

    def client(self, key: str = "none", **options: Any) -> openai.OpenAI:
        client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60, **options)
        return self._used.enter_context(client)

    def asynchronous(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)

    def post(self, path: str, body: Any, **headers: str) -> httpx2.Response:
        headers = {"content-type": "application/json", **headers}
        return httpx2.post(self.url + path, content=json.dumps(body), headers=headers, timeout=60)

    def get(self, path: str, **headers: str) -> httpx2.Response:
        return httpx2.get(self.url + path, headers=headers, timeout=60)

    def metric(self, name: str) -> float:
        """The sum of a metric over all its labels."""
        lines = self.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def call(self, what: Callable[[], Any]) -> None:
        """Do something in the server's loop."""
        self.loop.call_soon_threadsafe(what)

    def wait(self, truth: Callable[[], bool], seconds: float = 20) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + seconds
        while not truth():
            assert time.monotonic() < deadline, "it does not come to be so"
            time.sleep(0.005)

    def free(self) -> None:
        """Wait until nothing is under way, and check that all slots are free."""
        self.wait(lambda: not self.service.busy and not self.engine._calls)
        for engine in self.service.engines.values():
            assert engine.active == []


def load_fakes(ensembles: Mapping[str, Any], batch: int = 4, **keys: Any) -> Service:
    """A service of fakes."""
    specs = [load_spec(spec) for spec in ensembles.values()]
    return load_service(dict(zip(ensembles, prepare_several(specs, batch=batch), strict=True)), **keys)


@contextlib.contextmanager
def serving(
    ensembles: Mapping[str, Any] = DUO,
    *,
    limits: ServerLimits | None = None,
    keys: Keys | None = None,
    load: Callable[[], Service] | None = None,
    await_ready: bool = True,
    local: bool = False,
    log_prompts: bool = False,
    gac_model: str | None = None,
    origins: Sequence[str] = (),
    **options: Any,
) -> Iterator[Served]:
    """Serve ensembles of fakes on a free port."""
    engine = AsyncEngine(load or (lambda: load_fakes(ensembles, **options)), limits or ServerLimits(), Metrics())
    app = make_app(engine, keys, local=local, log_prompts=log_prompts, gac_model=gac_model, origins=origins)
    server = Server(engine, app)
    bound = bind("127.0.0.1", 0)
    port = bound.getsockname()[1]
    loops: list[asyncio.AbstractEventLoop] = []

    def run() -> None:
        async def main() -> None:
            loops.append(asyncio.get_running_loop())
            await server.serve_on(bound)

        asyncio.run(main())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started or (await_ready and engine.state == "loading"):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        with contextlib.ExitStack() as used:
            yield Served(f"http://127.0.0.1:{port}", engine, server, loops[0], used)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def ask(served: Served, status: int = 200, **keys: Any) -> Any:
    """What a chat is answered, which has to have a status."""
    response = served.post("/v1/chat/completions", {"model": "duo", "messages": SAY, "max_tokens": 12, **keys})
    assert response.status_code == status, response.text
    return response.json()


def text(served: Served, **keys: Any) -> str:
    return str(ask(served, **keys)["choices"][0]["message"]["content"])
