"""A process that asks workers is killed in the middle of a text: its sessions end by their silence."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Event
from typing import Any

import pytest

from support.dying_worker import forkserver
from support.fakes import PROMPTS, make_fakes
from support.workers import Worker, working
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.ensemble import Ensemble
from unisono.worker import service

IDLE = 0.5


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Worker]]:
    """Two workers, which look often for clients that are silent."""
    monkeypatch.setattr(service, "EXPIRY_SECONDS", 0.05)
    make_fakes()
    first, second = (working({"name": name, "model": f"fake:{name}"}, idle=IDLE) for name in "ab")
    with first as a, second as b:
        yield [a, b]
    FAKE_MODELS.clear()


def write_without_end(members: list[dict[str, Any]], begun: Event) -> None:
    with Ensemble.load({"members": members}) as ensemble:
        for prompt in itertools.cycle(PROMPTS):
            for _ in ensemble.stream(prompt, max_new_tokens=12):
                begun.set()


def taken(worker: Worker) -> tuple[int, int]:
    """Its clients, and the slots that they have."""
    leases = worker.service._leases
    assert leases is not None
    return leases.sessions, leases.slots


def await_all(workers: list[Worker], truth: Callable[[tuple[int, int]], bool]) -> None:
    deadline = time.monotonic() + 20
    while not all(truth(taken(worker)) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_coordinator_that_is_killed_leaves_no_session(workers: list[Worker]) -> None:
    members = [worker.spec(name) for name, worker in zip("ab", workers, strict=True)]
    context = forkserver()
    begun = context.Event()
    coordinator = context.Process(target=write_without_end, args=(members, begun))
    coordinator.start()
    try:
        assert begun.wait(60)
        time.sleep(2 * IDLE)  # who asks on is not silent
        await_all(workers, lambda found: found == (1, 1))
    finally:
        coordinator.kill()
        coordinator.join()
    await_all(workers, lambda found: found == (0, 0))
    for name, worker in zip("ab", workers, strict=True):
        with Ensemble.load({"members": [worker.spec(name)]}) as other:
            assert other.generate(PROMPTS[0], max_new_tokens=4).usage.pieces
