"""What a step costs when a member is in a Ray actor on this machine, beside the same member in this process.

    python benchmarks/ray_actors.py [--steps 200] [--rows 49152 262144]

It needs `pip install 'unisono[ray]'`. The model costs nothing: the fake of `benchmarks/elsewhere.py`, so the figures
are what Ray costs. Ways take turns, step by step; the table shows the medians in milliseconds. "by value" is what an
actor on another node would do here: its rows go through Ray's object store.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

import ray

from elsewhere import TEXTS, TOP, loaded, make_fakes, measure
from unisono.backends.base import Backend, ModelSource
from unisono.config.ray import RaySource, RaySpec, ray_source

ROWS = "UNISONO_BENCHMARK_ROWS"


def make_fakes_of_environment() -> None:
    make_fakes(int(os.environ[ROWS]))


def source(top: int | None = None) -> RaySource:
    spec = RaySpec(num_cpus=0.5)
    return ray_source(spec, '{"model": "fake:still"}', Path(), top=top, timeout=60, retries=0)


def backends() -> dict[str, Backend]:
    made = {
        "in process": loaded("fake", ModelSource("fake", "still")),
        "actor": loaded("ray", source()),
        f"actor, top {TOP}": loaded("ray", source(TOP)),
    }
    return {**made, "actor, by value": loaded("ray", source(), memory=False)}


def compare(rows: int, steps: int) -> None:
    make_fakes(rows)
    ways = backends()
    for texts in TEXTS:
        measure(ways, texts, 20)
        found = measure(ways, texts, steps)
        own = statistics.median(found["in process"])
        for name, seconds in found.items():
            low, middle, high = (1e3 * each for each in statistics.quantiles(seconds, n=4))
            print(
                f"{rows:>7} ids, {texts} texts  {name:16} {middle:7.2f} ms ({low:.2f} to {high:.2f})"
                f"  in process + {1e3 * (statistics.median(seconds) - own):.2f} ms",
                flush=True,
            )
    for backend in ways.values():
        backend.unload()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rows", type=int, nargs="+", default=[49_152, 262_144])
    given = parser.parse_args()
    for rows in given.rows:
        with tempfile.TemporaryDirectory(prefix="ur") as folder:
            folders = [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
            os.environ |= {"PYTHONPATH": os.pathsep.join(folders), ROWS: str(rows), "RAY_USAGE_STATS_ENABLED": "0"}
            hook = {"worker_process_setup_hook": "ray_actors.make_fakes_of_environment"}
            ray.init(
                num_cpus=2,
                object_store_memory=200_000_000,
                include_dashboard=False,
                log_to_driver=False,
                runtime_env=hook,
                _temp_dir=folder,
            )
            try:
                compare(rows, given.steps)
            finally:
                ray.shutdown()


if __name__ == "__main__":
    main()
