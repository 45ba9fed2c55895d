"""A worker on another host that is killed, frozen, cut off and restarted, while texts are written here."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from support import hosts
from support.engine_processes import SMOL, await_health, worker_command
from unisono import Ensemble
from unisono.config.ensemble import load_spec
from unisono.errors import MemberUnavailable
from unisono.types import Generation

REFUSAL = hosts.refusal()
pytestmark = [pytest.mark.models, pytest.mark.skipif(REFUSAL is not None, reason=REFUSAL or "")]
PORT, TOKEN = 8100, "a-token-of-these-tests"
PROMPT = "The history of the lighthouse began when"


class Far:
    """A worker with Gemma 3 on another host. ``key`` is the environment variable with its token."""

    def __init__(self, host: hosts.Host, folder: Path) -> None:
        self.host = host
        self.url = f"http://{host.address}:{PORT}"
        self._folder = folder
        self.start()

    def start(self) -> None:
        command = [*worker_command(self._folder, PORT, host=self.host.address), "--token-env", "FAR_TOKEN", "--idle", 5]
        self.process = subprocess.Popen(self.host.command([str(word) for word in command]), stderr=subprocess.DEVNULL)
        await_health(self.url + "/health", self.process)
        deadline = time.monotonic() + 120
        while self.get("/v1/member").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def get(self, path: str) -> httpx2.Response:
        return httpx2.get(self.url + path, headers={"authorization": f"Bearer {TOKEN}"}, timeout=5)

    def metric(self, name: str) -> float:
        return sum(float(line.split()[-1]) for line in self.get("/metrics").text.splitlines() if line.startswith(name))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    os.environ["FAR_TOKEN"] = TOKEN
    with hosts.host() as host:
        worker = Far(host, tmp_path_factory.mktemp("far"))
        yield worker
        worker.kill()
    del os.environ["FAR_TOKEN"]


def pair(far: Far, **keys: Any) -> dict[str, Any]:
    gemma = {"name": "gemma", "backend": "endpoint", "url": far.url, "api_key_env": "FAR_TOKEN", "timeout": 1.0}
    return {"members": [{"name": "smol", "model": SMOL, "threads": 1}, {**gemma, **keys}]}


def written_meanwhile(ensemble: Ensemble, fault: contextlib.AbstractContextManager[object] | None, far: Far) -> str:
    """A text that goes through a fault after its first pieces."""
    stream = ensemble.stream(PROMPT, max_new_tokens=30)
    with contextlib.ExitStack() as held:
        for number, _ in enumerate(stream):
            if number == 3:
                far.kill() if fault is None else held.enter_context(fault)
    generation = stream.generation
    assert generation is not None
    check_degraded(generation)
    return generation.text


def check_degraded(generation: Generation) -> None:
    degraded = generation.usage.degraded or {}
    assert 0 < degraded["gemma"] < generation.usage.pieces + 1, generation.usage


def whole(ensemble: Ensemble, far: Far, seconds: float = 90) -> str:
    """What is written when the member is back."""
    deadline = time.monotonic() + seconds
    while True:
        generation = ensemble.generate(PROMPT, max_new_tokens=30)
        if not generation.usage.degraded:
            return generation.text
        assert time.monotonic() < deadline, generation.usage
        time.sleep(0.5)


def test_texts_go_on_without_a_member_that_is_cut_off_frozen_or_killed(far: Far) -> None:
    with Ensemble.load(load_spec(pair(far, on_failure="degrade"))) as ensemble:
        expected = whole(ensemble, far)
        for fault in (far.host.unplugged(), far.frozen(), None):
            written_meanwhile(ensemble, fault, far)
            if fault is None:
                far.start()
            assert whole(ensemble, far) == expected


def test_an_error_names_member_address_and_reason(far: Far) -> None:
    with Ensemble.load(load_spec(pair(far))) as ensemble:
        expected = ensemble.generate(PROMPT, max_new_tokens=8).text
        with far.frozen(), pytest.raises(MemberUnavailable, match=r"gemma.*10\.\d+.*within 1 s"):
            ensemble.generate(PROMPT, max_new_tokens=30)
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(MemberUnavailable):
                assert ensemble.generate(PROMPT, max_new_tokens=8).text == expected
                return
            assert time.monotonic() < deadline
            time.sleep(0.5)


def test_a_wrong_token_is_refused(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAR_TOKEN", "another-token-of-tests")
    with pytest.raises(MemberUnavailable, match="401"):
        Ensemble.load(load_spec(pair(far)))


def test_a_coordinator_that_is_killed_leaves_no_session(far: Far, tmp_path: Path) -> None:
    spec = tmp_path / "pair.yaml"
    spec.write_text(str(pair(far)))
    command = [sys.executable, "-m", "unisono", "run", str(spec), "--raw", "--max-new-tokens", "2000", PROMPT]
    coordinator = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert coordinator.stdout is not None
    killer = threading.Timer(120, coordinator.kill)
    killer.start()
    assert coordinator.stdout.read(20)
    killer.cancel()
    assert far.metric("unisono_worker_slots_taken") >= 1
    coordinator.kill()
    coordinator.communicate()
    deadline = time.monotonic() + 30
    while far.metric("unisono_worker_slots_taken"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
