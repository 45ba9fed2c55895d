"""The engines, as long as the tests run. `make test-engines` installs them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.engine_processes import free_port, llama_server_command, running, worker_command


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "UNISONO_ENGINES" in os.environ:
        return
    skip = pytest.mark.skip(reason="the engines are not installed: make test-engines does it")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def llama_server() -> Iterator[str]:
    """The address of llama-server with SmolLM2."""
    port = free_port()
    with running(llama_server_command(port), f"http://127.0.0.1:{port}/health"):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a worker with Gemma 3."""
    port = free_port()
    command = worker_command(tmp_path_factory.mktemp("worker"), port)
    with running(command, f"http://127.0.0.1:{port}/v1/member"):
        yield f"http://127.0.0.1:{port}"
