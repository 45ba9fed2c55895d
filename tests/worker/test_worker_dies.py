"""Many requests while a worker, a process of its own, is killed and started again: none is lost, none is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pytest

from support.dying_worker import NEAR, DyingWorker, Served, count_wrong, serve_requests
from support.fakes import make_fakes
from unisono.backends.endpoint import caller
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.engine import circuit_breaker
from unisono.ensemble import Ensemble

HOME = (NEAR, {"name": "b", "model": "fake:b"})


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


@pytest.fixture(scope="module")
def worker() -> Iterator[DyingWorker]:
    worker = DyingWorker()
    worker.start()
    worker.await_ready()
    yield worker
    worker.kill()


@pytest.mark.parametrize("on_failure", ["error", "degrade"])
def test_60_requests_with_a_worker_that_dies(
    on_failure: Literal["error", "degrade"], worker: DyingWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit_breaker, "FIRST", 0.05)
    monkeypatch.setattr(circuit_breaker, "LONGEST", 0.1)
    monkeypatch.setattr(caller, "_AWAY", 0.05)

    def between(served: Served) -> None:
        """Kill it while it is asked; start it when some more requests have ended or failed without it."""
        over = len(served.ended) + len(served.failures)
        if worker.lives and worker.deaths - before < 2 and len(served.ended) >= 10 + 25 * (worker.deaths - before):
            worker.kill()
            died.append(over)
        elif not worker.lives and over >= died[-1] + 6:
            worker.start()
            worker.await_ready()

    died, before = list[int](), worker.deaths
    with Ensemble.load({"members": [NEAR, worker.spec(on_failure=on_failure)]}, batch=6) as ensemble:
        served = serve_requests(ensemble._engine, 60, 7, between)
    assert worker.deaths == before + 2
    assert count_wrong(served, HOME) == 0
    if on_failure == "error":
        assert served.degraded == 0
        assert served.failures
        assert {(error.member, error.address) for error in served.failures} == {("b", worker.url)}
    else:
        assert not served.failures
        assert served.degraded
        assert served.joined
