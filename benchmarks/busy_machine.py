"""A piece of the ensemble on an idle machine and beside a busy process, by how threads wait for one another.

Usage: python benchmarks/busy_machine.py [--backends NAME …] [--settings NAME=THREADS,SPINS …] [--rounds N] [--out FILE]

The libraries read how long their threads spin when they are loaded: every setting is a process of its own, loaded
on the quiet machine. They take turns, round by round, first alone and then beside a process that only counts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BACKENDS = ("llamacpp", "transformers")
PIECES = {"llamacpp": 32, "transformers": 12}
"""Of one text, timed in a round; the prompt and the first piece are not."""
SETTINGS = {"before": ("", "300000"), "now": ("", ""), "one thread": ("1", "")}
"""Threads and spins of each setting; where nothing is said, what unisono chooses. Before, OpenMP's own choice held."""
THEIRS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "OMP_NUM_THREADS")


def work(backend: str, threads: str) -> None:
    """Load the pair, then write one text for each line of the standard input, and print its pieces' milliseconds."""
    from run import spec
    from unisono.benchmark import TEXTS
    from unisono.build import prepare
    from unisono.config.ensemble import load_spec
    from unisono.loaded_models import load_engine
    from unisono.types import Limits, Prompt

    ensemble: dict[str, Any] = spec(("smol", "gemma"), backend)
    for member in ensemble["members"]:
        member.update({"threads": int(threads)} if threads else {})
    with load_engine(prepare(load_spec(ensemble))) as engine:
        print("ready", flush=True)
        for turn, _ in enumerate(sys.stdin):
            limits = Limits(max_new_tokens=PIECES[backend] + 1)
            text = engine.add(Prompt(text=TEXTS[turn % len(TEXTS)]), limits)
            engine.step()
            took = []
            while text.finish is None:
                began = time.perf_counter()
                engine.step()
                took.append((time.perf_counter() - began) * 1e3)
            engine.drop(text)
            print(json.dumps(took), flush=True)


class Worker:
    """The pair in a process of its own."""

    def __init__(self, backend: str, threads: str, spins: str) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in THEIRS}
        environment |= {"GOMP_SPINCOUNT": spins} if spins else {}
        command = [sys.executable, __file__, "--work", backend, threads]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._out().readline()

    def round(self) -> list[float]:
        """Milliseconds of each piece of one text."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        took: list[float] = json.loads(self._out().readline())
        return took

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _out(self) -> Any:
        return self._process.stdout


@contextlib.contextmanager
def competitor(there: bool) -> Iterator[None]:
    """Beside it, a process that wants a core for itself."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if there else None
    try:
        if process:
            time.sleep(0.3)
        yield
    finally:
        if process:
            process.kill()
            process.wait()


def compare(backend: str, settings: dict[str, tuple[str, str]], rounds: int) -> dict[str, Any]:
    """Every setting, alone and beside a busy process, in turn."""
    took: dict[str, dict[str, list[list[float]]]] = {name: {"idle": [], "busy": []} for name in settings}
    workers = {name: Worker(backend, *setting) for name, setting in settings.items()}
    for turn in range(rounds + 1):
        names = list(settings)[turn % len(settings) :] + list(settings)[: turn % len(settings)]
        for kind in ("idle", "busy"):
            with competitor(kind == "busy"):
                for name in names:
                    pieces = workers[name].round()
                    if turn:
                        took[name][kind].append(pieces)
    for worker in workers.values():
        worker.close()
    return {name: figures(own) for name, own in took.items()}


def figures(took: dict[str, list[list[float]]]) -> dict[str, Any]:
    """Milliseconds a piece: of the median and the worst round, and the worst piece; both rounds over idle ones."""
    shown: dict[str, Any] = {}
    for kind, rounds in took.items():
        means = [statistics.mean(pieces) for pieces in rounds]
        shown[kind] = {"median": statistics.median(means), "worst": max(means), "worst_piece": max(map(max, rounds))}
    idle = shown["idle"]["median"]
    return {**shown, "busy_to_idle": shown["busy"]["median"] / idle, "worst_to_idle": shown["busy"]["worst"] / idle}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--settings", nargs="+", default=[])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", nargs=2)
    asked = parser.parse_args()
    if asked.work:
        work(*asked.work)
        return
    settings = dict(SETTINGS)
    if asked.settings:
        settings = {}
        for each in asked.settings:
            name, _, value = each.partition("=")
            threads, _, spins = value.partition(",")
            settings[name] = (threads, spins)
    from run import machine

    found = {"machine": machine(), "busy_machine": {}}
    for backend in asked.backends:
        found["busy_machine"][backend] = compare(backend, settings, asked.rounds)
        print(json.dumps({backend: found["busy_machine"][backend]}), file=sys.stderr, flush=True)
    text = json.dumps(found, indent=2)
    if asked.out:
        asked.out.write_text(text + "\n")
    else:
        print(text)


if __name__ == "__main__":
    main()
