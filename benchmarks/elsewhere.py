"""What a step costs when a member is behind `unisono member serve`, beside the same member in this process.

    python benchmarks/elsewhere.py [--steps 200] [--rows 262144]

The model costs nothing: a fake whose rows are made beforehand. The worker is a process on this machine, so the figures
are what the wire costs. Ways take turns, step by step; the table shows the medians in milliseconds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unisono.backends.base import Backend, Feed, LoadRequest, ModelSource
from unisono.backends.endpoint.settings import EndpointSource
from unisono.backends.registry import make_loader
from unisono.testing import FakeModel, LongestMatchTokenizer, byte_level_table, register_fake

TEXTS = (1, 8)
TOP = 20


def make_fake(rows: int) -> None:
    made = np.random.default_rng(0).standard_normal((16, rows), np.float32) * 3
    tokenizer = LongestMatchTokenizer(byte_level_table())
    register_fake("still", FakeModel(tokenizer, lambda read: made[len(read) % 16], rows=rows))


@contextlib.contextmanager
def worker(rows: int) -> Iterator[str]:
    """A worker in a process of its own; yields its address."""
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "still.yaml"
        spec.write_text("members: [{name: still, model: 'fake:still'}]")
        command = [sys.executable, __file__, "--serve", str(spec), "--rows", str(rows)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        try:
            assert process.stderr is not None
            port = None
            for line in process.stderr:
                told = json.loads(line)
                port = told.get("port", port)
                if told["event"] == "ready":
                    break
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def loaded(name: str, source: ModelSource) -> Backend:
    return make_loader(name, LoadRequest("still", source, slots=max(TEXTS))).load(lambda fraction, words: None)


def measure(backends: dict[str, Backend], texts: int, steps: int) -> dict[str, list[float]]:
    """Seconds of each step, by way; the ways take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in backends}
    slots = {name: [backend.open() for _ in range(texts)] for name, backend in backends.items()}
    for _ in range(steps):
        for name, backend in backends.items():
            began = time.perf_counter()
            backend.advance([Feed(slot, [7]) for slot in slots[name]])
            seconds[name].append(time.perf_counter() - began)
    for name, backend in backends.items():
        for slot in slots[name]:
            backend.close(slot)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rows", type=int, default=262_144)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    make_fake(given.rows)
    if given.serve:
        sys.argv = ["unisono", "member", "serve", given.serve, "--member", "still", "--port", "0", "--slots", "64"]
        from unisono.cli.main import main as unisono

        unisono()
        return
    with worker(given.rows) as url:
        backends = {
            "in process": loaded("fake", ModelSource("fake", "still")),
            "worker": loaded("endpoint", EndpointSource("endpoint", url)),
            f"worker, top {TOP}": loaded("endpoint", EndpointSource("endpoint", url, top=TOP)),
        }
        for texts in TEXTS:
            measure(backends, texts, 20)
            found = measure(backends, texts, given.steps)
            own = statistics.median(found["in process"])
            for name, seconds in found.items():
                low, middle, high = (1e3 * each for each in statistics.quantiles(seconds, n=4))
                print(
                    f"{texts} texts  {name:16} {middle:7.2f} ms ({low:.2f} to {high:.2f})"
                    f"  in process + {1e3 * (statistics.median(seconds) - own):.2f} ms"
                )
        for backend in backends.values():
            backend.unload()


if __name__ == "__main__":
    main()
