"""A worker of a fake member as a process that is killed and started again while many requests are served."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext
from typing import Any

import httpx2

from support.engine_processes import free_port
from support.fakes import PROMPTS, STORY, make_fakes
from support.hosts import Host
from unisono.chat.messages import Prompt
from unisono.config.ensemble import load_spec
from unisono.config.method import Method
from unisono.engine.engine import Engine
from unisono.engine.reference import plain_steps
from unisono.engine.request import Ended, Failed, GenerationRequest
from unisono.engine.scheduler import RequestId
from unisono.engine.service import Service
from unisono.ensemble import Ensemble
from unisono.errors import MemberUnavailable
from unisono.members import silent
from unisono.records import Generation, Limits
from unisono.server.launch import bind
from unisono.server.limits import ServerLimits
from unisono.worker.launch import serve
from unisono.worker.served_member import load_member

NEAR = {"name": "a", "model": "fake:a", "weight": 1.5}
ASKED = (*PROMPTS, Prompt(text=STORY + STORY[:30]))
METHODS = (
    Method(),
    Method().but(speculate="a:3"),
    Method().but(sampling="1 seed:3"),
    Method(lead="a").but(gate="every:3"),
)


KEY, TOKEN = "UNISONO_TEST_TOKEN", "a-token-of-these-tests"
"""The environment variable, and what workers on other hosts want to be told."""
CLONE_NEWNET = 0x40000000  # of sched.h


def forkserver() -> ForkServerContext:
    """Starts processes, and imports once for all of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


class DyingWorker:
    """Serves fake b at one address, whenever it lives: here, or on another host."""

    def __init__(self, host: Host | None = None) -> None:
        self.port = free_port()
        self.host = host
        self.url = f"http://{'127.0.0.1' if host is None else host.address}:{self.port}"
        self.deaths = 0
        self._context = forkserver()
        self._process: multiprocessing.process.BaseProcess | None = None

    def spec(self, **keys: Any) -> dict[str, Any]:
        key = {} if self.host is None else {"api_key_env": KEY}
        return {"name": "b", "url": self.url, "timeout": 1.0, "retries": 0, **key, **keys}

    def start(self) -> None:
        """Start it, and do not wait."""
        self._process = self._context.Process(target=_serve, args=("b", self.port, self.host))
        self._process.start()

    def await_ready(self) -> None:
        deadline = time.monotonic() + 60
        while not self.is_ready():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def is_ready(self) -> bool:
        try:
            return httpx2.get(self.url + "/ready", timeout=1).status_code == 200
        except httpx2.HTTPError:
            return False

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None
            self.deaths += 1

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """It is there, takes connections, and says nothing."""
        assert self._process is not None
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)

    @property
    def lives(self) -> bool:
        return self._process is not None


@dataclass
class Served:
    """What became of many requests."""

    asked: dict[int, tuple[Prompt, Method]] = field(default_factory=dict)
    ended: dict[int, Generation] = field(default_factory=dict)
    failures: list[MemberUnavailable] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def degraded(self) -> int:
        return sum(bool(generation.usage.degraded) for generation in self.ended.values())

    @property
    def joined(self) -> int:
        """Texts that began without the member, and in which it took part later."""
        absences = [[step.absent for step in generation.steps or ()] for generation in self.ended.values()]
        return sum(bool(absent) and bool(absent[0]) and not absent[-1] for absent in absences)


def serve_requests(
    engine: Engine, count: int, seed: int, between: Callable[[Served], None], pace: float = 0.0
) -> Served:
    """Serve requests that join at random; those that fail by the member's name are asked again, as a client would.

    ``between`` is called between steps. A request comes every ``pace`` seconds at most.
    """
    service, dice, served, began = (
        Service({"all": engine}, queue=count),
        random.Random(seed),
        Served(),
        time.monotonic(),
    )
    numbers: dict[RequestId, int] = {}
    waiting: list[tuple[float, int]] = []

    def submit(number: int) -> None:
        prompt, method = served.asked[number]
        request = GenerationRequest("", prompt, Limits(8), model="all", method=method, trace=True)
        try:
            numbers[service.submit(service.prepare(request))] = number
        except MemberUnavailable as error:
            fail(number, error)

    def fail(number: int, error: MemberUnavailable) -> None:
        served.failures.append(error)
        waiting.append((time.monotonic() + 0.05, number))

    while len(served.ended) < count:
        assert time.monotonic() - began < 30 + count, f"{len(served.ended)} of {count} requests ended"
        for _ in range(dice.choice((0, 0, 1, 2))):
            late = time.monotonic() - began >= pace * len(served.asked)
            if late and len(served.asked) < count and len(numbers) < 12:
                number = len(served.asked)
                served.asked[number] = dice.choice(ASKED), dice.choice(METHODS)
                submit(number)
        due = [number for at, number in waiting if at <= time.monotonic()]
        waiting[:] = [each for each in waiting if each[1] not in due]
        for number in due:
            submit(number)
        for event in service.step():
            if isinstance(event, Failed):
                assert isinstance(event.error, MemberUnavailable), event
                fail(numbers.pop(event.request_id), event.error)
            elif isinstance(event, Ended):
                served.ended[numbers.pop(event.request_id)] = event.generation
        between(served)
    assert engine.free == engine.slots
    served.seconds = time.monotonic() - began
    return served


def count_wrong(served: Served, weights: Sequence[Mapping[str, Any]]) -> int:
    """How many texts are not those of the plain loop, at home, with the members that their traces call present."""
    wrong = 0
    with Ensemble.load({"members": list(weights)}, batch=2) as home:
        members, union = home._engine.members, home._engine.union
        for number, generation in served.ended.items():
            prompt, method = served.asked[number]
            steps = generation.steps or ()
            absent = [step.absent for step in steps]
            plain = plain_steps(members, union, prompt, len(steps), method, absent=absent)
            same = [step.piece for step in steps] == [step.piece for step in plain]
            missed = sum(len(each) for each in absent)
            wrong += not same or sum((generation.usage.degraded or {}).values()) != missed
    return wrong


def _serve(name: str, port: int, host: Host | None) -> None:
    if host is not None:
        with open(f"/var/run/netns/{host.name}") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"the host {host.name} cannot be entered")
    make_fakes()
    spec = load_spec({"members": [{"name": name, "model": f"fake:{name}"}]})
    bound = bind("127.0.0.1" if host is None else host.address, port)
    token = None if host is None else TOKEN
    serve(lambda: load_member(spec, name, 16, silent), bound, ServerLimits(), token=token, idle=60)
