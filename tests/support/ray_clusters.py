"""Clusters of Ray on this machine, of one raylet or several, whose workers know the fakes."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

NODE = {"num_cpus": 2, "object_store_memory": 200_000_000}
HOOK = {"worker_process_setup_hook": "support.fakes.make_fakes"}


@contextlib.contextmanager
def cluster(**head: Any) -> Iterator[Cluster]:
    """A cluster that this process has joined."""
    made = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False, **head})
    try:
        ray.init(made.address, namespace="unisono", log_to_driver=False, runtime_env=HOOK)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def processes(title: str) -> list[int]:
    """The processes of this machine whose title begins so, as Ray gives them to its actors."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                if (folder / "cmdline").read_bytes().startswith(title.encode()):
                    found.append(int(folder.name))
    return found


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def until(truth: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not truth():
        assert time.monotonic() < deadline
        time.sleep(0.2)
