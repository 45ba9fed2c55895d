"""``unisono serve --ray``: it serves until a signal, and says why it cannot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from ray.cluster_utils import Cluster

from support import ray_clusters
from support.engine_processes import SMOL, await_health, free_port

pytestmark = pytest.mark.models
PROXY = "ray::ProxyActor"
MEMBER = f"{{name: smol, model: '{SMOL}', backend: llamacpp, threads: 1, context: 512}}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with ray_clusters.cluster() as made:
        yield made


def command(cluster: Cluster, spec: Path, port: int) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "unisono", "serve", str(spec), "--ray", "--port", str(port)]
    environment = {**os.environ, "RAY_ADDRESS": cluster.address}
    return subprocess.Popen(words, stderr=subprocess.PIPE, env=environment)


def test_it_serves_until_a_signal_even_if_its_first_proxy_does_not_start(cluster: Cluster, tmp_path: Path) -> None:
    """On a busy machine Serve itself ends proxies that take long to start."""
    spec, port = tmp_path / "one.yaml", free_port()
    spec.write_text(f"members: [{MEMBER}]")
    process = command(cluster, spec, port)
    try:
        ray_clusters.until(lambda: bool(ray_clusters.processes(PROXY)))
        ray_clusters.kill(ray_clusters.processes(PROXY)[0])
        await_health(f"http://127.0.0.1:{port}/ready", process)
        body = {"model": "one", "prompt": "The history of", "max_tokens": 4}
        answer = httpx2.post(f"http://127.0.0.1:{port}/v1/completions", json=body, timeout=60)
        assert answer.json()["usage"]["completion_tokens"] == 4
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


def test_a_model_that_is_not_there_is_said_without_a_traceback(cluster: Cluster, tmp_path: Path) -> None:
    spec = tmp_path / "lost.yaml"
    spec.write_text("members: [{name: lost, model: lost.gguf}]")
    process = command(cluster, spec, free_port())
    _, told = process.communicate(timeout=200)
    assert process.returncode == 2
    [said] = [line for line in told.decode().splitlines() if "the application does not start" in line]
    assert "the model of member 'lost'" in said
    assert "lost.gguf', does not exist" in said
