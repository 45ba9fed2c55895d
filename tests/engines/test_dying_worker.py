"""500 requests while a worker dies every 20 s, by a signal, or by standing still: none is lost, none is wrong."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from typing import Literal

import pytest

from support.dying_worker import NEAR, DyingWorker, Served, count_wrong, serve_requests
from support.fakes import make_fakes
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.ensemble import Ensemble

HOME = (NEAR, {"name": "b", "model": "fake:b"})
REQUESTS, LIFE = 500, 20.0
PACE = 0.2
"""Seconds between two requests, on average: so that it dies five times."""


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


@pytest.mark.parametrize("on_failure", ["error", "degrade"])
def test_500_requests_with_a_worker_that_dies_every_20_s(on_failure: Literal["error", "degrade"]) -> None:
    worker, dice = DyingWorker(), random.Random(3)
    worker.start()
    worker.await_ready()
    born = died = time.monotonic()

    def between(served: Served) -> None:
        nonlocal born, died
        time.sleep(0.01)
        now = time.monotonic()
        if worker.lives and now - born > LIFE:
            worker.kill()
            died = now
        elif not worker.lives and now - died > dice.uniform(0.5, 4):
            worker.start()
            born = now

    with Ensemble.load({"members": [NEAR, worker.spec(on_failure=on_failure)]}, batch=6) as ensemble:
        served = serve_requests(ensemble._engine, REQUESTS, 7, between, pace=PACE)
    worker.kill()
    wrong = count_wrong(served, HOME)
    print(
        f"{on_failure}: {len(served.ended)} of {REQUESTS} ended in {served.seconds:.0f} s, {wrong} wrong; "
        f"{worker.deaths} deaths, {len(served.failures)} failures by name, {served.degraded} texts degraded, "
        f"{served.joined} joined on the way",
        file=sys.stderr,
    )
    assert wrong == 0
    assert worker.deaths > 2
    assert (served.degraded == 0, not served.failures) == ((True, False) if on_failure == "error" else (False, True))
