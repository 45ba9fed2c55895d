"""A worker on another host, a network namespace, whose cable is pulled. It wants the rights of an administrator."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from support import hosts
from support.dying_worker import KEY, NEAR, TOKEN, DyingWorker
from support.fakes import PROMPTS, make_fakes
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.engine import circuit_breaker
from unisono.ensemble import Ensemble
from unisono.errors import MemberUnavailable

REFUSAL = hosts.refusal()
pytestmark = pytest.mark.skipif(REFUSAL is not None, reason=REFUSAL or "")


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[DyingWorker]:
    monkeypatch.setenv(KEY, TOKEN)
    monkeypatch.setattr(circuit_breaker, "SPARED", 0.0)
    monkeypatch.setattr(circuit_breaker, "FIRST", 0.05)
    monkeypatch.setattr(circuit_breaker, "LONGEST", 0.05)
    make_fakes()
    with hosts.host() as host:
        worker = DyingWorker(host)
        worker.start()
        worker.await_ready()
        yield worker
        worker.kill()
    FAKE_MODELS.clear()


def test_a_pulled_cable_fails_by_name_or_degrades_and_is_plugged_in_again(worker: DyingWorker) -> None:
    assert worker.host is not None
    errs, goes_on = worker.spec(timeout=0.3), worker.spec(timeout=0.3, on_failure="degrade")
    with (
        Ensemble.load({"members": [NEAR, errs]}) as strict,
        Ensemble.load({"members": [NEAR, goes_on]}) as lenient,
    ):
        expected = strict.generate(PROMPTS[0], max_new_tokens=8).text
        with worker.host.unplugged():
            with pytest.raises(MemberUnavailable, match=rf"'b' at {worker.url} .* within 0.3 s"):
                strict.generate(PROMPTS[1], max_new_tokens=8)
            away = lenient.generate(PROMPTS[2], max_new_tokens=8)
            assert (away.usage.degraded or {})["b"] >= away.usage.pieces
        deadline = time.monotonic() + 20
        while (back := lenient.generate(PROMPTS[0], max_new_tokens=8)).usage.degraded:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert back.text == expected
