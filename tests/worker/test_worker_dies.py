"""A worker, a process of its own, is killed and started again, or frozen: no request is lost, none is wrong."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Literal

import pytest

from support.dying_worker import NEAR, DyingWorker, Served, count_wrong, serve_requests
from support.fakes import PROMPTS, make_fakes
from unisono.backends.endpoint import caller
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.engine import circuit_breaker
from unisono.ensemble import Ensemble
from unisono.errors import MemberUnavailable

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


def be_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask again soon whoever was lost."""
    monkeypatch.setattr(circuit_breaker, "FIRST", 0.05)
    monkeypatch.setattr(circuit_breaker, "LONGEST", 0.1)
    monkeypatch.setattr(caller, "_AWAY", 0.05)


@pytest.mark.parametrize("on_failure", ["error", "degrade"])
def test_60_requests_with_a_worker_that_dies(
    on_failure: Literal["error", "degrade"], worker: DyingWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_quick(monkeypatch)

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


def test_a_frozen_worker_fails_by_name_or_degrades_and_is_asked_again_when_it_goes_on(
    worker: DyingWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_quick(monkeypatch)
    monkeypatch.setattr(circuit_breaker, "SPARED", 0.0)
    errs, goes_on = worker.spec(timeout=0.3), worker.spec(timeout=0.3, on_failure="degrade")
    with (
        Ensemble.load({"members": [NEAR, errs]}) as strict,
        Ensemble.load({"members": [NEAR, goes_on]}) as lenient,
    ):
        expected = strict.generate(PROMPTS[0], max_new_tokens=12).text
        stream = lenient.stream(PROMPTS[0], max_new_tokens=12)
        with contextlib.ExitStack() as held:
            for number, _ in enumerate(stream):
                if number == 2:
                    held.enter_context(worker.frozen())
            assert stream.generation is not None
            assert 0 < (stream.generation.usage.degraded or {})["b"] <= stream.generation.usage.pieces
            with pytest.raises(MemberUnavailable, match=rf"'b' at {worker.url} .* within 0.3 s"):
                strict.generate(PROMPTS[0], max_new_tokens=12)
        deadline = time.monotonic() + 20
        while (back := lenient.generate(PROMPTS[0], max_new_tokens=12)).usage.degraded:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert back.text == expected


def test_a_worker_that_is_slow_and_in_time_is_waited_for(worker: DyingWorker) -> None:
    with Ensemble.load({"members": [NEAR, worker.spec(timeout=20, on_failure="degrade")]}) as ensemble:
        expected = ensemble.generate(PROMPTS[0], max_new_tokens=12).text
        began, stream = time.monotonic(), ensemble.stream(PROMPTS[0], max_new_tokens=12)
        with contextlib.ExitStack() as held:
            for number, _ in enumerate(stream):
                if number == 2:
                    held.enter_context(worker.frozen())
                    threading.Timer(0.3, held.close).start()
        assert time.monotonic() - began >= 0.3
        assert stream.generation is not None
        assert (stream.generation.text, stream.generation.usage.degraded) == (expected, None)
